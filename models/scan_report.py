"""What a look at a data set found, before anything is learnt from it: counts, copies, leaks, contradictions.

A value that is JSON in an artifact (`data.json`), lines for a person, and the answer of `python -m training scan`. Decides
nothing: what is left out was left out by `Dataset`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar

from pydantic import Field

from models.dataset import SPLITS, Item, Split
from models.frozen import Frozen, parse_json
from models.manifest import Sha256, canonical_json
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from models.dataset import Dataset, Skipped

SCAN_REPORT = "data.json"
MOST_LISTED = 500
_NAMED = 3

T = TypeVar("T")


class Listed(Frozen, Generic[T]):
    """How many there are, and the first of them, in order of path: a report stays readable and small."""

    count: int = Field(ge=0)
    first: tuple[T, ...] = Field(max_length=MOST_LISTED)

    @classmethod
    def of(cls, entries: Iterable[T]) -> Self:
        """Count all, keep the first."""
        every = tuple(entries)
        return cls(count=len(every), first=every[:MOST_LISTED])


class LeftOut(Frozen):
    """A file that is not used, by its path below the data set's folder, and why."""

    file: str
    reason: str


class Leaked(Frozen):
    """A file that was left out of its split because a stricter one holds a copy."""

    kind: Literal["exact", "near"]
    file: str
    split: Split
    copy_of: str
    copy_split: Split


class HeldOut(Frozen):
    """A file that was left out since the model's held-out set has it, or nearly the same image."""

    kind: Literal["exact", "near"]
    file: str


class Labelled(Frozen):
    """A file with what it is said to show: one label, several, or a number."""

    file: str
    label: str | float | tuple[str, ...]


class Conflict(Frozen):
    """Copies of one image that are said to show different things; at most one of them is right."""

    kind: Literal["exact", "near"]
    files: tuple[Labelled, ...]


class Values(Frozen):
    """The numbers that a regression has in a split."""

    lowest: float
    mean: float
    highest: float


class SplitCounts(Frozen):
    """Images in a split, and of each label; of several labels an image counts for each. A regression has `values`."""

    images: int = Field(ge=1)
    labels: dict[str, int]
    values: Values | None


class ScanReport(Frozen):
    """Everything that was found. Paths are below the data set's folder, so that the report may go where the model goes.

    Attributes:
        files: Images that were found and labelled, readable or not, used or not.
        given: The splits that the layout gives; the others were drawn.
        seed: By which they were drawn.
        skipped: What was no image, or had no label, or could not be opened.
        unreadable: Images that do not decode.
        exact_copies: Groups of files of one split with equal bytes.
        near_copies: Groups of files of one split with nearly equal pixels; equal bytes may be among them.
        leaks: Images that were left out because a stricter split holds a copy.
        held_out: Images that were left out since the model's held-out set has them.
        conflicts: Copies with different labels, whatever their splits; of numbers, only exact copies.
        notes: What was decided by looking at the data.
    """

    schema_version: Literal[1]
    task: Task
    labels: tuple[str, ...]
    fingerprint: Sha256
    files: int = Field(ge=0)
    given: tuple[Split, ...]
    seed: int | None
    splits: dict[Split, SplitCounts]
    skipped: Listed[LeftOut]
    unreadable: Listed[LeftOut]
    exact_copies: Listed[tuple[str, ...]]
    near_copies: Listed[tuple[str, ...]]
    leaks: Listed[Leaked]
    held_out: Listed[HeldOut]
    conflicts: Listed[Conflict]
    notes: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys: equal reports are equal bytes."""
        return canonical_json(self)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `data.json`.

        Raises:
            ManifestError: If a key is missing, unknown or out of range.
        """
        return parse_json(cls, data, "data.{}".format, "")

    def lines(self) -> list[str]:
        """The report in words, shortest first; nothing about what was not found."""
        used = ", ".join(f"{split} {self.splits[split].images}" for split in SPLITS if split in self.splits)
        lines = [f"{self.files} images, {self._learnt()}: {used}{self._drawn()}", *self.notes]
        lines += _named(self.skipped, "files left out", lambda entry: f"{entry.file}: {entry.reason}")
        lines += _named(self.unreadable, "images that do not decode", lambda entry: f"{entry.file}: {entry.reason}")
        lines += _named(
            self.leaks,
            "images left out, since a stricter split has a copy",
            lambda leak: f"{leak.file} is {'' if leak.kind == 'exact' else 'nearly '}{leak.copy_of}",
        )
        lines += _named(
            self.held_out,
            "images left out, since they are equal or nearly equal to held-out ones",
            lambda one: f"{one.file}{'' if one.kind == 'exact' else ' (nearly)'}",
        )
        for kind, groups in (("equal", self.exact_copies), ("nearly equal", self.near_copies)):
            lines += _named(groups, f"groups of {kind} images, each in one split", lambda files: ", ".join(files[:_NAMED]))
        return lines + _named(
            self.conflicts,
            "groups of copies with different labels, of which one at most is right",
            lambda conflict: ", ".join(f"{entry.file} is {_words(entry.label)}" for entry in conflict.files[:_NAMED]),
        )

    def _learnt(self) -> str:
        if self.task == "regression":
            return f"values of {self.labels[0]}"
        totals: Counter[str] = Counter(dict.fromkeys(self.labels, 0))
        for counts in self.splits.values():
            totals.update(counts.labels)
        fewest, most = min(totals, key=totals.__getitem__), max(totals, key=totals.__getitem__)
        if totals[fewest] == totals[most]:
            return f"{len(self.labels)} labels of {totals[most]} each"
        return f"{len(self.labels)} labels of {totals[fewest]} ({fewest}) to {totals[most]} ({most})"

    def _drawn(self) -> str:
        drawn = [split for split in SPLITS if split in self.splits and split not in self.given]
        if not drawn:
            return ""
        return f"; {'all' if not self.given else ' and '.join(drawn)} drawn with seed {self.seed}"


