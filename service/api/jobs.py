"""`/jobs`: what was asked for, how far it is, what it said, and its end on request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from models.gate_report import GateReport  # noqa: TC001 - pydantic reads the annotation
from service.api.openapi import problems
from service.errors import BadRequestError, QueueFullError, UnknownJobError
from service.jobs.folder import JobFolder
from service.jobs.schema import FINAL, STATES, Job, JobState, Promote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.engine import Engine, EngineRef

_ID = re.compile(r"[0-9a-f]{32}")
_LOOK_S = 0.25
# Shorter than what proxies wait for.
_HEARTBEAT_S = 10.0
_LOG_BYTES = 1 << 20
_MOST_FOLLOWERS = 100


class JobCard(BaseModel):
    """One job."""

    id: str
    state: JobState
    model: str
    dataset: list[str]
    start_from: str
    promote: Promote
    attempt: int = Field(description="how often it was begun; a trainer that dies is begun again from its last checkpoint")
    created: datetime
    updated: datetime
    finished: datetime | None
    version: int | None = Field(description="the version that it made")
    promoted: bool = Field(description="whether it put that version into production")
    code: str | None = Field(description="why it ended as it did, for machines")
    reason: str | None = Field(description="the same, for people")
    asked_by: str = Field(description="the key that asked; - without keys")


class Progress(BaseModel):
    """How far the trainer is in what it does now."""

    what: str
    images: int
    of: int
    loss: float | None
    images_per_s: float
    seconds_left: float = Field(description="until training ends, at the speed of now; exporting and judging come after it")


class JobDetail(JobCard):
    """One job, with its story so far."""

    recipe: dict[str, Any] = Field(description="the keys that differ from the defaults")
    progress: Progress | None
    epochs: list[dict[str, Any]] = Field(description="loss, validation loss and score, rate, speed of each epoch so far")
    gate: GateReport | None = Field(description="how the candidate compared with production")


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobCard]
    next_cursor: int | None


def job_card(job: Job) -> JobCard:
    """What is shown of a job everywhere."""
    return JobCard(
        **job.model_dump(include={"id", "state", "attempt", "created", "updated", "finished", "version", "code", "reason"}),
        model=job.spec.model,
        dataset=list(job.spec.dataset),
        start_from=job.spec.start_from,
        promote=job.spec.promote,
        promoted=job.is_promoted,
        asked_by=job.key_id,
    )


def jobs_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs", summary="Jobs, the newest first")
    def list_jobs(
        state: Annotated[list[JobState] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Annotated[int | None, Query(ge=1)] = None,
    ) -> JobList:
        here = engine.get()
        found = here.jobs.find(tuple(state or STATES), cursor, limit) if here.jobs.exists else []
        more = found[-1].number if len(found) == limit else None
        return JobList(jobs=[job_card(job) for job in found], next_cursor=more)

    @router.get("/jobs/{job_id}", summary="One job: state, progress, epochs, the gate's report")
    def show_job(job_id: str) -> JobDetail:
        here = engine.get()
        job = _job(here, job_id)
        return _detail(job, _folder(here, job))

    @router.get(
        "/jobs/{job_id}/events",
        summary="What happens, as server-sent events; goes on after `Last-Event-ID`",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def follow_job(
        job_id: str, last_event_id: Annotated[str, Header(description="where the reader was cut off")] = "0"
    ) -> StreamingResponse:
        here = engine.get()
        if not re.fullmatch(r"\d{1,18}", last_event_id):
            raise BadRequestError(f"Last-Event-ID is {last_event_id!r:.80}, expected the id of an event: a number")
        job = await asyncio.to_thread(_job, here, job_id)
        if here.followers >= _MOST_FOLLOWERS:
            raise QueueFullError(f"{here.followers} callers follow jobs already, and at most {_MOST_FOLLOWERS} may")
        events = _counted(here, _stream(here, job, int(last_event_id)))
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @router.get(
        "/jobs/{job_id}/log",
        summary="The end of what the trainer said",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    def show_log(job_id: str, max_bytes: Annotated[int, Query(ge=1, le=_LOG_BYTES)] = 65_536) -> Response:
        here = engine.get()
        text = _folder(here, _job(here, job_id)).tail(max_bytes)
        return Response(text, media_type="text/plain; charset=utf-8")

    @router.post(
        "/jobs/{job_id}/cancel",
        status_code=202,
        summary="End a job; nothing of it is promoted",
        responses=problems(409, 503),
    )
    def cancel_job(job_id: str) -> JobCard:
        here = engine.get()
        _job(here, job_id)
        job = here.jobs.cancel(job_id)
        if job is None:
            raise UnknownJobError(f"there is no job {job_id}")
        if job.state == "cancelled":
            # It never had a trainer that would tell; where the disk is full, the database still has it.
            with contextlib.suppress(OSError):
                _folder(here, job).tell("state", state="cancelled", attempt=job.attempt, code=job.code, reason=job.reason)
        return job_card(job)

    return router


def _job(engine: Engine, job_id: str) -> Job:
    job = engine.jobs.get(job_id) if _ID.fullmatch(job_id) and engine.jobs.exists else None
    if job is None:
        raise UnknownJobError(f"there is no job {job_id!r:.80}")
    return job


def _folder(engine: Engine, job: Job) -> JobFolder:
    return JobFolder(engine.settings.jobs_root / job.id)


def _detail(job: Job, folder: JobFolder) -> JobDetail:
    progress: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = []
    planned = 0
    for event in folder.read(is_brief=True):
        fields = {key: value for key, value in event.fields.items() if key not in {"time", "event"}}
        if event.kind == "plan":
            planned = int(fields.get("epochs", 0)) + int(fields.get("freeze_epochs", 0))
        elif event.kind == "progress":
            progress = fields
        elif event.kind == "epoch":
            # A resumed attempt tells an epoch again.
            epochs = [epoch for epoch in epochs if epoch.get("epoch") != fields.get("epoch")] + [fields]
        elif event.kind == "state":
            progress = None
    if progress is not None and epochs and planned:
        progress = progress | {"seconds_left": _seconds_left(progress, epochs, planned)}
    return JobDetail(
        **job_card(job).model_dump(),
        recipe=job.spec.recipe.model_dump(exclude_defaults=True),
        progress=Progress.model_validate(progress) if progress else None,
        epochs=epochs,
        gate=folder.report(),
    )


def _seconds_left(progress: dict[str, Any], epochs: list[dict[str, Any]], planned: int) -> float:
    """What is left of this epoch, and the ones after it as long as the last one was."""
    rest = float(progress.get("seconds_left", 0.0))
    return round(rest + max(0, planned - len(epochs) - 1) * float(epochs[-1].get("seconds", 0.0)), 1)


async def _counted(engine: Engine, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    engine.followers += 1
    try:
        async for event in events:
            yield event
    finally:
        engine.followers -= 1


async def _stream(engine: Engine, job: Job, start: int) -> AsyncIterator[bytes]:
    """The events after `start`, until the job has ended, the caller is gone, or the service drains."""
    folder, position, spoke = _folder(engine, job), start, time.monotonic()
    is_over = False
    while not engine.is_closing:
        events = await asyncio.to_thread(lambda at: list(folder.read(at, is_brief=True)), position)
        for event in events:
            position, spoke = event.end, time.monotonic()
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.end, event.kind.encode(), to_json(event.fields))
            if event.kind == "state" and event.fields.get("state") in FINAL:
                return
        if is_over and not events:
            return
        if time.monotonic() - spoke > _HEARTBEAT_S:
            # Looked at seldom, since the story tells of the end; but a full disk, or a crash, may have kept it from that.
            now = await asyncio.to_thread(engine.jobs.get, job.id)
            is_over, spoke = now is None or now.is_final, time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(_LOOK_S)
