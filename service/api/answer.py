"""What the answers of the inference routes have in common: what answered, and how a failure is said."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from service.errors import problem_of
from service.feedback.served import Served
from service.logs import request_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.engine import Engine
    from service.errors import Problem
    from service.live import LiveModel
    from service.predictor import Answer

logger = logging.getLogger("candor.answer")


class ModelCard(BaseModel):
    """What answered."""

    name: str
    version: int
    runtime: str = Field(examples=["onnxruntime-cuda"])
    precision: str = Field(examples=["fp32"])


def model_card(model: LiveModel) -> dict[str, str | int]:
    """The fields of a `ModelCard`."""
    runtime = model.runtime
    name = runtime.name if runtime.provider == "cpu" else f"{runtime.name}-{runtime.provider}"
    manifest = model.manifest
    return {"name": manifest.name, "version": manifest.version, "runtime": name, "precision": runtime.precision}


def version_header(model: LiveModel) -> dict[str, str]:
    """`X-Model-Version`: `name:N`."""
    return {"x-model-version": model.manifest.reference}


def keep(engine: Engine, model: LiveModel, images: Sequence[object], results: Sequence[Answer | BaseException]) -> None:
    """Hand over the files that were answered, should they be kept."""
    if not engine.keeper.is_on:
        return
    now = datetime.now(UTC)
    for index, (image, result) in enumerate(zip(images, results, strict=True)):
        if isinstance(image, bytes) and not isinstance(result, BaseException):
            engine.keeper.offer(Served(image, request_id.get(), index, model.manifest, result, now))


def bytes_of(media_type: str) -> dict[str, Any]:
    """What a route of FastAPI's is declared with that answers a file and not JSON."""
    content = {
        media_type: {"schema": {"type": "string", "format": "binary"} if media_type.startswith("image/") else {"type": "string"}}
    }
    return {"response_class": Response, "responses": {200: {"content": content}}}


def logged_problem(error: BaseException) -> Problem:
    """The problem to answer; the caller learns nothing of what nobody expected, and the log all of it."""
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("request %s failed", request_id.get(), exc_info=error)
    return problem
