"""A request to `/feedback`, understood as far as that can be without looking at what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.calls import integer, parameters
from service.errors import BadRequestError
from service.inputs import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from service.inputs import BodyLimits

_KNOWN = ("label", "id", "request_id", "index", "model")
_EXPECTED = "expected one of: id; request_id and index; an image of your own, with model"
_MOST_INDEX = 4095


@dataclass(frozen=True)
class FeedbackCall:
    """What is labelled, in one of three ways, and its label as it was sent.

    Attributes:
        label: Not checked yet: what it may be is the model's task.
        image_id: Of a kept image.
        request_id: Of the request that held it.
        index: Which of that request's images it was.
        image: The bytes of an image of the caller's own.
        model: Whose image that is to be; None for the default.
    """

    label: Any
    image_id: str | None = None
    request_id: str | None = None
    index: int = 0
    image: bytes | None = None
    model: str | None = None


async def read_feedback(request: Request, limits: BodyLimits) -> FeedbackCall:
    """Read a request to `/feedback`.

    Raises:
        ServiceError: As `inputs.read_body`; BadRequestError also if a field is unknown or malformed, the label is missing, or it
            does not say what is labelled, or says it twice.
        ImageError: If the image is no base64.
    """
    body = await read_body(request, limits)
    given = parameters(request.query_params, body.fields, _KNOWN)
    if given.get("label") in (None, ""):
        raise BadRequestError("label is missing; expected a text, a list of texts, or a number, by the model's task")
    ways = [bool(given.get("id")), bool(given.get("request_id")), bool(body.images)]
    if sum(ways) != 1 or len(body.images) > 1:
        raise BadRequestError(f"the request says {sum(ways)} ways, and {len(body.images)} images, to label; {_EXPECTED}")
    if given.get("model") and not body.images:
        raise BadRequestError("model stands beside an image that is kept for its model already; leave it out")
    image = body.images[0] if body.images else None
    if isinstance(image, BaseException):
        raise image
    return FeedbackCall(
        label=given["label"],
        image_id=_text("id", given),
        request_id=_text("request_id", given),
        index=integer("index", given.get("index"), 0, 0, _MOST_INDEX),
        image=image,
        model=_text("model", given),
    )


def _text(name: str, given: dict[str, Any]) -> str | None:
    value = given.get(name)
    if value in (None, ""):
        return None
    if not isinstance(value, str):
        raise BadRequestError(f"{name} is {value!r:.80}, expected a text")
    return value
