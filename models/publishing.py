"""How a version appears in a folder: copied beside, sealed, and renamed into place, which fails if the number is taken.

Owns how a version is given its number, and the folders `.publishing-*` that something is made in before it appears. A process
that dies leaves one behind; who publishes next, or prunes, removes it after an hour. Knows nothing of aliases.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING

from models import artifact, staging
from models.aliases import FILE_MODE, FOLDER_MODE, is_number

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from models.manifest import Manifest

_PREFIX = ".publishing-"
# Machines that share a folder do not always see each other's locks, and no file takes so long.
IDLE_S = 3600.0


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

        def take(sealed: Manifest) -> bool:
            return rename(made, folder / str(sealed.version))

        sealed = seal_numbered(made, manifest, finish, lambda: max(numbers(folder), default=0) + 1, take)
    artifact.sync(folder)
    folder.parent.chmod(FOLDER_MODE)
    folder.chmod(FOLDER_MODE)
    return sealed


def seal_numbered(
    made: Path,
    manifest: Manifest,
    finish: Callable[[Path, Manifest], None] | None,
    next_number: Callable[[], int],
    take: Callable[[Manifest], bool],
) -> Manifest:
    """Seal what is in `made` under the next number, again and again until it could be taken: somebody else may be faster.

    Args:
        made: The files, which are to be the version.
        manifest: Its card; `version` and `files` are filled in here.
        finish: As with `Registry.publish`.
        next_number: Which number comes next.
        take: Takes the number exclusively; false where it is taken.

    Raises:
        ArtifactError: If a required file is missing or refused; no number is used up.
    """
    while True:
        numbered = manifest.model_copy(update={"version": next_number()})
        if finish is not None:
            finish(made, numbered)
        sealed = artifact.seal(made, numbered)
        make_readable(made)
        if take(sealed):
            return sealed


def rename(made: Path, place: Path) -> bool:
    """Rename a folder; false where there is one that is not empty, and a version never is."""
    try:
        made.rename(place)
    except OSError as err:
        if err.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def numbers(folder: Path) -> list[int]:
    """The numbers that were ever taken, in a folder of versions, in no order."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [int(entry.name) for entry in os.scandir(folder) if is_number(entry.name)]
    return []


def sweep(home: Path) -> int:
    """Remove what processes that died were making in `home`, an hour ago or earlier; how many there were."""
    return staging.sweep(home, _PREFIX, IDLE_S)


def staging_in(home: Path) -> AbstractContextManager[Path]:
    """A folder to make something in, gone afterwards if nobody renamed it."""
    return staging.work_folder(home, _PREFIX)


def make_readable(folder: Path) -> None:
    """Readable for everybody: who serves a version is seldom who trained it."""
    folder.chmod(FOLDER_MODE)
    for path in folder.rglob("*"):
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
