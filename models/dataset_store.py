"""Data sets that are kept: `datasets/<name>/<version>/`, content-addressed and immutable.

A version is named by what is in it: storing equal files again, packed in whatever way, is the same version. It appears at
once, by one rename, with its card (`dataset.json`) in it. Files are made read-only; folders are not, so that who owns them
can still delete them. The archive that a data set came in is not kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from models import artifact
from models.archive import DEFAULT_LIMITS, WANTED, ArchiveLimits, extract
from models.dataset_card import CARD, VERSION_DIGITS, VERSION_PATTERN, DatasetCard
from models.errors import DatasetError, DatasetInUseError, ManifestError, NoSpaceError, StoreError, UnknownDatasetError
from models.examine import examine
from models.manifest import NAME_PATTERN
from models.staging import discard, full_disk, work_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.recipe import Task

FILES = "files"
_REFERENCE = re.compile(rf"({NAME_PATTERN[1:-1]})(?:@({VERSION_PATTERN[1:-1]}))?")
_FOLDER_MODE, _FILE_MODE = 0o755, 0o444


@dataclass(frozen=True)
class StoredDataset:
    """A version: its card, its folder, and whether the call that answers this made it."""

    card: DatasetCard
    folder: Path
    is_new: bool = False

    @property
    def path(self) -> Path:
        """What `python -m training fit` is given: the folder with the files."""
        return self.folder / FILES


class DatasetStore:
    """A folder of named, versioned data sets. Safe for any number of processes on one file system."""

    def __init__(self, root: Path) -> None:
        """Name the folder. It need not exist yet."""
        self.root = root

    def put(
        self,
        source: Path,
        name: str,
        *,
        origin: str = "this machine",
        task: Task | None = None,
        limits: ArchiveLimits = DEFAULT_LIMITS,
    ) -> StoredDataset:
        """Store a zip or a folder under `name`, or find that it is stored. What was put last is what the name means.

        Args:
            source: A zip, or a folder, of which images and tables are copied.
            name: As models are called.
            origin: Where it came from, for the card.
            task: Of the labels in its table, where that is known.
            limits: What unpacking may cost.

        Raises:
            StoreError: If it cannot be called that.
            DatasetError: If the archive is refused, or nothing could be trained on.
            NoSpaceError: If the disk is full; nothing of it is left.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise StoreError(
                f"{name!r:.80} cannot name a data set; use up to 63 small letters, digits, '-' and '_', the first of them no sign"
            )
        with full_disk(), work_folder(self.root) as folder:
            is_wrapped = _bring(source, folder / FILES, limits)
            digests, size = _seal(folder / FILES)
            fingerprint = _fingerprint(folder / FILES, digests)
            target = self.root / name / fingerprint[:VERSION_DIGITS]
            if not _is_whole(target):
                card = DatasetCard(
                    **examine(folder / FILES, digests, is_wrapped=is_wrapped, task=task).model_dump(),
                    schema_version=1,
                    name=name,
                    version=target.name,
                    fingerprint=fingerprint,
                    created=datetime.now(UTC),
                    size_bytes=size,
                    source=origin,
                )
                artifact.write_synced(folder / CARD, card.to_bytes())
                # All files at once: one by one, a hundred thousand of them would take minutes.
                os.sync()
            is_new = not _is_whole(target) and _rename(folder, target)
            os.utime(target / CARD)
            return StoredDataset(_read(target), target, is_new)

    def resolve(self, reference: str) -> StoredDataset:
        """Find `name` (what was put last) or `name@version`.

        Raises:
            UnknownDatasetError: If there is none.
            ManifestError: If its card is not valid.
        """
        found = _REFERENCE.fullmatch(reference)
        if found is None:
            raise UnknownDatasetError(
                f"{reference!r:.80} is not a data set; write name or name@version, such as birds or birds@0123456789abcdef"
            )
        return self.get(found[1], found[2])

    def get(self, name: str, version: str | None = None) -> StoredDataset:
        """Find one version, or the one that was put last.

        Raises:
            UnknownDatasetError: If there is none.
            ManifestError: If its card is not valid.
        """
        folders = self._versions(name)
        chosen = [folder for folder in folders if version in {None, folder.name}]
        if not chosen:
            raise UnknownDatasetError(self._unknown(name, version, [folder.name for folder in folders]))
        return StoredDataset(_read(chosen[0]), chosen[0])

    def versions(self, name: str) -> list[StoredDataset]:
        """All versions of `name`, what was put last first; those whose card is not valid are left out."""
        return list(self._valid(name))

    def newest(self) -> list[StoredDataset]:
        """Of each name what was put last, in that order. Reads cards, and no files."""
        newest = [stored for name in self.names() if (stored := next(self._valid(name), None)) is not None]
        return sorted(newest, key=lambda one: _put_at(one.folder), reverse=True)

    def names(self) -> list[str]:
        """Every name that has a version, in alphabetical order."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.root) if self._versions(entry.name))
        return []

    def delete(self, name: str, version: str | None = None, in_use: Callable[[Path], str | None] | None = None) -> list[str]:
        """Delete one version, or all of a name, and answer which.

        Args:
            name: Of the data set.
            version: One of its versions; None for all.
            in_use: Given `StoredDataset.path`, says who uses it, in words; None where nobody can.

        Raises:
            UnknownDatasetError: If there is none.
            DatasetInUseError: If one of them is used; then none is deleted.
        """
        folders = self._versions(name)
        chosen = [folder for folder in folders if version in {None, folder.name}]
        if not chosen:
            raise UnknownDatasetError(self._unknown(name, version, [folder.name for folder in folders]))
        for folder in chosen:
            if in_use is not None and (user := in_use(folder / FILES)) is not None:
                raise DatasetInUseError(f"{name}@{folder.name} is used by {user}; wait until it is done, or cancel it")
        for folder in chosen:
            discard(folder, self.root)
        with contextlib.suppress(OSError):
            (self.root / name).rmdir()
        return [folder.name for folder in chosen]

    def _valid(self, name: str) -> Iterator[StoredDataset]:
        for folder in self._versions(name):
            with contextlib.suppress(ManifestError, UnknownDatasetError):
                yield StoredDataset(_read(folder), folder)

    def _versions(self, name: str) -> list[Path]:
        """The folders of whole versions, what was put last first. A name that cannot be one has none, whatever it holds."""
        if not re.fullmatch(NAME_PATTERN, name):
            return []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folders = (Path(entry.path) for entry in os.scandir(self.root / name) if re.fullmatch(VERSION_PATTERN, entry.name))
            return sorted((folder for folder in folders if _is_whole(folder)), key=_put_at, reverse=True)
        return []

    def _unknown(self, name: str, version: str | None, versions: list[str]) -> str:
        if versions:
            return f"{name} has no version {version!r:.80}; it has {', '.join(versions)}"
        return f"there is no data set named {name!r:.80}; there are: {', '.join(self.names()) or 'none yet'}"


def _bring(source: Path, target: Path, limits: ArchiveLimits) -> bool:
    """Put what is of use into `target`, and say whether the archive had it all in one folder."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            below = path.relative_to(source)
            if path.is_file() and path.suffix.lower() in WANTED and not any(part.startswith(".") for part in below.parts):
                (target / below).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / below)
        target.mkdir(exist_ok=True)
        return False
    unpacked = target.with_name("unpacked")
    try:
        root = extract(source, unpacked, limits)
    except (DatasetError, NoSpaceError) as err:
        # Whoever sent it knows neither of the folders.
        raise type(err)(str(err).replace(str(source), "the zip").replace(str(target.parent), "the disk")) from err
    root.rename(target)
    with contextlib.suppress(FileNotFoundError):
        unpacked.rmdir()
    return root != unpacked


