"""`POST /classify`: images in, calibrated probabilities or numbers out, by the model's task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import Response

from models.confidence.familiarity import Verdict  # noqa: TC001 - pydantic reads the annotation
from models.confidence.judge import Action  # noqa: TC001 - pydantic reads the annotation
from service.api.answer import ModelCard, keep, logged_problem, model_card, version_header
from service.errors import ServiceError
from service.results import failure_of, result_of

if TYPE_CHECKING:
    from service.calls import ClassifyCall
    from service.engine import Engine
    from service.live import LiveModel
    from service.predictor import Answer


class LabelProbability(BaseModel):
    """One label and its probability: calibrated, unless `raw=true` asked for the network's own."""

    model_config = ConfigDict(extra="forbid")

    label: str
    probability: float = Field(ge=0, le=1)


class Trusted(BaseModel):
    """How far to believe a result. Both are left out with `trust=false`."""

    action: Action | None = Field(
        default=None,
        description="accept: right as often as the version's target says; reject: not one of the labels; review: look at it",
    )
    familiarity: Verdict | None = Field(
        default=None, description="whether the image is like those that the model was made from; null where that is not known"
    )


class SingleLabelResult(Trusted):
    """Of a model with one label an image."""

    predictions: list[LabelProbability] = Field(description="the top_k most probable, descending; all labels sum to 1")


class MultiLabelResult(Trusted):
    """Of a model with any number of labels an image."""

    predictions: list[LabelProbability] = Field(description="the top_k most probable, descending; each for itself")
    selected: list[str] = Field(description="every label at or over its threshold, descending; top_k does not count here")


class ValueInterval(BaseModel):
    """Between which numbers the truth lies for the share `level` of images."""

    level: float = Field(gt=0, lt=1, examples=[0.9])
    low: float
    high: float


class RegressionResult(Trusted):
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
        keep(engine, model, call.images, results)
    except Exception as err:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log gets the reason
        return logged_problem(err).response()
    # Errors in place, status 200: the others' answers are good.
    said = [
        failure_of(logged_problem(result)) if isinstance(result, BaseException) else result_of(result, has_trust=call.has_trust)
        for result in results
    ]
    content = {"model": model_card(model), "results": said}
    return Response(to_json(content), headers=version_header(model), media_type="application/json")


async def _classify(engine: Engine, model: LiveModel, call: ClassifyCall) -> list[Answer | BaseException]:
    """The good images together; what was no image from the start keeps its place."""
    good = [image for image in call.images if isinstance(image, bytes)]
    answers = iter(await engine.predictor.classify(model, good, call.top_k, is_raw=call.is_raw, deadline_s=call.deadline_s))
    return [next(answers) if isinstance(image, bytes) else image for image in call.images]
