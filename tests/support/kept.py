"""Kept images by the dozen, without a service that serves them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.feedback.schema import KeptImage, KeptPrediction, Labelling, image_id

if TYPE_CHECKING:
    from models.recipe import Task
    from service.feedback.schema import ImageLabel, Label
    from service.feedback.store import FeedbackStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def prediction(margin: float | None = 0.5, p_familiar: float | None = 0.5) -> KeptPrediction:
    return KeptPrediction(
        label="red",
        probability=0.75,
        selected=None,
        value=None,
        margin=margin,
        p_correct=0.7,
        familiarity=None if p_familiar is None else "familiar",
        p_familiar=p_familiar,
        action="review",
    )


def kept(
    data: bytes,
    *,
    model: str = "colours",
    at: datetime = NOON,
    request: tuple[str, int] = ("r", 0),
    said: KeptPrediction | None = None,
    task: Task = "single_label",
) -> KeptImage:
    sha256 = hashlib.sha256(data).hexdigest()
    return KeptImage(
        id=image_id(model, sha256),
        sha256=sha256,
        model=model,
        version=1,
        task=task,
        kept=at,
        request_id=request[0],
        index=request[1],
        size_bytes=len(data),
        prediction=said or prediction(),
    )


def keep(store: FeedbackStore, data: bytes, **options: object) -> str:
    """Keep an image and return its id."""
    image = kept(data, **options)  # type: ignore[arg-type]
    store.keep(image, data)
    return image.id


def label(store: FeedbackStore, image: str, value: Label, *, model: str = "colours", task: Task = "single_label") -> ImageLabel:
    return store.label(model, image, task, Labelling(label=value, by="alice", at=NOON))
