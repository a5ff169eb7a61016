"""Moving a job on: the database first, then its story, and what is left over when it has ended."""

from __future__ import annotations

import contextlib
import logging
import shutil
from typing import TYPE_CHECKING, Any

from models.errors import ContractError
from service.jobs.folder import JobFolder
from service.jobs.schema import FINAL

if TYPE_CHECKING:
    from pathlib import Path

    from models.registry import Registry
    from service.jobs.schema import Job, JobState
    from service.jobs.store import JobStore

logger = logging.getLogger("candor.jobs")


class Desk:
    """What every stage needs: the jobs, their folders, and the registry."""

    def __init__(self, store: JobStore, home: Path, registry: Registry) -> None:
        """Take them."""
        self.store = store
        self.registry = registry
        self._home = home

    def folder(self, job: Job) -> JobFolder:
        """Where a job's files are."""
        return JobFolder(self._home / "jobs" / job.id)

    def move(self, job: Job, state: JobState, **values: Any) -> Job | None:
        """Move a job on and tell of it; None where somebody else moved it, and nothing is to be done any more."""
        moved = self.store.move(job, state, **values)
        if moved is None:
            logger.warning("job %s is no longer %s at epoch %d; left to whoever moved it", job.id, job.state, job.epoch)
        elif moved.state != job.state:
            self.tell(moved)
        return moved

    def end(self, job: Job, state: JobState, code: str, reason: str, **values: Any) -> None:
        """Let a job end, and clear up behind it: the run's checkpoints, and the alias of what is not to be promoted."""
        moved = self.move(job, state, code=code, reason=reason, **values)
        if moved is not None:
            self._clear_up(moved)

    def _clear_up(self, job: Job) -> None:
        """What an ended job leaves: its checkpoints, and the alias of a version that is not to be promoted."""
        shutil.rmtree(self._home / "runs" / job.id, ignore_errors=True)
        if job.version is not None and job.state != "succeeded":
            with contextlib.suppress(ContractError):
                self.registry.withdraw(job.spec.model, job.version)

    def tell(self, job: Job) -> None:
        """Write a job's state into its story; where the disk is full the database still has it."""
        fields = {"attempt": job.attempt, "version": job.version, "code": job.code, "reason": job.reason}
        if job.state == "succeeded":
            fields["promoted"] = job.is_promoted
        said = {key: value for key, value in fields.items() if value is not None}
        logger.info("job %s is %s %s", job.id, job.state, said)
        try:
            self.folder(job).tell("state", state=job.state, **said)
        except OSError as err:
            logger.error("the story of job %s cannot be written: %s", job.id, err)

    def tidy(self, keep: int, newest: int) -> None:
        """Clear up behind the `newest` jobs, which others may have ended, and forget all but `keep`."""
        for job in self.store.find(FINAL, limit=newest):
            self._clear_up(job)
        for identity in self.store.surplus(keep):
            JobFolder(self._home / "jobs" / identity).remove()
            self.store.forget(identity)
