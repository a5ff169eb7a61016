"""Names, versions and aliases: `registry/<name>/versions/<n>/` and `registry/<name>/aliases/<epoch>.json`.

A version appears at once, by one rename that fails if the number is taken; an alias changes by the exclusive creation of
the next epoch's file, so the files are the history and two writers cannot both win. Nothing is ever edited. Knows
artifacts only as directories with a manifest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models import artifact
from models.artifact import MANIFEST, read_manifest
from models.errors import ConflictError, NothingToRollBackError, RegistryError, UnknownModelError, describe
from models.manifest import NAME_PATTERN, Manifest, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.confidence.schema import Confidence

HISTORY = 50
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644


class Aliases(BaseModel):
    """What each alias of a name points to since `epoch`. `previous` holds earlier production versions, newest last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    epoch: int
    production: int | None = None
    candidate: int | None = None
    previous: tuple[int, ...] = ()
    action: str = ""
    at: datetime | None = None

    @classmethod
    def none(cls) -> Self:
        """The state before the first promotion."""
        return cls(epoch=0)


class Registry:
    """A folder of named, versioned artifacts. Safe for any number of processes on one file system."""

    def __init__(self, root: Path) -> None:
        """Name the folder. It need not exist yet."""
        self.root = root

    def names(self) -> list[str]:
        """Every name that has a version, in alphabetical order."""
        with contextlib.suppress(FileNotFoundError), _is_folder(self.root):
            names = (entry.name for entry in os.scandir(self.root) if re.fullmatch(NAME_PATTERN, entry.name))
            return sorted(name for name in names if self.versions(name))
        return []

    def versions(self, name: str) -> list[int]:
        """The versions of `name`, ascending; empty if there are none."""
        folder = self.root / name / "versions"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal() and _is_whole(entry.path))
        return []

    def path(self, name: str, version: int) -> Path:
        """The directory of a version.

        Raises:
            UnknownModelError: If there is none.
        """
        check_name(name)
        path = self.root / name / "versions" / str(version)
        if not _is_whole(path):
            raise UnknownModelError(self._unknown(name, version))
        return path

    def manifest(self, name: str, version: int) -> Manifest:
        """Read the card of a version, without verifying its files.

        Raises:
            UnknownModelError: If there is none.
            ManifestError: If it is not valid.
        """
        return read_manifest(self.path(name, version))

    def confidence(self, name: str, version: int) -> Confidence:
        """Read what a version says of its calibration, without verifying its files.

        Raises:
            UnknownModelError: If there is none.
            ArtifactError: If it cannot be read.
            ManifestError: If it is not valid.
        """
        return artifact.read_confidence(self.path(name, version))

    def aliases(self, name: str) -> Aliases:
        """What the aliases of `name` point to now.

        Raises:
            RegistryError: If the newest alias file is not valid.
        """
        epoch = max(self._epochs(name), default=0)
        if epoch == 0:
            return Aliases.none()
        file = self.root / name / "aliases" / f"{epoch}.json"
        try:
            return Aliases.model_validate_json(file.read_bytes())
        except ValidationError as err:
            raise RegistryError(f"{file} is not valid: {describe(err, 'aliases.{}'.format)}") from err

    def history(self, name: str) -> list[int]:
        """The epochs of `name`, ascending; each is a file of `aliases/`."""
        return sorted(self._epochs(name))

    def resolve(self, reference: str) -> tuple[str, int]:
        """Turn `name` (its production version) or `name:N` into a name and a version.

        Raises:
            UnknownModelError: If there is no such name or version, or the name has no production version.
        """
        name, version = parse_reference(reference)
        if version is None:
            version = self.aliases(name).production
            if version is None:
                raise UnknownModelError(self._unknown(name, None))
        self.path(name, version)
        return name, version

    def publish(self, source: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None = None) -> Manifest:
        """Make the files in `source` the next version of `manifest.name`, all of them at once.

        The first version of a name becomes its production version.

        Args:
            source: A folder with the artifact's files. It is copied, never changed.
            manifest: The card; `version` and `files` are filled in here.
            finish: Writes what names the version, such as a report, into the copy that is about to be it; called again
                where somebody else took that number first.

        Returns:
            The manifest as published.

        Raises:
            ArtifactError: If a required file is missing or refused.
        """
        name = check_name(manifest.name)
        folder = self.root / name / "versions"
        folder.mkdir(parents=True, exist_ok=True)
        staging = self.root / name / f".publishing-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            shutil.copytree(source, staging)
            sealed = self._rename_into_place(staging, folder, manifest, finish)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        now = self.aliases(name)
        if now.production is None:
            first = {"epoch": now.epoch + 1, "production": sealed.version, "action": "first version"}
            with contextlib.suppress(ConflictError):
                self._append(name, now.model_copy(update=first))
        return sealed

    def promote(self, name: str, version: int) -> Aliases:
        """Point `production` at `version`. Promoting what is in production changes nothing.

        Raises:
            UnknownModelError: If there is no such version.
            ConflictError: If somebody else moved the alias meanwhile.
        """
        self.path(name, version)
        now = self.aliases(name)
        if now.production == version:
            return now
        earlier = [v for v in (*now.previous, now.production) if v is not None and v != version]
        candidate = None if now.candidate == version else now.candidate
        return self._append(
            name,
            Aliases(
                epoch=now.epoch + 1,
                production=version,
                candidate=candidate,
                previous=tuple(earlier[-HISTORY:]),
                action=f"promote {version}",
            ),
        )

    def rollback(self, name: str) -> Aliases:
        """Point `production` back at the version before it.

        Raises:
            UnknownModelError: If the name has no production version.
            NothingToRollBackError: If there is no earlier version that still exists.
            ConflictError: If somebody else moved the alias meanwhile.
        """
        now = self.aliases(name)
        if now.production is None:
            raise UnknownModelError(self._unknown(name, None))
        present = set(self.versions(name))
        earlier = [v for v in now.previous if v in present]
        if not earlier:
            raise NothingToRollBackError(f"{name} has no production version before {now.production} to go back to")
        return self._append(
            name,
            now.model_copy(
                update={
                    "epoch": now.epoch + 1,
                    "production": earlier[-1],
                    "previous": tuple(earlier[:-1]),
                    "action": f"roll back from {now.production}",
                }
            ),
        )

    def _rename_into_place(
        self, staging: Path, folder: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None
    ) -> Manifest:
        """Rename fails on a folder that is not empty, and a version never is: so the number is taken exclusively."""
        while True:
            version = max((int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal()), default=0) + 1
            numbered = manifest.model_copy(update={"version": version})
            if finish is not None:
                finish(staging, numbered)
            sealed = artifact.seal(staging, numbered)
            _make_readable(staging)
            try:
                staging.rename(folder / str(version))
            except OSError as err:
                if err.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    continue
                raise
            artifact.sync(folder)
            folder.parent.chmod(_FOLDER_MODE)
            folder.chmod(_FOLDER_MODE)
            return sealed

    def _append(self, name: str, aliases: Aliases) -> Aliases:
        """Create the epoch's file exclusively: written whole beside, then linked under a name that must be free."""
        aliases = aliases.model_copy(update={"at": datetime.now(UTC)})
        folder = self.root / name / "aliases"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(_FOLDER_MODE)
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        artifact.write_synced(temporary, aliases.model_dump_json(indent=2).encode() + b"\n")
        temporary.chmod(_FILE_MODE)
        try:
            os.link(temporary, folder / f"{aliases.epoch}.json")
        except FileExistsError as err:
            raise ConflictError(f"somebody else moved an alias of {name} meanwhile; look again and repeat") from err
        finally:
            temporary.unlink()
        artifact.sync(folder)
        return aliases

    def _epochs(self, name: str) -> list[int]:
        check_name(name)
        try:
            entries = os.scandir(self.root / name / "aliases")
        except (FileNotFoundError, NotADirectoryError):
            return []
        stems = (entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))
        return [int(stem) for stem in stems if stem.isdecimal()]

    def _unknown(self, name: str, version: int | None) -> str:
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none yet"
            return f"there is no model named {name!r}; the registry {self.root} has: {known}"
        if version is None:
            return f"{name} has no production version; promote one of {versions}"
        return f"{name} has no version {version}; it has {versions}"


def _make_readable(folder: Path) -> None:
    """Readable for everybody: who serves a version is seldom who trained it."""
    folder.chmod(_FOLDER_MODE)
    for path in folder.rglob("*"):
        path.chmod(_FOLDER_MODE if path.is_dir() else _FILE_MODE)


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Split `name` or `name:N`.

    Raises:
        UnknownModelError: If it is neither.
    """
    match = re.fullmatch(rf"({NAME_PATTERN[1:-1]})(?::([1-9][0-9]{{0,8}}))?", reference)
    if match is None:
        raise UnknownModelError(
            f"{reference!r:.80} is not a model; write name or name:version, such as birds or birds:3, in small letters"
        )
    return match[1], int(match[2]) if match[2] else None


@contextlib.contextmanager
def _is_folder(root: Path) -> Iterator[None]:
    """Say in words that the registry's root is no folder, or may not be read."""
    try:
        yield
    except (NotADirectoryError, PermissionError) as err:
        raise RegistryError(f"the registry {root} cannot be read: {err.strerror}; CANDOR_REGISTRY names a folder") from err


def _is_whole(path: str | Path) -> bool:
    return Path(path, MANIFEST).is_file()
