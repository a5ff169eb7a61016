"""`POST /classify`: images in, calibrated probabilities out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import Response

from service.errors import Problem, ServiceError, problem_of
from service.logs import request_id
from service.predictor import Prediction

if TYPE_CHECKING:
    from service.engine import Engine
    from service.inputs import ClassifyCall
    from service.live import LiveModel

logger = logging.getLogger("candor.classify")
# Enough to compare with, and no digit that another processor would answer differently.
_DIGITS = 6


class LabelProbability(BaseModel):
    """One label and its calibrated probability."""

    model_config = ConfigDict(extra="forbid")

    label: str
    probability: float = Field(ge=0, le=1)


class ImageProblem(BaseModel):
    """Why one image of several has no prediction."""

    code: str = Field(examples=["unreadable_image"])
    detail: str
    status: int = Field(description="the status that this image would have got alone")


class ImageResult(BaseModel):
    """One image: its predictions, descending, or what is wrong with it."""

    predictions: list[LabelProbability] | None = None
    error: ImageProblem | None = None


class ModelCard(BaseModel):
    """What answered."""

    name: str
    version: int
    runtime: str = Field(examples=["onnxruntime-cuda"])
    precision: str = Field(examples=["fp32"])


class ClassifyAnswer(BaseModel):
    """One result for each image, in the order of the request."""

    model: ModelCard
    results: list[ImageResult]


async def answer_classify(engine: Engine, call: ClassifyCall | ServiceError) -> Response:
    """Answer one request, whatever it is: nothing is raised."""
    try:
        if isinstance(call, ServiceError):
            raise call
        model = engine.slots.get(call.model)
        results = await _classify(engine, model, call)
        if call.is_single and isinstance(results[0], BaseException):
            raise results[0]
    except Exception as err:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log gets the reason
        return _problem(err).response()
    # Errors in place, status 200: the others' answers are good.
    content = {"model": _card(model), "results": [_result(result) for result in results]}
    headers = {"x-model-version": model.manifest.reference}
    return Response(to_json(content), headers=headers, media_type="application/json")


async def _classify(engine: Engine, model: LiveModel, call: ClassifyCall) -> list[Prediction | BaseException]:
    """The good images together; what was no image from the start keeps its place."""
    good = [image for image in call.images if isinstance(image, bytes)]
    answers = iter(await engine.predictor.classify(model, good, call.top_k))
    return [next(answers) if isinstance(image, bytes) else image for image in call.images]


def _card(model: LiveModel) -> dict[str, Any]:
    runtime = model.runtime
    name = runtime.name if runtime.provider == "cpu" else f"{runtime.name}-{runtime.provider}"
    manifest = model.manifest
    return {"name": manifest.name, "version": manifest.version, "runtime": name, "precision": runtime.precision}


def _result(result: Prediction | BaseException) -> dict[str, Any]:
    if isinstance(result, Prediction):
        return {"predictions": [{"label": label, "probability": round(p, _DIGITS)} for label, p in result.labels]}
    problem = _problem(result)
    return {"error": {"code": problem.code, "detail": problem.detail, "status": problem.status}}


def _problem(error: BaseException) -> Problem:
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("request %s failed", request_id.get(), exc_info=error)
    return problem
