"""How a trainer is started: a small port, and its one implementation, a subprocess.

A trainer runs in a session of its own and holds the device's lock, so that neither the server's nor the supervisor's death
touches it, and nobody starts a second one on its device while any process of it lives.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from models.control_groups import PROC, memory_groups
from service.cores import available_cores
from service.jobs.process import identify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.jobs.schema import Process
    from service.settings import Priority

ROOT = Path(__file__).resolve().parent.parent.parent
_NICEST = 19


class Trainer(Protocol):
    """Starts what trains, and says how it ended."""

    def start(self, arguments: Sequence[str], log: Path, device: int, lock: int) -> Process:
        """Start `python -m training <arguments>` on a device, with the device's locked descriptor as its own.

        Raises:
            OSError: If it cannot be started.
        """

    def exit_code(self, process: Process) -> int | None:
        """How it ended, minus the signal where one ended it; None while it runs, and where nobody can know."""

    def was_out_of_memory(self, process: Process) -> bool:
        """Whether the kernel has ended processes for want of memory since it was started."""


@dataclass(frozen=True)
class Limits:
    """What a trainer may take.

    Attributes:
        devices: How many there are; with one it sees all that the machine has.
        priority: `low` gives way to everything else that wants the processor, the server above all.
        threads: Of each numeric library; None decides by the machine.
        memory_bytes: What it may allocate; None leaves that to the machine or the container.
    """

    devices: int
    priority: Priority
    threads: int | None
    memory_bytes: int | None


class SubprocessTrainer:
    """Trains on this machine."""

    def __init__(
        self, limits: Limits, home: Path, registry: Path | str, command: Sequence[str] = (sys.executable, "-m", "training")
    ) -> None:
        """Take the limits and the places to work in; `command` is what the arguments are given to."""
        self._limits = limits
        # Whole paths: the trainer runs in another folder than whoever named these.
        place = registry.absolute() if isinstance(registry, Path) else registry
        self._places = {"CANDOR_HOME": str(home.absolute()), "CANDOR_REGISTRY": str(place)}
        self._command = command
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._ooms: dict[int, int] = {}

    def start(self, arguments: Sequence[str], log: Path, device: int, lock: int) -> Process:
        """See `Trainer`."""
        ooms = _oom_kills()
        self._children = {pid: child for pid, child in self._children.items() if child.poll() is None}
        with log.open("ab") as said:
            child = subprocess.Popen(
                [*self._command, *arguments],
                cwd=ROOT,
                env=self._environment(os.environ, device),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        self._children[child.pid] = child
        self._ooms[child.pid] = ooms
        try:
            self._limit(child.pid)
            # A child that was not waited for keeps its entry, so it is found even if it has ended by now.
            process = identify(child.pid)
            if process is None:
                raise OSError(f"the trainer {child.pid} is not to be seen below /proc")
        except OSError:
            child.kill()
            raise
        return process

    def exit_code(self, process: Process) -> int | None:
        """See `Trainer`; of a trainer that another supervisor started nobody can know."""
        child = self._children.get(process.pid)
        return None if child is None else child.poll()

    def was_out_of_memory(self, process: Process) -> bool:
        """See `Trainer`."""
        return _oom_kills() > self._ooms.get(process.pid, sys.maxsize)

    def _environment(self, given: Mapping[str, str], device: int) -> dict[str, str]:
        threads = self._limits.threads or max(1, available_cores() // 2)
        # Threads that wait must not spin: the server's work is on the same cores.
        mine = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        if self._limits.devices > 1:
            mine["CUDA_VISIBLE_DEVICES"] = str(device)
        return {**{key: value for key, value in given.items() if key != "OPENBLAS_NUM_THREADS"}, **self._places, **mine}

    def _limit(self, pid: int) -> None:
        """From outside, right after its start: it has no thread yet that would not inherit these."""
        if self._limits.memory_bytes is not None:
            resource.prlimit(pid, resource.RLIMIT_DATA, (self._limits.memory_bytes, self._limits.memory_bytes))
        if self._limits.priority == "low":
            # Not niceness alone: a session of its own is scheduled as a group of its own where the kernel groups by session.
            os.setpriority(os.PRIO_PROCESS, pid, _NICEST)
            with contextlib.suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _oom_kills() -> int:
    """How many processes the kernel has ended for want of memory: of this group, else of the machine; 0 if it is silent."""
    files = [folder / file for folder in memory_groups() for file in ("memory.events", "memory.oom_control")]
    for file in (*files, PROC / "vmstat"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(dict(line.split() for line in file.read_text().splitlines())["oom_kill"])
    return 0
