"""Processes that outlive who started them: told apart for certain, ended for certain.

A number alone says nothing, since numbers are used again: it counts only with the time of the process's start, and the boot
in which that was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from service.jobs.schema import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROC = Path("/proc")
_LOOK_S = 0.05
# Of /proc/<pid>/stat, counted after the name, which may itself hold spaces: state, group, and start in ticks since boot.
_STATE, _GROUP, _STARTED = 0, 2, 19


def boot_id() -> str:
    """Which run of the kernel this is."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Process | None:
    """A process by its number; None where there is none."""
    fields = _stat(pid)
    return Process(pid=pid, started=int(fields[_STARTED]), boot=boot_id()) if fields else None


def is_running(process: Process) -> bool:
    """Whether it is there and has not ended; one that ended and was not waited for has."""
    fields = _stat(process.pid)
    return (
        bool(fields)
        and fields[_STATE] not in {"Z", "X"}
        and int(fields[_STARTED]) == process.started
        and boot_id() == process.boot
    )


def find_process(*arguments: str) -> Process | None:
    """A process whose command line has these arguments, one after the other; None where there is none."""
    wanted = "\0".join(("", *arguments, "")).encode()
    for pid in _pids():
        try:
            is_it = wanted in (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if is_it and (process := identify(pid)) is not None and is_running(process):
            return process
    return None


def send(process: Process, number: signal.Signals) -> None:
    """Send a signal to a process, if it is still there."""
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def kill_group(process: Process) -> None:
    """End a process that leads a group, and all that is in its group, dead or alive as the leader is.

    A group keeps its number while anybody is in it, so the number means this group for as long as one member is left.
    """
    if boot_id() != process.boot:
        return
    members = [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[_GROUP]) == process.pid]
    leader = _stat(process.pid)
    if leader and int(leader[_STARTED]) != process.started:
        # The number is somebody else's by now, which it could not be if the group were not empty.
        return
    if members:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def try_lock(path: Path) -> int | None:
    """Lock a file for this process and those that inherit the descriptor; None where somebody has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def wait_for_lock(path: Path, seconds: float) -> int | None:
    """Lock a file as soon as it is free: whoever looks at it (`is_locked`) holds it for a moment, and who ends for longer."""
    until = time.monotonic() + seconds
    while (lock := try_lock(path)) is None and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return lock


def is_locked(path: Path) -> bool:
    """Whether some process holds a lock on the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _pids() -> Sequence[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdecimal()]


def _stat(pid: int) -> list[str]:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
