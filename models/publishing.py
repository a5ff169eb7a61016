"""How a version appears: copied beside, sealed, and renamed into place, which fails if the number is taken.

Owns the folders `.publishing-*` that something is made in before it appears. A process that dies leaves one behind; who
publishes next, or prunes, removes it. Knows nothing of aliases.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

from models import artifact, staging
from models.aliases import FILE_MODE, FOLDER_MODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
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
    with staging_in(home) as made:
        shutil.copytree(source, made, dirs_exist_ok=True)
        return _rename_into_place(made, folder, manifest, finish)


def sweep(home: Path) -> int:
    """Remove what processes that died were making in `home`; how many there were."""
    return staging.sweep(home, _PREFIX)


def staging_in(home: Path) -> AbstractContextManager[Path]:
    """A folder to make something in, gone afterwards if nobody renamed it."""
    return staging.work_folder(home, _PREFIX)


def _rename_into_place(made: Path, folder: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None) -> Manifest:
    """Rename fails on a folder that is not empty, and a version never is: so the number is taken exclusively."""
    while True:
        version = max((int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal()), default=0) + 1
        numbered = manifest.model_copy(update={"version": version})
        if finish is not None:
            finish(made, numbered)
        sealed = artifact.seal(made, numbered)
        make_readable(made)
        try:
            made.rename(folder / str(version))
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
