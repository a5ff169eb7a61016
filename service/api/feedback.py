"""`POST /feedback` and `GET /review-queue`: what was served is labelled, and the next version learns from it."""

from __future__ import annotations

import asyncio
from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from service.api.openapi import problems
from service.audit import note
from service.feedback.calls import read_feedback
from service.feedback.dataset import media_type
from service.feedback.review import Strategy  # noqa: TC001 - FastAPI reads the annotation
from service.feedback.schema import ID_PATTERN, KeptPrediction
from service.logs import key_id

if TYPE_CHECKING:
    from service.engine import Engine, EngineRef
    from service.feedback.review import Waiting
    from service.feedback.schema import KeptImage

_LABEL = {
    "description": "a text of at most 200 characters, new ones too; with multi_label a list of them (in a form as JSON), which "
    "may be empty; with regression a number",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "number"}],
}
_FIELDS: dict[str, Any] = {
    "label": _LABEL,
    "id": {"type": "string", "description": "of a kept image, as the review queue has it"},
    "request_id": {"type": "string", "description": "X-Request-Id of the answer that is judged"},
    "index": {"type": "integer", "minimum": 0, "default": 0, "description": "which of that request's images"},
    "model": {"type": "string", "description": "name or name:N; beside an image of your own"},
}
# Pictures that strangers sent, shown by a browser to somebody who may do more than they: as pictures, and as nothing else.
_PICTURE = {
    "cache-control": "private, no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
}
ImageId = Annotated[str, Path(pattern=ID_PATTERN)]


class FeedbackAnswer(BaseModel):
    """An image with its label."""

    id: str
    model: str
    label: str | tuple[str, ...] | float
    is_new_label: bool = Field(description="whether the version in production does not have it")
    times_labelled: int = Field(description="the last label holds")


class FeedbackDeleted(BaseModel):
    """What is gone, and where it is still."""

    deleted: str
    still_in: list[str] = Field(
        description="data sets that were made with the image and never change: DELETE /datasets/{name}?version= takes one away",
        examples=[["feedback-birds@0123456789abcdef"]],
    )


class QueueItem(BaseModel):
    """An image without a label, and what was answered."""

    id: str
    image: str = Field(description="where to get it", examples=["/review-queue/0123456789abcdef0123456789abcdef/image"])
    model: str
    version: int | None
    request_id: str | None
    index: int | None
    kept: datetime
    size_bytes: int
    prediction: KeptPrediction | None


class ReviewQueue(BaseModel):
    """A page of what is worth labelling."""

    model: str
    strategy: Strategy
    total: int = Field(description="how many wait, on all pages")
    labelled: int = Field(description="how many are labelled already, and so wait no more")
    items: list[QueueItem]
    next_cursor: str | None = Field(description="for the next page; null on the last one")
    reason: str | None = Field(description="why nothing waits, where nothing does")


def feedback_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(tags=["feedback"])

    @router.post(
        "/feedback",
        summary="Label an image that was served, or one of your own",
        description="An image that is kept, by `id` or by `request_id` and `index`; or an image of your own, with `model`, in "
        "the forms of `/classify`. Labelling again replaces the label. `POST /retrain` with the data set `feedback` uses it.",
        responses=problems(400, 404, 413, 415, 422, 507),
        openapi_extra={"requestBody": _body()},
    )
    async def post_feedback(request: Request) -> FeedbackAnswer:
        here = engine.get()
        call = await read_feedback(request, here.body_limits)
        if call.image is not None:
            manifest = await asyncio.to_thread(here.feedback.manifest, call.model)
            await here.decoder.apart(partial(here.decoder.decode, call.image, manifest))
        labelled = await asyncio.to_thread(here.feedback.label, call, key_id.get())
        kept = labelled.kept
        note(image=kept.id, model=kept.model)
        return FeedbackAnswer(
            id=kept.id,
            model=kept.model,
            label=kept.last.label,
            is_new_label=labelled.is_new_label,
            times_labelled=len(kept.before) + 1,
        )

    @router.delete(
        "/feedback/{image_id}",
        summary="Delete an image and everything that is kept about it",
        description="Its label too. A data set that was made with it is frozen, and stays until it is deleted itself.",
    )
    def delete_feedback(image_id: ImageId) -> FeedbackDeleted:
        here = engine.get()
        return FeedbackDeleted(deleted=image_id, still_in=here.feedback.delete(image_id, here.datasets.store))

    @router.get("/review-queue", summary="Images that are worth labelling, without a label so far")
    def review_queue(
        model: Annotated[str | None, Query(description="name; without it the default model")] = None,
        strategy: Annotated[
            Strategy,
            Query(
                description="margin: the closest decisions first; unknown: the strangest images first; random: a sample of all"
            ),
        ] = "margin",
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
        cursor: Annotated[str | None, Query(max_length=100)] = None,
    ) -> ReviewQueue:
        here = engine.get()
        name = here.feedback.manifest(model).name
        page, images = here.feedback.review(name, strategy, limit, cursor)
        return ReviewQueue(
            model=name,
            strategy=strategy,
            total=page.total,
            labelled=page.labelled,
            items=[_item(image) for image in images],
            next_cursor=page.next_cursor,
            reason=_reason(here, page, strategy),
        )

    @router.get(
        "/review-queue/{image_id}/image",
        summary="A kept image, as it came",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}},
    )
    def show_image(image_id: ImageId) -> Response:
        data = engine.get().feedback.image(image_id)
        return Response(data, headers=_PICTURE, media_type=media_type(data))

    return router


def _body() -> dict[str, Any]:
    picture = {"type": "string", "format": "binary"}
    text = {"type": "string", "contentEncoding": "base64"}

    def of(image: dict[str, Any]) -> dict[str, Any]:
        return {"schema": {"type": "object", "required": ["label"], "properties": {"image": image, **_FIELDS}}}

    return {"required": True, "content": {"application/json": of(text), "multipart/form-data": of(picture)}}


def _item(image: KeptImage) -> QueueItem:
    shown = image.model_dump(include={"id", "model", "version", "request_id", "index", "kept", "size_bytes"})
    return QueueItem(**shown, image=f"/review-queue/{image.id}/image", prediction=image.prediction)


def _reason(engine: Engine, page: Waiting, strategy: Strategy) -> str | None:
    if page.total:
        return None
    if page.unordered:
        lack = "a margin, since it answers a number" if strategy == "margin" else "p_familiar, which its version cannot know"
        return f"{page.unordered} images wait, and none of them has {lack}; use strategy=random"
    if not engine.settings.keep_images:
        return "CANDOR_KEEP_IMAGES is off: nothing that is served is kept, and only what is sent to /feedback is learnt from"
    return "every image that is kept has a label" if page.labelled else "no image was kept so far"