def _seal(folder: Path) -> tuple[dict[Path, str], int]:
    """The sha256 of every file, and the bytes of all of them; from here on nobody writes into one."""
    digests: dict[Path, str] = {}
    size = 0
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(_FOLDER_MODE)
            continue
        path.chmod(_FILE_MODE)
        size += path.stat().st_size
        with path.open("rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    for path in (folder, folder.parent):
        path.chmod(_FOLDER_MODE)
    return digests, size


def _fingerprint(folder: Path, digests: dict[Path, str]) -> str:
    lines = sorted(os.fsencode(path.relative_to(folder)) + b"\0" + digest.encode() for path, digest in digests.items())
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _rename(folder: Path, target: Path) -> bool:
    """Give a finished version its name, and say whether it was free: rename fails on a folder that is not empty."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError as err:
        if err.errno in {errno.ENOTEMPTY, errno.EEXIST} and _is_whole(target):
            return False
        raise
    artifact.sync(target.parent)
    return True


def _is_whole(folder: Path) -> bool:
    return Path(folder, CARD).is_file()


def _put_at(folder: Path) -> int:
    """When a version was last put, in nanoseconds: the time of its card's file, which says nothing else."""
    with contextlib.suppress(FileNotFoundError):
        return Path(folder, CARD).stat().st_mtime_ns
    return 0


def _read(folder: Path) -> DatasetCard:
    try:
        return DatasetCard.parse(Path(folder, CARD).read_bytes())
    except FileNotFoundError as err:
        raise UnknownDatasetError(f"{folder.parent.name}@{folder.name} was deleted meanwhile") from err
