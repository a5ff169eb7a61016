"""How versions leave a registry, and get into another one: delete, prune, copy.

A version is gone at once, when its manifest is renamed; what remains of it is that file, so that its number is never given
again. Whoever points an alias at it at the same moment is told of a conflict, since a deletion is noted in the aliases too.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from typing import TYPE_CHECKING

from models import artifact
from models.artifact import MANIFEST
from models.errors import ConflictError, InUseError
from models.publishing import make_readable, staging_in, sweep

if TYPE_CHECKING:
    from pathlib import Path

    from models.registry import Registry

# What the manifest of a deleted version is called.
DELETED = "deleted.json"


def delete(registry: Registry, name: str, version: int) -> None:
    """Delete a version; see `Registry.delete`.

    Raises:
        UnknownModelError: If there is none.
        InUseError: If it is in production, the candidate, or what a rollback goes back to.
    """
    while True:
        now = registry.aliases(name)
        path = registry.path(name, version)
        role = now.role_of(version, registry.versions(name))
        if role is not None:
            raise InUseError(f"{name}:{version} is {role} and cannot be deleted; point that at another version first")
        (path / MANIFEST).rename(path / DELETED)
        try:
            registry.note(name, now, f"delete {version}")
        except ConflictError:
            # Somebody moved an alias, perhaps to this very version.
            (path / DELETED).rename(path / MANIFEST)
            continue
        _empty(path)
        return


def prune(registry: Registry, name: str, keep: int) -> list[int]:
    """Delete all but what is needed and the newest `keep`; see `Registry.prune`."""
    home = registry.home(name)
    for folder in (home, home / "holdout"):
        sweep(folder)
    for tombstone in home.glob(f"versions/*/{DELETED}"):
        _empty(tombstone.parent)
    versions = registry.versions(name)
    deleted = []
    for version in versions[: max(0, len(versions) - keep)]:
        with contextlib.suppress(InUseError):
            delete(registry, name, version)
            deleted.append(version)
    return deleted


def copy(registry: Registry, name: str, version: int, target: Registry) -> Path:
    """Copy a version under its own number; see `Registry.copy`.

    Raises:
        UnknownModelError: If there is none.
        ArtifactError: If it was altered, here or on the way.
        ConflictError: If the number is taken there.
    """
    source = registry.path(name, version)
    sealed = artifact.verify(source)
    home, place = target.home(name), target.home(name) / "versions" / str(version)
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(home)
    with staging_in(home) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        artifact.verify(staging)
        make_readable(staging)
        for path in (*staging.rglob("*"), staging):
            artifact.sync(path)
        try:
            staging.rename(place)
        except OSError as err:
            if err.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            _require_same(target, name, version, sealed.sha256)
    for folder in (home, place.parent):
        folder.chmod(0o755)
        artifact.sync(folder)
    return place


def _require_same(target: Registry, name: str, version: int, sha256: str) -> None:
    if version not in target.versions(name):
        raise ConflictError(f"{target.root} had a {name}:{version}, which was deleted; its number is not given again")
    if target.manifest(name, version).sha256 != sha256:
        raise ConflictError(f"{target.root} has another {name}:{version}; copy it to a registry of its own")


def _empty(path: Path) -> None:
    """Remove the files of a deleted version, and leave its manifest."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != DELETED:
            entry.unlink(missing_ok=True)
