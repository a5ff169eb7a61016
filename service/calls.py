"""A request to an inference route, understood: images, and every parameter in its range, before anything is computed.

Parameters may stand in the query or beside the images, and the query wins. A form sends texts, JSON sends values; both are
read. What is not known is refused, with what is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from models.confidence.case import DEFAULT_LEVEL
from service.errors import BadRequestError, EmptyBodyError
from service.inputs import is_raw_body, read_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

    from service.inputs import Body, BodyLimits, ImageOrError

MAX_TOP_K = 1000
DEFAULT_TOP_K = 5
MAX_NEIGHBORS = 20
DEFAULT_NEIGHBORS = 5
# A set that is to miss the true label less than once in a thousand takes a thousand calibration images of each label.
MAX_LEVEL = 0.999
# How long the caller waits, in milliseconds: what it would no longer hear is not computed.
DEADLINE_HEADER = "x-request-timeout-ms"
MAX_DEADLINE_MS = 3_600_000
Expect = Callable[[str | None], object]
HeatmapForm = Literal["grid", "png", "none"]
# What BentoML's client and a form send for a parameter that was left out.
_ABSENT = (None, "", "null")


@dataclass(frozen=True)
class ClassifyCall:
    """A request to `/classify`.

    Attributes:
        images: At least one.
        model: `name` or `name:N`; None for the default.
        top_k: Labels to answer for each image.
        is_raw: Whether probabilities are to be as the network states them.
        has_trust: Whether results are to say how far to believe them.
        deadline_s: When the caller stops waiting.
    """

    images: tuple[ImageOrError, ...]
    model: str | None
    top_k: int
    is_raw: bool
    has_trust: bool
    deadline_s: float = math.inf

    @property
    def is_single(self) -> bool:
        """One image: what is wrong with it is the answer's status."""
        return len(self.images) == 1


@dataclass(frozen=True)
class ExplainCall:
    """A request to `/explain-confidence`; fields as in `models.confidence.case.Ask`, with `versus` by name."""

    image: ImageOrError
    model: str | None
    confidence_level: float
    top_k: int
    neighbors: int
    heatmap: HeatmapForm
    versus: str | None
    deadline_s: float = math.inf


async def read_classify(request: Request, limits: BodyLimits, expect: Expect) -> ClassifyCall:
    """Read a request to `/classify`.

    Args:
        request: Its body has not been read.
        limits: What the body may hold.
        expect: Called with the model that is asked for as soon as it is known, which for a raw body is before it is read.

    Raises:
        ServiceError: As `inputs.read_body` and `expect`; BadRequestError also if a parameter is unknown or malformed, or there
            are too many images; EmptyBodyError if there is none.
    """
    left_s = time_left(request.headers.get(DEADLINE_HEADER))
    _expect_early(request, expect)
    body = await read_body(request, limits)
    call = classify_call(request.query_params, body.fields)
    if len(body.images) > limits.max_images:
        raise BadRequestError(f"the request holds {len(body.images)} images; at most {limits.max_images} are accepted")
    _require_image(body)
    return replace(call, images=tuple(body.images), deadline_s=left_s())


def classify_call(query: Mapping[str, str], fields: Mapping[str, Any]) -> ClassifyCall:
    """What is asked of images that are yet to come.

    Raises:
        BadRequestError: If a parameter is unknown or malformed.
    """
    given = parameters(query, fields, ("model", "top_k", "raw", "trust"))
    return ClassifyCall(
        images=(),
        model=_text("model", given.get("model"), "a name, or name:version"),
        top_k=_top_k(given),
        is_raw=_flag("raw", given.get("raw"), default=False),
        has_trust=_flag("trust", given.get("trust"), default=True),
    )


async def read_explain(request: Request, limits: BodyLimits, expect: Expect) -> ExplainCall:
    """Read a request to `/explain-confidence`.

    Raises:
        ServiceError: As `read_classify`; BadRequestError also if there are several images.
    """
    left_s = time_left(request.headers.get(DEADLINE_HEADER))
    _expect_early(request, expect)
    body = await read_body(request, limits)
    known = ("model", "confidence_level", "top_k", "neighbors", "heatmap", "versus")
    given = parameters(request.query_params, body.fields, known)
    if len(body.images) > 1:
        raise BadRequestError(f"the request holds {len(body.images)} images, and one is explained at a time; send each by itself")
    _require_image(body)
    return ExplainCall(
        image=body.images[0],
        model=_text("model", given.get("model"), "a name, or name:version"),
        confidence_level=_level(given.get("confidence_level")),
        top_k=_top_k(given),
        neighbors=integer("neighbors", given.get("neighbors"), DEFAULT_NEIGHBORS, 0, MAX_NEIGHBORS),
        heatmap=_heatmap(given.get("heatmap")),
        versus=_text("versus", given.get("versus"), "a label of the model"),
        deadline_s=left_s(),
    )


