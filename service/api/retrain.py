"""`POST /retrain`: accept a job, or say why not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from starlette.responses import Response

from service.api.answer import logged_problem
from service.api.jobs import job_card
from service.audit import note
from service.errors import NoSupervisorError, ServiceError
from service.jobs.store import Asker
from service.logs import key_id
from service.retraining import understand

if TYPE_CHECKING:
    from service.engine import Engine
    from service.jobs.schema import Job
    from service.retraining import RetrainCall

_LOOK_AGAIN_S = 5


async def answer_retrain(engine: Engine, received: RetrainCall | ServiceError) -> Response:
    """Answer one call: 202 with the job as it is, whether this call made it or an earlier one with the same key."""
    try:
        if isinstance(received, ServiceError):
            raise received
        job = await asyncio.to_thread(_accept, engine, received, key_id.get() or "-")
    except Exception as err:  # noqa: BLE001 - whatever it is becomes an answer
        return logged_problem(err).response()
    note(job=job.id, model=job.spec.model, dataset=" ".join(job.spec.dataset))
    headers = {"location": f"/jobs/{job.id}", "retry-after": str(_LOOK_AGAIN_S)}
    body: dict[str, Any] = job_card(job).model_dump()
    return Response(to_json(body), 202, headers, "application/json")


def _accept(engine: Engine, call: RetrainCall, asker: str) -> Job:
    if not engine.has_supervisor():
        raise NoSupervisorError("nobody runs jobs here; start the service with `python -m service`")
    # As it was asked: a name that means another version by now is the same request.
    request, asked_by = call.request.model_dump_json(exclude={"idempotency_key"}), Asker(asker, call.idempotency_key)
    # Before feedback is frozen: a call that is only repeated leaves no data set behind.
    known = engine.jobs.known(request, asked_by)
    if known is not None:
        return known
    roots = engine.settings.dataset_roots
    spec = understand(call.request, engine.registry, engine.datasets.store, roots, engine.feedback)
    return engine.jobs.submit(spec, request, asked_by, engine.settings.jobs_queued)[0]
