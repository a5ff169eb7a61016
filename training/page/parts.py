"""What a page is made of: sections of tables, plots, albums of pictures, and text. Knows nothing of models or of HTML."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.review_schema import Estimate, Rate

NBSP = "\N{NO-BREAK SPACE}"
# Pictures beyond this are left out of the page: with everything else it stays under 10 MB.
MOST_PICTURE_BYTES = 7_000_000


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    is_note: bool = False


@dataclass(frozen=True)
class Range:
    """A value with its interval, as a cell: in figures, and as a mark on a line from 0 to 1."""

    text: str
    low: float
    value: float
    high: float


Cell = str | Range


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of a row is its header. `text_columns` are set to the left, numbers to the right."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()
    text_columns: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Plot:
    """A PNG in a light and in a dark theme, `width_px` wide where there is room for it."""

    kind: ClassVar[str] = "plot"
    name: str
    alt: str
    caption: str
    width_px: int
    light: bytes
    dark: bytes

    def sources(self) -> tuple[str, str]:
        """Both as data URIs."""
        return data_uri(self.light, "png"), data_uri(self.dark, "png")


@dataclass(frozen=True)
class Card:
    """One image: two lines about it, and where it lies. `source` is a data URI, if there is a picture."""

    source: str | None
    first: str
    second: str
    path: str
    is_wrong: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Album:
    """Images under a heading."""

    kind: ClassVar[str] = "album"
    title: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Fold:
    """Parts that are shown on demand."""

    kind: ClassVar[str] = "fold"
    title: str
    note: str
    parts: tuple[Part, ...]
    is_open: bool = False


@dataclass(frozen=True)
class Beside:
    """Parts that stand beside each other where there is room."""

    kind: ClassVar[str] = "beside"
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Bullets:
    """Short sentences, one under another."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


Part = Text | Bullets | Table | Plot | Album | Fold | Beside


@dataclass(frozen=True)
class Section:
    """A heading that can be linked to, and what stands under it."""

    anchor: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tile:
    """One number of the first screen."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Page:
    """All of it. `lead` is the one sentence on how good, `sentences` say how far to trust that."""

    title: str
    subtitle: str
    lead: str
    sentences: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]

    def plots(self) -> list[Plot]:
        """Every plot on the page."""
        return [part for section in self.sections for part in _flat(section.parts) if isinstance(part, Plot)]


def _flat(parts: Sequence[Part]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        found.append(part)
        if isinstance(part, Fold | Beside):
            found += _flat(part.parts)
    return found


@dataclass
class Pictures:
    """Thumbnails as data URIs, until the page has as many as it may carry."""

    read: Callable[[str], bytes | None]
    left_bytes: int = MOST_PICTURE_BYTES
    left_out: int = 0
    _known: dict[str, str] = field(default_factory=dict)

    def source(self, image_id: str) -> str | None:
        """The picture of an image, if there is one and there is room for it."""
        if image_id not in self._known:
            data = self.read(image_id)
            self._known[image_id] = data_uri(data, "jpeg") if data else ""
        uri = self._known[image_id]
        if len(uri) > self.left_bytes:
            self.left_out += 1
            return None
        self.left_bytes -= len(uri)
        return uri or None


def data_uri(data: bytes, kind: str) -> str:
    """An image that needs no file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def percent(share: float, digits: int = 1) -> str:
    """A share for people; what is nearly all or nearly nothing is not rounded to it."""
    step = 10.0**-digits
    value = 100 * share
    if 0 < value < step:
        return f"<{step:.{digits}f}{NBSP}%"
    if 100 - step < value < 100:
        return f">{100 - step:.{digits}f}{NBSP}%"
    return f"{value:.{digits}f}{NBSP}%"


def points(share: float) -> str:
    """A difference between shares."""
    return f"{100 * share:.1f}"


def between(rate: Rate | Estimate) -> str:
    """An interval, in per cent."""
    return f"{100 * rate.low:.1f}\N{EN DASH}{100 * rate.high:.1f}{NBSP}%"


def ranged(rate: Rate | Estimate | None) -> Cell:
    """A rate as a cell."""
    if rate is None:
        return "\N{EN DASH}"
    return Range(
        f"{100 * rate.value:.1f} ({100 * rate.low:.0f}\N{EN DASH}{100 * rate.high:.0f})", rate.low, rate.value, rate.high
    )


def number(value: float) -> str:
    """A number in a unit of its own: three digits that count, or all before the point."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def sentence(reason: str) -> str:
    """A reason as an artifact has it, such as `the data has no test split`, as a sentence."""
    return f"{reason[:1].upper()}{reason[1:]}."


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 image`, `1,000 images`."""
    return f"{count:,}{NBSP}{one if count == 1 else many or one + 's'}"
