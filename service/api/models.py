"""`GET /models`, `GET /models/{name}`: what is in the registry, and what of it answers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from models.errors import ContractError, UnreachableError
from models.manifest import summary
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation
from service.api.promotion import etag
from service.published import require_model

if TYPE_CHECKING:
    from models.confidence.schema import Confidence
    from models.manifest import Manifest
    from service.engine import Engine, EngineRef

_MAX_VERSIONS = 100


class ModelSummary(BaseModel):
    """One name."""

    name: str
    production: int | None = Field(description="the version that is meant where none is named")
    candidate: int | None
    serving: int | None = Field(description="the version that answers now; production, unless that may not serve")
    problem: str | None = Field(description="why production does not answer")
    versions: list[int] = Field(description="newest first, at most 100")


class VersionSummary(BaseModel):
    """One version, from its manifest."""

    version: int
    created: str
    task: Task
    backbone: str
    labels: int
    unit: str | None = Field(description="of a regression's number")
    image_size: int
    score: float | None = Field(description="on the test split, higher is better; null where there is none")
    score_name: str | None = Field(description="accuracy, mAP or R2, by task")
    accuracy: float | None = Field(description="single_label")
    nll: float | None = Field(description="single_label; with multi_label the binary cross-entropy; in nats")
    ece: float | None = Field(description="single_label, multi_label")
    mae: float | None = Field(description="regression: mean absolute error, in the unit")
    calibration: str = Field(description="ok; partial or none, with the reason")
    calibration_reason: str | None


class ModelDetail(ModelSummary):
    """One name, with its versions.

    Task, labels, unit and thresholds are those of the version that answers; of the newest where none does.
    """

    task: Task | None = Field(description="what /classify answers; null where no version can be read")
    labels: list[str] = Field(description="with regression one: the number's name")
    unit: str | None
    thresholds: dict[str, float] | None = Field(description="multi_label: the probability from which on a label is selected")
    details: list[VersionSummary]
    unreadable: dict[int, str] = Field(description="versions whose manifest cannot be read, and why")


class ModelList(BaseModel):
    """Every name, in alphabetical order."""

    models: list[ModelSummary]
    default: str | None


def models_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="Every model, its versions and what answers")
    def list_models() -> ModelList:
        here = engine.get()
        return ModelList(
            models=[ModelSummary(**_summary(here, name)) for name in here.registry.names()], default=here.settings.default_model
        )

    @router.get("/models/{name}", summary="One model: task, labels, versions, scores")
    def show_model(name: str, response: Response) -> ModelDetail:
        here = engine.get()
        require_model(here.registry, name)
        fields = _summary(here, name)
        with contextlib.suppress(ContractError):
            response.headers["etag"] = etag(here.registry.aliases(name))
        cards: dict[int, tuple[Manifest, Confidence]] = {}
        details: list[VersionSummary] = []
        unreadable: dict[int, str] = {}
        for version in fields["versions"]:
            try:
                cards[version] = here.registry.manifest(name, version), here.registry.confidence(name, version)
                details.append(VersionSummary(**summary(*cards[version])))
            except UnreachableError:
                raise
            except ContractError as err:
                unreadable[version] = str(err).splitlines()[0]
        shown, confidence = cards.get(fields["serving"]) or next(iter(cards.values()), (None, None))
        return ModelDetail(
            **fields,
            task=shown.task if shown else None,
            labels=list(shown.labels) if shown else [],
            unit=shown.unit if shown else None,
            thresholds=confidence.thresholds if confidence else None,
            details=details,
            unreadable=unreadable,
        )

    return router


def _summary(engine: Engine, name: str) -> dict[str, Any]:
    slot = engine.slots.slot(name)
    try:
        aliases = engine.registry.aliases(name)
        production, candidate, problem = aliases.production, aliases.candidate, slot.problem if slot else None
    except UnreachableError:
        raise
    except ContractError:
        production, candidate, problem = None, None, "the aliases cannot be read"
    serving = slot.current.manifest.version if slot and slot.current else None
    versions = engine.registry.versions(name)[::-1][:_MAX_VERSIONS]
    return {
        "name": name,
        "production": production,
        "candidate": candidate,
        "serving": serving,
        "problem": problem,
        "versions": versions,
    }
