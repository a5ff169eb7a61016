"""Trainers that run: whether they are to end, and ending them, first with a request and then by force.

No clock that can be set is read: what counts is that the heartbeat's file changes, and how long by a clock that only runs.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.jobs.process import kill_group, send
from service.jobs.store import boot_s

if TYPE_CHECKING:
    from service.jobs.folder import JobFolder
    from service.jobs.schema import Job, Process

# Between the request to end, which a checkpoint follows, and the end by force.
GRACE_S = 7.0


@dataclass(frozen=True)
class Patience:
    """How long a trainer may take for an attempt, and how long it may be silent, in seconds."""

    deadline_s: float
    heartbeat_s: float


@dataclass
class _Watched:
    beat: int
    heard: float
    asked: float | None = None
    # The code that a job ends with when its time is over.
    over: str | None = None


class Watch:
    """What this supervisor knows of the trainers that run."""

    def __init__(self, patience: Patience) -> None:
        """Watch nobody yet."""
        self._patience = patience
        self._watched: dict[str, _Watched] = {}

    def look(self, job: Job, process: Process, folder: JobFolder) -> None:
        """Look at a trainer that runs, and end it where it is cancelled, late or hung."""
        watched, now = self._entry(job, folder), time.monotonic()
        if watched.over is None:
            watched.over = self._over(job, watched, now)
            if watched.over == "no_heartbeat":
                # Who does not write does not listen either.
                kill_group(process)
        if watched.asked is not None and now - watched.asked > GRACE_S:
            kill_group(process)
        elif watched.asked is None and (job.is_cancelling or watched.over):
            self.ask(job, process, folder)

    def ask(self, job: Job, process: Process, folder: JobFolder) -> None:
        """Ask a trainer to write a checkpoint and end."""
        self._entry(job, folder).asked = time.monotonic()
        send(process, signal.SIGTERM)

    def over(self, job: Job) -> str | None:
        """Why a trainer that has ended had to: `deadline`, `no_heartbeat`, or None; and it is watched no longer."""
        watched = self._watched.pop(job.id, None)
        return watched.over if watched else None

    def _entry(self, job: Job, folder: JobFolder) -> _Watched:
        try:
            beat = folder.heartbeat.stat().st_mtime_ns
        except OSError:
            beat = 0
        watched = self._watched.setdefault(job.id, _Watched(beat, time.monotonic()))
        if beat != watched.beat:
            watched.beat, watched.heard = beat, time.monotonic()
        return watched

    def _over(self, job: Job, watched: _Watched, now: float) -> str | None:
        if job.begun_boot_s is not None and boot_s() - job.begun_boot_s > self._patience.deadline_s:
            return "deadline"
        return "no_heartbeat" if now - watched.heard > self._patience.heartbeat_s else None
