"""How a version appears: copied beside, sealed, and renamed into place, which fails if the number is taken.

Owns the folders `.publishing-*` that something is made in before it appears. A process that dies leaves one behind; who
publishes next, or prunes, removes it. Knows nothing of aliases.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from typing import TYPE_CHECKING

from models import artifact
from models.aliases import FILE_MODE, FOLDER_MODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from models.manifest import Manifest

_PREFIX = ".publishing-"


def move_in(home: Path, source: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None) -> Manifest:
    """Make the files in `source` the next version below `home`; see `Registry.publish`.

    Raises:
        ArtifactError: If a required file is missing or refused.
    """
    folder = home / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    sweep(home)
    with staging_in(home) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        return _rename_into_place(staging, folder, manifest, finish)


def sweep(home: Path) -> int:
    """Remove what processes that died were making in `home`; how many there were."""
    gone = 0
    for left in home.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
            gone += 1
    return gone


@contextlib.contextmanager
def staging_in(home: Path) -> Iterator[Path]:
    """A folder to make something in, gone afterwards if nobody renamed it.

    It is locked for as long as this process lives, since the number of a process says nothing on another machine.
    """
    with contextlib.ExitStack() as held:
        path = _make(home, held)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _make(home: Path, held: contextlib.ExitStack) -> Path:
    """Make a folder and lock it; another one, where somebody swept it between the two."""
    while True:
        path = home / f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        path.mkdir()
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            held.enter_context(_locked(path))
            path.stat()
            return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _rename_into_place(
    staging: Path, folder: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None
) -> Manifest:
    """Rename fails on a folder that is not empty, and a version never is: so the number is taken exclusively."""
    while True:
        version = max((int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal()), default=0) + 1
        numbered = manifest.model_copy(update={"version": version})
        if finish is not None:
            finish(staging, numbered)
        sealed = artifact.seal(staging, numbered)
        make_readable(staging)
        try:
            staging.rename(folder / str(version))
        except OSError as err:
            if err.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                continue
            raise
        artifact.sync(folder)
        folder.parent.chmod(FOLDER_MODE)
        folder.chmod(FOLDER_MODE)
        return sealed


def make_readable(folder: Path) -> None:
    """Readable for everybody: who serves a version is seldom who trained it."""
    folder.chmod(FOLDER_MODE)
    for path in folder.rglob("*"):
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
