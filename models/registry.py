"""Names, versions and aliases: `registry/<name>/versions/<n>/` and `registry/<name>/aliases/<epoch>.json`.

A version appears at once, by one rename that fails if the number is taken; an alias changes by the exclusive creation of
the next epoch's file, so the files are the history and two writers cannot both win. Nothing is ever edited. Knows
artifacts only as directories with a manifest.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from models import aliases as moves
from models import artifact, retention
from models.aliases import FILE_MODE, FOLDER_MODE, HISTORY, Aliases
from models.artifact import MANIFEST, read_manifest
from models.errors import ConflictError, ContractError, NothingToRollBackError, RegistryError, UnknownModelError, UnreachableError
from models.following import FolderFollower
from models.gate_report import GateReport
from models.manifest import NAME_PATTERN, Manifest, check_name
from models.publishing import move_in, numbers
from models.reference import parse_reference
from models.retention import DELETED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.confidence.schema import Confidence
    from models.following import Follower

GATES, HOLDOUT, POINTER, INDEX = "gates", "holdout", "current.json", "index.json"
# What a held-out set has beside its index.
THUMBNAILS, IMAGES = "thumbnails.npz", "images.zip"
# What a registry answers with: who asks it finds all of it here.
__all__ = ["HISTORY", "Aliases", "Registry", "parse_reference"]


class Registry:
    """A folder of named, versioned artifacts. Safe for any number of processes on one file system.

    `object_registry` keeps the same in an object store, in place of what touches files here.
    """

    def __init__(self, root: Path) -> None:
        """Name the folder. It need not exist yet."""
        self.root = root

    @property
    def place(self) -> str:
        """Where it is, for a person to read."""
        return str(self.root)

    def follower(self) -> Follower:
        """What looks at the aliases again and again."""
        return FolderFollower(self)

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
            return sorted(
                int(entry.name) for entry in os.scandir(folder) if moves.is_number(entry.name) and _is_whole(entry.path)
            )
        return []

    def present(self, name: str) -> list[int]:
        """As `versions`, for who is about to write."""
        return self.versions(name)

    def has_version(self, name: str) -> bool:
        """Whether there is a version of `name`."""
        return bool(self.versions(name))

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

    def require(self, name: str, version: int) -> None:
        """Refuse a version that is not there, without a look at its files.

        Raises:
            UnknownModelError: If there is none.
        """
        self.path(name, version)

    def verify(self, name: str, version: int) -> Manifest:
        """Hash every file of a version, where it is kept.

        Raises:
            UnknownModelError: If there is none.
            ArtifactError: If it was altered.
        """
        return artifact.verify(self.path(name, version))

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
        return moves.read_newest(self._aliases(name))

    def current(self, name: str) -> Aliases:
        """As `aliases`, for who is about to move them."""
        return self.aliases(name)

    def history(self, name: str) -> list[int]:
        """The epochs of `name`, ascending; each is a file of `aliases/`."""
        return moves.read_epochs(self._aliases(name))

    def find_run(self, name: str, run: str) -> int | None:
        """The newest version of `name` that the job `run` made; None where there is none. One that cannot be read is not it.

        Raises:
            UnreachableError: If nobody can tell now: the run would publish twice.
        """
        for version in reversed(self.present(name)):
            try:
                if self.manifest(name, version).run == run:
                    return version
            except UnreachableError:
                raise
            except ContractError:
                continue
        return None

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
        self.require(name, version)
        return name, version

    def publish(
        self,
        source: Path,
        manifest: Manifest,
        finish: Callable[[Path, Manifest], None] | None = None,
        *,
        first_is_production: bool = True,
    ) -> Manifest:
        """Make the files in `source` the next version of `manifest.name`, all of them at once.

        Args:
            source: A folder with the artifact's files. It is copied, never changed.
            manifest: The card; `version` and `files` are filled in here.
            finish: Writes what names the version, such as a report, into the copy that is about to be it; called again
                where somebody else took that number first.
            first_is_production: Whether the version goes into production where none is.

        Returns:
            The manifest as published.

        Raises:
            ArtifactError: If a required file is missing or refused.
        """
        name = check_name(manifest.name)
        sealed = self._take_in(source, manifest, finish)
        if first_is_production:
            self.promote_first(name, sealed.version)
        return sealed

    def promote_first(self, name: str, version: int) -> Aliases:
        """Point `production` at `version` where it points to nothing yet; whoever was faster is left in peace."""
        now = self.current(name)
        if now.production is None:
            with contextlib.suppress(ConflictError):
                return self._append(name, now.promoted(version, "first version"))
        return self.current(name)

    def promote(self, name: str, version: int, *, expected_epoch: int | None = None) -> Aliases:
        """Point `production` at `version`. Promoting what is in production changes nothing.

        Args:
            name: The model.
            version: What is to be in production.
            expected_epoch: The epoch that this was decided on, where somebody may have moved the aliases since.

        Raises:
            UnknownModelError: If there is no such version.
            ConflictError: If somebody else moved the alias meanwhile.
        """
        # In this order, so that a version that is deleted in between is a conflict and no dangling alias.
        now = self.current(name)
        self.require(name, version)
        moves.require_epoch(name, now, expected_epoch)
        return now if now.production == version else self._append(name, now.promoted(version))

    def rollback(self, name: str, *, expected_epoch: int | None = None) -> Aliases:
        """Point `production` back at the version before it.

        Args:
            name: The model.
            expected_epoch: As with `promote`.

        Raises:
            UnknownModelError: If the name has no production version.
            NothingToRollBackError: If there is no earlier version that still exists.
            ConflictError: If somebody else moved the alias meanwhile.
        """
        now = self.current(name)
        if now.production is None:
            raise UnknownModelError(self._unknown(name, None))
        moves.require_epoch(name, now, expected_epoch)
        after = now.rolled_back(self.present(name))
        if after is None:
            raise NothingToRollBackError(f"{name} has no production version before {now.production} to go back to")
        return self._append(name, after)

    def nominate(self, name: str, version: int) -> Aliases:
        """Point `candidate` at `version`, for the gate to judge. What is in production or the candidate already stays so.

        Raises:
            UnknownModelError: If there is no such version.
            ConflictError: If somebody else moved an alias meanwhile.
        """
        now = self.current(name)
        self.require(name, version)
        return now if version in {now.production, now.candidate} else self._append(name, now.nominated(version))

    def withdraw(self, name: str, version: int) -> Aliases:
        """Point `candidate` at nothing where it is `version`.

        Raises:
            ConflictError: If somebody else moved an alias meanwhile.
        """
        now = self.current(name)
        return self._append(name, now.nominated(None)) if now.candidate == version else now

    def delete(self, name: str, version: int) -> None:
        """Delete a version for good; its number is not given again.

        Raises:
            UnknownModelError: If there is no such version.
            InUseError: If it is in production, the candidate, or what a rollback goes back to.
        """
        retention.delete(self, name, version)

    def prune(self, name: str, keep: int) -> list[int]:
        """Delete all but the newest `keep` and what cannot be deleted, and say which; and what dead processes left behind."""
        return retention.prune(self, name, keep)

    def copy(self, name: str, version: int, target: Registry) -> str:
        """Copy a version into another registry, under its own number, unless it is there, and say where; no alias is moved.

        Raises:
            UnknownModelError: If there is no such version.
            ArtifactError: If it was altered.
            ConflictError: If the number is taken there, by another version or by one that was deleted.
        """
        source = self.path(name, version)
        target.receive(source, artifact.verify(source))
        return f"{target.place}/{name}/versions/{version}"

    def receive(self, source: Path, sealed: Manifest) -> None:
        """Take in the verified version that lies in `source`; see `copy`."""
        retention.receive(self, source, sealed)

    def bury(self, name: str, version: int) -> None:
        """Let a version be gone, all but its files: the first half of a deletion."""
        path = self.path(name, version)
        (path / MANIFEST).rename(path / DELETED)

    def unbury(self, name: str, version: int) -> None:
        """Take `bury` back."""
        path = self.home(name) / "versions" / str(version)
        (path / DELETED).rename(path / MANIFEST)

    def empty(self, name: str, version: int) -> None:
        """Remove the files of a version that was buried."""
        retention.empty(self.home(name) / "versions" / str(version))

    def sweep(self, name: str) -> None:
        """Remove what dead processes left behind; a version that was to be deleted and that an alias names comes back."""
        retention.sweep_folder(self, name)

    def note(self, name: str, seen: Aliases, action: str) -> Aliases:
        """Write into the history that something was done, having looked at `seen`; the aliases point where they did.

        Raises:
            ConflictError: If somebody moved an alias since.
        """
        return self._append(name, seen.noting(action))

    def write_gate(self, report: GateReport) -> None:
        """Keep what the gate said of a version; a later judgement takes the place of an earlier one."""
        report.write(self.home(report.name) / GATES)

    def read_gate(self, name: str, version: int) -> GateReport | None:
        """What the gate said of a version, also of one that was deleted since; None where it was not asked.

        Raises:
            ManifestError: If the report is not valid.
        """
        return GateReport.read(self.home(name) / GATES, version)

    def has_begun(self, name: str) -> bool:
        """Whether a version of `name` was ever published, deleted ones included."""
        return bool(numbers(self.home(name) / "versions"))

    def holdout(self, name: str) -> Path:
        """The folder of the held-out sets of `name`, as they are now; it need not exist yet."""
        return self.home(name) / HOLDOUT

    def point_holdout(self, name: str, sha256: str, pointer: bytes) -> None:
        """Let the held-out set that was written below `holdout` count; `pointer` says so, and which it is."""
        file = self.home(name) / HOLDOUT / POINTER
        artifact.write_synced(file, pointer)
        file.parent.chmod(FOLDER_MODE)
        file.chmod(FILE_MODE)

    def home(self, name: str) -> Path:
        """The folder of everything of `name`; it need not exist yet."""
        return self.root / check_name(name)

    def _take_in(self, source: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None) -> Manifest:
        return move_in(self.home(manifest.name), source, manifest, finish)

    def _append(self, name: str, aliases: Aliases) -> Aliases:
        return moves.append(self._aliases(name), name, aliases)

    def _aliases(self, name: str) -> Path:
        return self.home(name) / "aliases"

    def _unknown(self, name: str, version: int | None) -> str:
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none yet"
            return f"there is no model named {name!r}; the registry {self.place} has: {known}"
        if version is None:
            return f"{name} has no production version; promote one of {versions}"
        return f"{name} has no version {version}; it has {versions}"


@contextlib.contextmanager
def _is_folder(root: Path) -> Iterator[None]:
    """Say in words that the registry's root is no folder, or may not be read."""
    try:
        yield
    except (NotADirectoryError, PermissionError) as err:
        raise RegistryError(f"the registry {root} cannot be read: {err.strerror}; CANDOR_REGISTRY names a folder") from err


def _is_whole(path: str | Path) -> bool:
    return Path(path, MANIFEST).is_file()
