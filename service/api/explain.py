"""`POST /explain-confidence`: one image in; how sure, how that is known, and what else it could be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, RootModel
from pydantic_core import to_json
from starlette.responses import Response

from models.confidence.case import Ask
from models.confidence.explanation import MultiLabelExplanation, RegressionExplanation, SingleLabelExplanation
from service.api.answer import ModelCard, logged_problem, model_card, version_header
from service.errors import BadRequestError, ServiceError
from service.feedback.served import Served
from service.logs import request_id

if TYPE_CHECKING:
    from service.calls import ExplainCall
    from service.engine import Engine
    from service.live import LiveModel

_MOST_NAMED = 5
RequestId = Annotated[str, Field(description="as in X-Request-Id; all that differs between the answers to two equal requests")]


class ExplainingModel(ModelCard):
    """What answered, and how far its probabilities are calibrated."""

    calibration: Literal["ok", "partial", "none"]
    artifact_sha256: str


class ExplainedLabel(SingleLabelExplanation):
    """Of a model with one label an image."""

    request_id: RequestId
    model: ExplainingModel


class ExplainedLabels(MultiLabelExplanation):
    """Of a model with any number of labels an image."""

    request_id: RequestId
    model: ExplainingModel


class ExplainedValue(RegressionExplanation):
    """Of a model that answers a number."""

    request_id: RequestId
    model: ExplainingModel


class ExplainAnswer(RootModel[ExplainedLabel | ExplainedLabels | ExplainedValue]):
    """Which kind is the model's task. What a version has no evidence for is null, and `unavailable` says why."""


async def answer_explain(engine: Engine, call: ExplainCall | ServiceError) -> Response:
    """Answer one request, whatever it is: nothing is raised."""
    try:
        if isinstance(call, ServiceError):
            raise call
        if isinstance(call.image, BaseException):
            raise call.image
        model = engine.slots.get(call.model)
        explanation = await engine.predictor.explain(model, call.image, _ask(call, model), call.deadline_s)
        engine.keeper.offer(Served(call.image, request_id.get(), 0, model.manifest, explanation, datetime.now(UTC)))
    except Exception as err:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log gets the reason
        return logged_problem(err).response()
    content = {"request_id": request_id.get(), "model": _card(model), **explanation.model_dump(mode="json")}
    return Response(to_json(content), headers=version_header(model), media_type="application/json")


def _ask(call: ExplainCall, model: LiveModel) -> Ask:
    return Ask(
        confidence_level=call.confidence_level,
        top_k=call.top_k,
        neighbors=call.neighbors,
        heatmap=call.heatmap,
        versus=None if call.versus is None else _index(call.versus, model),
    )


def _index(label: str, model: LiveModel) -> int:
    labels = model.manifest.labels
    try:
        return labels.index(label)
    except ValueError as err:
        more = f" and {len(labels) - _MOST_NAMED} more" if len(labels) > _MOST_NAMED else ""
        known = ", ".join(labels[:_MOST_NAMED])
        raise BadRequestError(
            f"versus is {label!r:.80}, and {model.manifest.name} has no such label; it has {known:.400}{more}"
        ) from err


def _card(model: LiveModel) -> dict[str, str | int]:
    status = model.judge.confidence.temperature.status
    return {**model_card(model), "calibration": status, "artifact_sha256": model.manifest.sha256}
