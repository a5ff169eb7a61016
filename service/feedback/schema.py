"""What is written down of a kept image: the sidecar beside its bytes, and its label."""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from models.confidence.familiarity import Verdict  # noqa: TC001 - pydantic reads the annotation
from models.confidence.judge import Action  # noqa: TC001 - pydantic reads the annotation
from models.frozen import Frozen
from models.manifest import Name, Sha256  # noqa: TC001 - pydantic reads the annotation
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation

ID_DIGITS = 32
ID_PATTERN = rf"^[0-9a-f]{{{ID_DIGITS}}}$"
ImageId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
# One label, several of them, or a number: which is the model's task.
Label = str | tuple[str, ...] | float


def image_id(model: str, sha256: str) -> str:
    """The id of an image under a model's name, by the sha256 of its bytes: the same image is kept once for each model.

    Whoever has the image can compute it, so that what is kept of somebody can be found and deleted.
    """
    return hashlib.sha256(f"{model}\0{sha256}".encode()).hexdigest()[:ID_DIGITS]


class KeptPrediction(Frozen):
    """What was answered, calibrated, whatever the caller asked to see of it."""

    label: str | None = Field(description="the most probable; null for a number")
    probability: float | None
    selected: tuple[str, ...] | None = Field(description="with any number of labels an image: those that it was said to have")
    value: float | None = Field(description="the number, with regression")
    margin: float | None = Field(
        description="how close it was: probability of the first label less that of the second; with several labels an image, "
        "the smallest distance of a probability from its threshold; null for a number"
    )
    p_correct: float | None
    familiarity: Verdict | None
    p_familiar: float | None = Field(description="how often an image like the model's own is as strange; null where not known")
    action: Action


class KeptImage(Frozen):
    """The sidecar. An image that was sent with its label was never predicted: it has neither request nor prediction.

    Attributes:
        id: See `image_id`.
        sha256: Of the bytes alone.
        version: Of the model, that answered it; null where none did.
        kept: When it was served, or sent.
        request_id: Of the first request that held it.
        index: Which image of that request it was.
    """

    schema_version: Literal[1] = 1
    id: ImageId
    sha256: Sha256
    model: Name
    version: int | None
    task: Task
    kept: datetime
    request_id: str | None
    index: int | None
    size_bytes: int = Field(ge=1)
    prediction: KeptPrediction | None


class Labelling(Frozen):
    """One act of labelling: what, by which key (null where there are none), and when."""

    label: Label
    by: str | None
    at: datetime


class ImageLabel(Frozen):
    """The label of an image: the last one holds, and those before it are remembered, the oldest first."""

    schema_version: Literal[1] = 1
    id: ImageId
    model: Name
    task: Task
    last: Labelling
    before: tuple[Labelling, ...]
