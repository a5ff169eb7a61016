"""How versions leave a registry, and get into another one: delete, prune, copy.

A version is gone at once, when its manifest is renamed; what remains of it is that file, so that its number is never given
again. Whoever points an alias at it at the same moment is told of a conflict, since a deletion is noted in the aliases too.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from models import artifact
from models.aliases import is_number
from models.errors import ConflictError, InUseError, ManifestError, UnknownModelError
from models.manifest import Manifest
from models.publishing import make_readable, rename, staging_in, sweep

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
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
        now = registry.current(name)
        registry.require(name, version)
        role = now.role_of(version, registry.present(name))
        if role is not None:
            raise InUseError(f"{name}:{version} is {role} and cannot be deleted; point that at another version first")
        registry.bury(name, version)
        try:
            registry.note(name, now, f"delete {version}")
        except ConflictError:
            # Somebody moved an alias, perhaps to this very version.
            registry.unbury(name, version)
            continue
        registry.empty(name, version)
        return


def prune(registry: Registry, name: str, keep: int) -> list[int]:
    """Delete all but what is needed and the newest `keep`; see `Registry.prune`."""
    registry.sweep(name)
    versions = registry.versions(name)
    deleted = []
    for version in versions[: max(0, len(versions) - keep)]:
        # One that somebody else deletes at this moment is no reason to leave the others.
        with contextlib.suppress(InUseError, ConflictError, UnknownModelError):
            delete(registry, name, version)
            deleted.append(version)
    return deleted


def sweep_folder(registry: Registry, name: str) -> None:
    """Remove what processes that died left of publishing and of deleting below a name's folder."""
    home = registry.home(name)
    for folder in (home, home / "holdout"):
        sweep(folder)
    buried = {}
    for tombstone in home.glob(f"versions/*/{DELETED}"):
        if not is_number(tombstone.parent.name):
            continue
        left = {path.relative_to(tombstone.parent).as_posix() for path in tombstone.parent.rglob("*") if path.is_file()}
        if len(left) > 1:
            buried[int(tombstone.parent.name)] = is_complete(tombstone.read_bytes(), left)
    finish(registry, name, buried)


def finish(registry: Registry, name: str, buried: Mapping[int, bool]) -> None:
    """End deletions that broke off: what an alias names by now comes back, the rest goes.

    Args:
        registry: Where.
        name: Of which model.
        buried: The versions that have more left than a tombstone, and whether all files of each are there.
    """
    now = registry.current(name)
    present = registry.present(name)
    for version, is_whole in buried.items():
        if is_whole and now.role_of(version, {*present, version}) is not None:
            registry.unbury(name, version)
            continue
        try:
            # As `delete` does it, so that who points an alias at it meanwhile is told of a conflict.
            now = registry.note(name, now, f"delete {version}")
        except ConflictError:
            return
        registry.empty(name, version)


def receive(target: Registry, source: Path, sealed: Manifest) -> None:
    """Copy a verified version into a folder, under its own number.

    Raises:
        ArtifactError: If it was altered on the way.
        ConflictError: If the number is taken there.
    """
    home, place = target.home(sealed.name), target.home(sealed.name) / "versions" / str(sealed.version)
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(home)
    with staging_in(home) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        artifact.verify(staging)
        make_readable(staging)
        for path in (*staging.rglob("*"), staging):
            artifact.sync(path)
        if not rename(staging, place):
            require_same(target, sealed)
    for folder in (home, place.parent):
        folder.chmod(0o755)
        artifact.sync(folder)


def require_same(target: Registry, sealed: Manifest) -> None:
    """Refuse to copy a version to where its number is taken by another, or by one that is no more.

    Raises:
        ConflictError: If it is.
    """
    if sealed.version not in target.versions(sealed.name):
        raise ConflictError(f"{target.place} had a {sealed.reference}, which was deleted; its number is not given again")
    if target.manifest(sealed.name, sealed.version).sha256 != sealed.sha256:
        raise ConflictError(f"{target.place} has another {sealed.reference}; copy it to a registry of its own")


def is_complete(tombstone: bytes, files: Container[str]) -> bool:
    """Whether all is there that a tombstone lists; also where it cannot be read, and nobody can tell."""
    with contextlib.suppress(ManifestError):
        return all(file in files for file in Manifest.parse(tombstone).files)
    return True


def empty(path: Path) -> None:
    """Remove the files of a deleted version, and leave its manifest."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != DELETED:
            entry.unlink(missing_ok=True)
