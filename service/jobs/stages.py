"""What the end of a stage leads to: from trained to judged, from judged to promoted, or to one of the other ends."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from models.errors import ConflictError, ContractError, UnreachableError
from models.trainer import EXIT_CHECKPOINTED, EXIT_UNREACHABLE
from service.jobs.outcome import Died, Failed, Fitted, Outcome, Stopped, Unreachable, last_words

if TYPE_CHECKING:
    from models.gate_report import GateReport
    from service.jobs.desk import Desk
    from service.jobs.schema import Job

logger = logging.getLogger("candor.jobs")
_OVER = {
    "deadline": "it took longer than a job may",
    "no_heartbeat": "the trainer had not been heard of for longer than it may be silent",
}
_NO_MEMORY = "the system ended the trainer, which used more memory than there is"
_AWAY = "the registry could not be reached; going on as soon as it can"
# Nobody saw it, or a signal, or the checkpoint that a signal asks for: it was ended, and did not end.
_FROM_OUTSIDE = {None, EXIT_CHECKPOINTED, -signal.SIGKILL, -signal.SIGTERM}


def after_fit(desk: Desk, job: Job, outcome: Outcome, over: str | None, *, is_memory: bool, is_last: bool) -> None:
    """The trainer has ended.

    Args:
        desk: Moves the job.
        job: It is `running`.
        outcome: What the trainer said of its end.
        over: Why it had to end, if it had to.
        is_memory: Whether the kernel ended processes for want of memory meanwhile.
        is_last: Whether this was the last attempt that a job has.
    """
    version = {"version": outcome.version} if isinstance(outcome, Fitted) else {}
    if job.is_cancelling:
        desk.end(job, "cancelled", "cancelled", "cancelled while it trained", **version)
    elif isinstance(outcome, Fitted):
        desk.move(job, "evaluating", process=None, **version)
    elif over is not None:
        desk.end(job, "timed_out", over, _OVER[over])
    elif isinstance(outcome, Failed):
        desk.end(job, "failed", outcome.code, outcome.error)
    elif isinstance(outcome, Stopped):
        # In good order, and so no attempt that failed.
        desk.move(job, "queued", attempt=job.attempt - 1)
    elif isinstance(outcome, Unreachable):
        # The same attempt goes on, with what is left of its time.
        desk.move(job, "preparing", process=None, reason=_AWAY)
    elif is_memory:
        desk.end(job, "failed", "out_of_memory", _NO_MEMORY)
    elif is_last:
        desk.end(job, "failed", "crashed", _crashed(job, outcome))
    else:
        desk.move(job, "queued", reason=f"attempt {job.attempt} died; going on from its last checkpoint")


def _crashed(job: Job, outcome: Died) -> str:
    return f"the trainer died in each of {job.attempt} attempts; its log ends with:\n{outcome.last_words}"


def after_gate(desk: Desk, job: Job, over: str | None, code: int | None, *, is_memory: bool) -> None:
    """The gate has ended, with a report or without; `code` is how, where that is known."""
    if job.is_cancelling:
        desk.end(job, "cancelled", "cancelled", "cancelled while it was judged")
        return
    report = read_report(desk, job)
    if report is None:
        if over is not None:
            desk.end(job, "timed_out", over, _OVER[over])
        elif is_memory:
            desk.end(job, "failed", "out_of_memory", _NO_MEMORY)
        elif code == EXIT_UNREACHABLE:
            desk.move(job, "evaluating", process=None, reason=_AWAY)
        elif code in _FROM_OUTSIDE:
            # It costs seconds to ask again.
            desk.move(job, "evaluating", process=None)
        else:
            words = last_words(desk.folder(job))
            desk.end(job, "failed", "evaluation_failed", f"the candidate could not be judged; the log ends with:\n{words}")
    elif report.verdict == "reject":
        desk.end(job, "rejected", "gate", " ".join(report.reasons))
    elif job.spec.promote == "manual":
        desk.end(job, "succeeded", "candidate", f"passed the gate; promote {job.spec.model}:{job.version} when you like")
    else:
        desk.move(job, "publishing", process=None)


def publish(desk: Desk, job: Job) -> None:
    """Move the alias, if production is still what the candidate was compared with."""
    report, name, version = read_report(desk, job), job.spec.model, job.version
    try:
        aliases = desk.registry.aliases(name)
        if aliases.production != version:
            if report is None or version is None or report.production != aliases.production:
                desk.move(job, "evaluating", process=None)
                return
            desk.registry.promote(name, version, expected_epoch=aliases.epoch)
    except ConflictError:
        desk.move(job, "evaluating", process=None)
    except UnreachableError:
        # The job stays as it is, and is looked at again.
        return
    except ContractError as err:
        desk.end(job, "failed", "not_promoted", str(err))
    else:
        desk.end(job, "succeeded", "promoted", f"{name}:{version} passed the gate and is in production", is_promoted=True)


def read_report(desk: Desk, job: Job) -> GateReport | None:
    """What the gate wrote of this job's version; None where it wrote nothing that can be read."""
    report = desk.folder(job).report()
    return report if report is not None and report.candidate == job.version else None
