"""The one process that moves jobs on: it gives out devices, starts trainers, watches them, and acts on what they come to.

All that it must not forget is in the database and in the job's folder, so it may end at any moment: the next one finds the
trainer by its process, or finds it gone. A step reads, decides and writes; nothing is waited for within it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import ContractError, UnreachableError
from models.trainer import EXIT_UNREACHABLE
from service.errors import ServiceError
from service.jobs.commands import fit_arguments, gate_arguments
from service.jobs.outcome import Died, Fitted, Unreachable, outcome_of_fit
from service.jobs.process import find_process, is_running, kill_group, try_lock
from service.jobs.schema import ACTIVE
from service.jobs.stages import after_fit, after_gate, publish
from service.jobs.store import boot_s
from service.jobs.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.jobs.desk import Desk
    from service.jobs.outcome import Outcome
    from service.jobs.schema import Job, JobState, Process
    from service.jobs.trainer import Trainer
    from service.jobs.watch import Patience

logger = logging.getLogger("candor.jobs")
# A trainer that must end because the supervisor does may take this long over its checkpoint.
CHECKPOINT_S = 25.0
# Between the end of a trainer that waited two minutes for the registry, and its next start: that costs seconds of processor time.
AWAY_S = 60.0
# Jobs that others than this supervisor may have ended since it last looked.
_RECENT = 50
_LOOK_S = 0.1


@dataclass(frozen=True)
class Rules:
    """How jobs are run.

    Attributes:
        devices: How many run at once, one on each.
        patience: How long one may take.
        attempts: How often a job is begun before a death is no longer put down to chance.
        keep: Jobs that have ended are forgotten when there are more than these.
    """

    devices: int
    patience: Patience
    attempts: int
    keep: int


class Supervisor:
    """See the module."""

    def __init__(self, desk: Desk, locks: Path, trainer: Trainer, rules: Rules, locate: Callable[[str], Path]) -> None:
        """Take the parts.

        Args:
            desk: Jobs, folders, registry.
            locks: The folder of the devices' locks.
            trainer: Starts what trains.
            rules: How jobs are run.
            locate: The folder of a data set, by how a job calls it.
        """
        self._desk = desk
        self._locks = locks
        self._trainer = trainer
        self._rules = rules
        self._locate = locate
        self._watch = Watch(rules.patience)
        self._gates: Counter[str] = Counter()
        # Jobs whose registry is away, and when their process is started again; the next supervisor does not wait.
        self._again_at: dict[str, float] = {}
        # How many jobs had ended when it was last tidied up behind them.
        self._tidied = -1

    def step(self) -> None:
        """Look at every device once, and do what is to be done."""
        for job in self._active():
            # One that goes wrong in a way that nobody thought of must not keep the others waiting.
            with _logged(f"job {job.id}"):
                self._go_on(job)
        taken = {job.device for job in self._active()}
        for device in set(range(self._rules.devices)) - taken:
            with _logged(f"device {device}"):
                self._begin(device)
        ended = sum(self._desk.store.finished().values())
        if ended != self._tidied:
            self._desk.tidy(self._rules.keep, _RECENT if self._tidied >= 0 else self._rules.keep)
            self._tidied = ended

    def stop(self) -> None:
        """Have every trainer write its checkpoint and end, and its job wait for the next supervisor."""
        until = time.monotonic() + CHECKPOINT_S
        running = [(job, job.process) for job in self._active() if job.process]
        for job, process in running:
            self._watch.ask(job, process, self._desk.folder(job))
        while time.monotonic() < until and any(self._runs(process) for _, process in running):
            time.sleep(_LOOK_S)
        for job, process in running:
            if not self._runs(process):
                self._ended(job, process)

    def _active(self) -> list[Job]:
        return self._desk.store.find(ACTIVE)

    def _begin(self, device: int) -> None:
        """Give a device to whoever waits longest, unless somebody is on it: a trainer that no job knows of may be."""
        with _Lock(self._locks, device) as lock:
            job = self._desk.store.claim(device, boot_s()) if lock is not None else None
            if job is None or lock is None:
                return
            self._desk.tell(job)
            self._fit(job, lock)

    def _fit(self, job: Job, lock: int) -> None:
        """Start the trainer, which goes on where an earlier one stopped."""
        folder = self._desk.folder(job)
        try:
            data = [self._locate(reference) for reference in job.spec.dataset]
            folder.make(job.spec.recipe)
        except ServiceError as err:
            self._desk.end(job, "failed", err.code, str(err))
        except OSError as err:
            self._desk.end(job, "failed", "no_space", f"the job's folder cannot be written: {err.strerror}")
        except Exception as err:
            # Claimed again it would go wrong again, before all that wait behind it.
            logger.exception("job %s cannot be begun", job.id)
            self._desk.end(job, "failed", "invalid_dataset" if isinstance(err, ContractError) else "internal", str(err))
        else:
            self._start(job, "running", fit_arguments(job, folder, data), lock)

    def _fit_again(self, job: Job) -> None:
        """Start the trainer on the device that the job has kept, as soon as the last one's processes have let go of it."""
        with _Lock(self._locks, job.device or 0) as lock:
            if lock is not None:
                self._fit(job, lock)

    def _evaluate(self, job: Job) -> None:
        """Start the gate, as soon as the trainer's last process has let go of the device."""
        with _Lock(self._locks, job.device or 0) as lock:
            if lock is None:
                return
            folder = self._desk.folder(job)
            folder.gate.unlink(missing_ok=True)
            self._gates[job.id] += 1
            self._start(job, "evaluating", gate_arguments(job, folder), lock)

    def _start(self, job: Job, state: JobState, arguments: list[str], lock: int) -> None:
        """Start a stage's process. If this is killed before it is noted, the lock that it holds still says it is there."""
        folder = self._desk.folder(job)
        try:
            folder.heartbeat.touch()
            process = self._trainer.start(arguments, folder.log, job.device or 0, lock)
        except OSError as err:
            self._desk.end(job, "failed", "internal", f"the trainer cannot be started: {err.strerror or err}")
            return
        if self._desk.move(job, state, process=process, reason=None) is None:
            kill_group(process)

    def _go_on(self, job: Job) -> None:
        if job.state == "publishing":
            publish(self._desk, job)
        elif job.process is not None:
            if self._runs(job.process):
                self._watch.look(job, job.process, self._desk.folder(job))
            else:
                self._ended(job, job.process)
        elif job.state != "evaluating" and (found := find_process("--run", job.id)) is not None:
            # A supervisor ended after it had started the trainer, and before it had noted that.
            self._desk.move(job, "running", process=found)
        elif job.is_cancelling:
            self._desk.end(job, "cancelled", "cancelled", "cancelled while nothing ran")
        elif time.monotonic() < self._again_at.get(job.id, 0.0):
            return
        elif job.state == "preparing" and job.id in self._again_at:
            self._fit_again(job)
        elif job.state != "evaluating":
            self._desk.move(job, "queued", attempt=job.attempt - 1)
        elif self._gates[job.id] < self._rules.attempts:
            self._evaluate(job)
        else:
            reason = f"the gate was ended {self._rules.attempts} times before it had decided"
            self._desk.end(job, "failed", "evaluation_failed", reason)

    def _ended(self, job: Job, process: Process) -> None:
        # Those that it started may be alive, and hold the device.
        kill_group(process)
        code, is_memory = self._trainer.exit_code(process), self._trainer.was_out_of_memory(process)
        self._again_at.pop(job.id, None)
        if job.state == "evaluating":
            if code == EXIT_UNREACHABLE:
                self._gates[job.id] -= 1
                self._again_at[job.id] = time.monotonic() + AWAY_S
            after_gate(self._desk, job, self._watch.over(job), code, is_memory=is_memory)
            return
        # First: it asks the registry, and where that is away the end is looked at again, with all that is known of it.
        outcome = self._outcome(job, code)
        if isinstance(outcome, Unreachable):
            self._again_at[job.id] = time.monotonic() + AWAY_S
        is_last = job.attempt >= self._rules.attempts
        after_fit(self._desk, job, outcome, self._watch.over(job), is_memory=is_memory, is_last=is_last)

    def _outcome(self, job: Job, code: int | None) -> Outcome:
        outcome = outcome_of_fit(self._desk.folder(job), code)
        if isinstance(outcome, Died) and (version := self._desk.registry.find_run(job.spec.model, job.id)) is not None:
            # It published, and could not say so.
            return Fitted(version)
        return outcome

    def _runs(self, process: Process) -> bool:
        # Asked first: it takes leave of a child that has ended, which would be seen as running otherwise.
        self._trainer.exit_code(process)
        return is_running(process)


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except UnreachableError:
        # The registry's, which has said so: nothing is decided without it.
        return
    except Exception:
        logger.exception("%s could not be looked at; trying again", what)


class _Lock:
    """A device's lock while a process is started on it; what was started keeps it."""

    def __init__(self, locks: Path, device: int) -> None:
        self._path = locks / f"device-{device}.lock"
        self._descriptor: int | None = None

    def __enter__(self) -> int | None:
        self._descriptor = try_lock(self._path)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
