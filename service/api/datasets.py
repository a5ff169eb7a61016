"""`PUT /datasets/{name}` and what is kept under a name: data sets to train on."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from models.dataset_card import VERSION_PATTERN, DatasetCard
from service.api.openapi import problems
from service.audit import note

if TYPE_CHECKING:
    from starlette.types import Scope

    from service.engine import EngineRef

_PREFIX = "/datasets/"
_ZIP = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
Version = Annotated[
    str | None, Query(pattern=VERSION_PATTERN, description="16 digits of its fingerprint; without it what was put last")
]


class DatasetSummary(BaseModel):
    """A name, by the version that was put last."""

    name: str
    version: str
    created: datetime
    images: int
    labels: int = Field(description="how many; 0 where only a recipe can tell")
    size_bytes: int
    findings: int


class DatasetList(BaseModel):
    """Every name, what was put last first."""

    datasets: list[DatasetSummary]


class DatasetDetail(DatasetCard):
    """A version, and which others there are."""

    versions: list[str] = Field(description="what was put last first")


class Deleted(BaseModel):
    """What is gone."""

    deleted: list[str] = Field(examples=[["birds@0123456789abcdef"]])


def is_upload(scope: Scope) -> bool:
    """Whether a request's body goes to disk as it comes: it is not counted as memory, and may take longer than others."""
    return bool(scope["type"] == "http" and scope["method"] == "PUT" and scope["path"].startswith(_PREFIX))


def datasets_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(tags=["datasets"])

    @router.put(
        "/datasets/{name}",
        summary="Keep a zip of images to train on",
        description="The body is the zip itself: class folders, split folders with class folders in them, or images and a CSV. "
        "Answered when it is unpacked and looked through: 201 with a new version, 200 where the same files are kept already.",
        status_code=201,
        response_model=DatasetCard,
        responses={
            200: {"description": "The same files are kept already", "model": DatasetCard},
            **problems(408, 413, 415, 422, 429, 507),
        },
        openapi_extra={"requestBody": {"required": True, "content": _ZIP}},
    )
    async def put_dataset(name: str, request: Request) -> Response:
        card, is_new = await engine.get().datasets.upload(name, request)
        note(version=card.version, fingerprint=card.fingerprint)
        location = {"location": f"{_PREFIX}{card.name}?version={card.version}"}
        return Response(card.model_dump_json(), 201 if is_new else 200, location, "application/json")

    @router.get("/datasets", summary="Every data set that is kept")
    def list_datasets() -> DatasetList:
        cards = [stored.card for stored in engine.get().datasets.store.newest()]
        return DatasetList(datasets=[_summary(card) for card in cards])

    @router.get("/datasets/{name}", summary="One data set: labels, splits, what was found in it")
    def show_dataset(name: str, version: Version = None) -> DatasetDetail:
        datasets = engine.get().datasets
        card = datasets.get(name, version).card
        versions = [stored.card.version for stored in datasets.store.versions(name)]
        return DatasetDetail(**card.model_dump(), versions=versions)

    @router.delete(
        "/datasets/{name}",
        summary="Delete a data set, or one version of it",
        description="Without a version all of them. Refused while a job needs one.",
        responses=problems(409),
    )
    def delete_dataset(name: str, version: Version = None) -> Deleted:
        return Deleted(deleted=[f"{name}@{one}" for one in engine.get().datasets.delete(name, version)])

    return router


def _summary(card: DatasetCard) -> DatasetSummary:
    return DatasetSummary(
        name=card.name,
        version=card.version,
        created=card.created,
        images=card.images,
        labels=len(card.labels),
        size_bytes=card.size_bytes,
        findings=len(card.findings),
    )