def _words(label: str | float | tuple[str, ...]) -> str:
    return " and ".join(label) if isinstance(label, tuple) else str(label)


def _named(listed: Listed[T], what: str, words: Callable[[T], str]) -> list[str]:
    if not listed.count:
        return []
    more = [f"  and {listed.count - _NAMED} more"] if listed.count > _NAMED else []
    return [f"{what}: {listed.count}", *(f"  {words(entry)}" for entry in listed.first[:_NAMED]), *more]


def describe_dataset(dataset: Dataset, unreadable: Sequence[Skipped], copies: Mapping[str, str]) -> ScanReport:
    """Report on a data set as it will be trained on.

    Args:
        dataset: After `without` and `together`.
        unreadable: Those of its skipped files that do not decode.
        copies: The digest of every image that nearly equals another, to the name of its group.
    """
    left = [*(leak.item for leak in dataset.leaks), *(one.item for one in dataset.withheld)]
    gone = {entry.path for entry in unreadable} | {item.path for item in left}
    every = sorted((*dataset.items, *left), key=lambda item: item.path)

    groups = _groups(dataset.items, copies)

    def files(group: Sequence[Item]) -> tuple[str, ...]:
        return tuple(_below(dataset, item) for item in group)

    def left_out(entries: Iterable[Skipped]) -> Listed[LeftOut]:
        ordered = sorted(entries, key=lambda entry: entry.path)
        return Listed[LeftOut].of(LeftOut(file=_below(dataset, entry), reason=entry.reason) for entry in ordered)

    return ScanReport(
        schema_version=1,
        task=dataset.task,
        labels=dataset.labels,
        fingerprint=dataset.fingerprint(),
        files=len(every) + len(unreadable),
        given=tuple(split for split in SPLITS if dataset.draw is None or split in dataset.draw.given),
        seed=None if dataset.draw is None else dataset.draw.seed,
        splits={split: _counts(dataset, items) for split in SPLITS if (items := dataset.of(split))},
        skipped=left_out(entry for entry in dataset.skipped if entry.path not in gone),
        unreadable=left_out(unreadable),
        exact_copies=Listed[tuple[str, ...]].of(files(group) for group in groups if _is_exact(group)),
        near_copies=Listed[tuple[str, ...]].of(files(group) for group in groups if not _is_exact(group)),
        leaks=Listed[Leaked].of(
            Leaked(
                kind=leak.kind,
                file=_below(dataset, leak.item),
                split=leak.item.split,
                copy_of=_below(dataset, leak.kept),
                copy_split=leak.kept.split,
            )
            for leak in sorted(dataset.leaks, key=lambda leak: leak.item.path)
        ),
        held_out=Listed[HeldOut].of(HeldOut(kind=one.kind, file=_below(dataset, one.item)) for one in dataset.withheld),
        conflicts=Listed[Conflict].of(_conflicts(dataset, every, copies)),
        notes=dataset.notes,
    )


def _below(dataset: Dataset, entry: Item | Skipped) -> str:
    """The path below the root; a name that is not UTF-8 is spelt with escapes."""
    return entry.path.relative_to(dataset.root).as_posix().encode(errors="backslashreplace").decode()


def _counts(dataset: Dataset, items: Sequence[Item]) -> SplitCounts:
    if dataset.task == "regression":
        numbers = [item.target for item in items if isinstance(item.target, float)]
        values = Values(lowest=min(numbers), mean=sum(numbers) / len(numbers), highest=max(numbers))
        return SplitCounts(images=len(items), labels={}, values=values)
    counts = Counter(dict.fromkeys(dataset.labels, 0))
    for item in items:
        target = item.target if isinstance(item.target, tuple) else (int(item.target),)
        counts.update(dataset.labels[index] for index in target)
    return SplitCounts(images=len(items), labels=dict(counts), values=None)


def _groups(items: Iterable[Item], copies: Mapping[str, str]) -> list[list[Item]]:
    """Items that are copies of one another, those without a copy left out."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[copies.get(item.digest, item.digest)].append(item)
    return [group for group in groups.values() if len(group) > 1]


def _is_exact(group: Sequence[Item]) -> bool:
    return len({item.digest for item in group}) == 1


def _conflicts(dataset: Dataset, items: Iterable[Item], copies: Mapping[str, str]) -> Iterator[Conflict]:
    """Numbers of nearly equal images may well differ a little: only equal bytes contradict each other there."""
    for group in _groups(items, {} if dataset.task == "regression" else copies):
        if len({item.target for item in group}) > 1:
            yield Conflict(
                kind="exact" if _is_exact(group) else "near",
                files=tuple(Labelled(file=_below(dataset, item), label=_label(dataset, item)) for item in group),
            )


def _label(dataset: Dataset, item: Item) -> str | float | tuple[str, ...]:
    if isinstance(item.target, tuple):
        return tuple(dataset.labels[index] for index in item.target)
    return item.target if isinstance(item.target, float) else dataset.labels[item.target]