def _expect_early(request: Request, expect: Expect) -> None:
    """Of a raw body all that is not the image is in the head, so what cannot be answered need not be read."""
    if is_raw_body(request):
        expect(_text("model", request.query_params.get("model"), "a name, or name:version"))


def time_left(given: str | None) -> Callable[..., float]:
    """What tells, whenever it is called, how many seconds the caller still waits; 0 when that is over.

    Infinity where `given`, the header's value, is None. An argument is a second bound, of which the sooner holds; both count from
    this call on, for the time in which the body comes is the caller's waiting too.

    Raises:
        BadRequestError: If what it says is no number of milliseconds.
    """
    came, deadline_s = time.monotonic(), math.inf
    if given is not None:
        if not given.isdecimal() or len(given) > len(str(MAX_DEADLINE_MS)) or not 1 <= int(given) <= MAX_DEADLINE_MS:
            raise BadRequestError(f"{DEADLINE_HEADER} is {given!r:.80}, expected milliseconds from 1 to {MAX_DEADLINE_MS}")
        deadline_s = int(given) / 1000
    return lambda within_s=math.inf: max(0.0, min(deadline_s, within_s) - (time.monotonic() - came))


def parameters(query: Mapping[str, str], fields: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """What stands in the query, or beside the images in `fields`; the query wins.

    Raises:
        BadRequestError: If one is unknown.
    """
    # A parameter without a value was left out, and does not hide the one in the body.
    given = {**fields, **{name: value for name, value in query.items() if value}}
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise BadRequestError(f"{unknown[0]!r:.80} is not a parameter; known are {', '.join(known)}")
    return given


def _require_image(body: Body) -> None:
    if not body.images:
        raise EmptyBodyError("there is no image in the body; send one as it is, as multipart parts named image, or as JSON")


def _text(name: str, value: Any, expected: str) -> str | None:
    if value in _ABSENT:
        return None
    if not isinstance(value, str):
        raise BadRequestError(f"{name} is {value!r:.80}, expected {expected}")
    return value


def _top_k(given: dict[str, Any]) -> int:
    return integer("top_k", given.get("top_k"), DEFAULT_TOP_K, 1, MAX_TOP_K)


def integer(name: str, value: Any, default: int, least: int, most: int) -> int:
    """A whole number, as JSON or as a form sends it; `default` where it was left out.

    Raises:
        BadRequestError: If it is none, or out of range.
    """
    if value in _ABSENT:
        return default
    expected = f"expected an integer from {least} to {most}"
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("not an integer")
        number = int(value)
    except ValueError as err:
        raise BadRequestError(f"{name} is {value!r:.80}, {expected}") from err
    if not least <= number <= most:
        raise BadRequestError(f"{name} is {number!r:.80}, {expected}")
    return number


def _level(value: Any) -> float:
    if value in _ABSENT:
        return DEFAULT_LEVEL
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("not a number")
        number = float(value)
    except (ValueError, OverflowError) as err:
        raise BadRequestError(f"confidence_level is {value!r:.80}, expected a number over 0, at most {MAX_LEVEL}") from err
    # written so that NaN is refused too
    if not 0 < number <= MAX_LEVEL:
        raise BadRequestError(f"confidence_level is {number:g}, expected a number over 0, at most {MAX_LEVEL}")
    return number


def _flag(name: str, value: Any, *, default: bool) -> bool:
    if value in _ABSENT:
        return default
    if isinstance(value, bool):
        return value
    known = {"true": True, "false": False, "1": True, "0": False}
    if not isinstance(value, str) or value.lower() not in known:
        raise BadRequestError(f"{name} is {value!r:.80}, expected true or false")
    return known[value.lower()]


def _heatmap(value: Any) -> HeatmapForm:
    if value in _ABSENT:
        return "grid"
    forms: tuple[HeatmapForm, ...] = get_args(HeatmapForm)
    for form in forms:
        if value == form:
            return form
    raise BadRequestError(f"heatmap is {value!r:.80}, expected {', '.join(forms)}")
