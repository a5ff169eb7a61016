"""Folders for work in progress, beside what it will be: gone when the work ends, however it ends.

Whoever works holds a lock on the folder, which the system lets go of with the process; so what a dead process left behind
is told from what is being written, and removed by the next one. Knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import NoSpaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

INCOMING, _REMOVED = ".incoming-", ".removed-"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def work_folder(root: Path, prefix: str = INCOMING) -> Iterator[Path]:
    """Make a folder below `root` and remove it at the end, unless it was renamed by then.

    It is told from others by its lock and not by a process's number, which says nothing on another machine.
    """
    while True:
        folder = root / f"{prefix}{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        with _locked(folder) as is_mine:
            if not is_mine:
                # Somebody swept before it was locked.
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def discard(folder: Path, root: Path) -> None:
    """Delete a folder so that it is gone at once: renamed away below `root`, then removed file by file."""
    removed = root / f"{_REMOVED}{uuid.uuid4().hex}"
    with contextlib.suppress(FileNotFoundError):
        folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def sweep(root: Path, prefix: str = INCOMING, idle_s: float = 0.0) -> int:
    """Remove what dead processes left below `root`, and answer how many folders that were.

    Args:
        root: Where to look.
        prefix: What their names begin with.
        idle_s: For how many seconds nothing may have been written in one: where several machines share a folder, its file
            system may keep a lock to the machine that holds it.
    """
    with contextlib.suppress(FileNotFoundError):
        found = [Path(entry.path) for entry in os.scandir(root) if entry.name.startswith((prefix, _REMOVED))]
        return sum(_remove(folder) for folder in found if folder.name.startswith(_REMOVED) or _idle_s(folder) >= idle_s)
    return 0


def _idle_s(folder: Path) -> float:
    """Seconds since something was written in it, by the times of the inodes: a copy keeps its source's other times."""
    return time.time() - max(path.lstat().st_ctime for path in (folder, *folder.rglob("*")))


def _remove(folder: Path) -> bool:
    with _locked(folder) as is_free:
        if not is_free and not folder.name.startswith(_REMOVED):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Say in words that there is no room; whatever was written is removed by whoever wrote it.

    Raises:
        NoSpaceError: In place of the system's error.
    """
    try:
        yield
    except OSError as err:
        if err.errno in _FULL:
            raise NoSpaceError("the disk is full; make room and send it again, nothing of it was kept") from err
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder; false where somebody else has it, or the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor, folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
