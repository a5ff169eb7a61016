"""`POST /classify`: images in, calibrated probabilities or numbers out, by the model's task."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import Response

from service.errors import Problem, ServiceError, problem_of
from service.logs import request_id
from service.predictor import Estimate, Prediction

if TYPE_CHECKING:
    from service.engine import Engine
    from service.inputs import ClassifyCall
    from service.live import LiveModel
    from service.predictor import Answer, Range

logger = logging.getLogger("candor.classify")
# Enough to compare with, and no digit that another processor would answer differently: of a probability after the point, of
# a number, which may be of any size, from its first on.
_DIGITS = 6


class LabelProbability(BaseModel):
    """One label and its calibrated probability."""

    model_config = ConfigDict(extra="forbid")

    label: str
    probability: float = Field(ge=0, le=1)


class SingleLabelResult(BaseModel):
    """Of a model with one label an image."""

    predictions: list[LabelProbability] = Field(description="the top_k most probable, descending; all labels sum to 1")


class MultiLabelResult(BaseModel):
    """Of a model with any number of labels an image."""

    predictions: list[LabelProbability] = Field(description="the top_k most probable, descending; each for itself")
    selected: list[str] = Field(description="every label at or over its threshold, descending; top_k does not count here")


class ValueInterval(BaseModel):
    """Between which numbers the truth lies for the share `level` of images."""

    level: float = Field(gt=0, lt=1, examples=[0.9])
    low: float
    high: float


class RegressionResult(BaseModel):
    """Of a model that answers a number."""

    value: float
    unit: str | None = Field(examples=["degrees"])
    interval: ValueInterval | None = Field(description="null where too few images were held out to know it")


class ImageProblem(BaseModel):
    """Why one image of several has no prediction."""

    code: str = Field(examples=["unreadable_image"])
    detail: str
    status: int = Field(description="the status that this image would have got alone")


class ErrorResult(BaseModel):
    """One image of several that could not be answered."""

    error: ImageProblem


class ModelCard(BaseModel):
    """What answered."""

    name: str
    version: int
    runtime: str = Field(examples=["onnxruntime-cuda"])
    precision: str = Field(examples=["fp32"])


class ClassifyAnswer(BaseModel):
    """One result for each image, in the order of the request; which kind is the model's task."""

    model: ModelCard
    results: list[SingleLabelResult | MultiLabelResult | RegressionResult | ErrorResult]


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


async def _classify(engine: Engine, model: LiveModel, call: ClassifyCall) -> list[Answer | BaseException]:
    """The good images together; what was no image from the start keeps its place."""
    good = [image for image in call.images if isinstance(image, bytes)]
    answers = iter(await engine.predictor.classify(model, good, call.top_k))
    return [next(answers) if isinstance(image, bytes) else image for image in call.images]


def _card(model: LiveModel) -> dict[str, Any]:
    runtime = model.runtime
    name = runtime.name if runtime.provider == "cpu" else f"{runtime.name}-{runtime.provider}"
    manifest = model.manifest
    return {"name": manifest.name, "version": manifest.version, "runtime": name, "precision": runtime.precision}


def _result(result: Answer | BaseException) -> dict[str, Any]:
    if isinstance(result, Prediction):
        predictions = [{"label": label, "probability": round(p, _DIGITS)} for label, p in result.labels]
        return (
            {"predictions": predictions} if result.selected is None else {"predictions": predictions, "selected": result.selected}
        )
    if isinstance(result, Estimate):
        return {"value": _shorten(result.value), "unit": result.unit, "interval": _interval(result.interval)}
    problem = _problem(result)
    return {"error": {"code": problem.code, "detail": problem.detail, "status": problem.status}}


def _interval(known: Range | None) -> dict[str, float] | None:
    return None if known is None else {"level": known.level, "low": _shorten(known.low), "high": _shorten(known.high)}


def _shorten(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def _problem(error: BaseException) -> Problem:
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("request %s failed", request_id.get(), exc_info=error)
    return problem
