"""Unpack a zip of images that nobody vouches for: bounded in every direction, into a folder of its own, once.

Owns what may come out of an archive: images and CSVs, under their own names, and nothing else. Everything that would be
written elsewhere, linked, hidden, doubled or blown up refuses the archive as a whole. Knows nothing of labels.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from models.errors import DatasetError, NoSpaceError
from models.layouts import SPLIT_FOLDERS, SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WANTED = SUFFIXES | {".csv", ".tsv"}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCRYPTED = 0x1
_UNIX = 3
# What the directory at a zip's end may take an entry: 46 bytes, a name, times and owners.
_DIRECTORY_BYTES = 200
# Below this a ratio means nothing: a table, or one blank bitmap.
_RATIO_FROM_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_MOST_NAME_BYTES, _MOST_FOLDERS = 255, 16
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError, IndexError)


@dataclass(frozen=True)
class ArchiveLimits:
    """What unpacking may cost. Sizes are counted while they are written; what a zip says of itself is only looked at first.

    Attributes:
        entries: Files and folders in the archive.
        total_bytes: All files together, unpacked.
        file_bytes: One file, unpacked.
        ratio: Unpacked bytes for each byte of the archive.
    """

    entries: int = 1_000_000
    total_bytes: int = 200 << 30
    file_bytes: int = 256 << 20
    ratio: int = 100


DEFAULT_LIMITS = ArchiveLimits()


def unpacked(data: Path, cache_root: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> Path:
    """The folder to train on: `data` itself, or what a zip holds, unpacked into the cache when it is first seen.

    Raises:
        DatasetError: If the zip is refused (`extract`).
    """
    if data.suffix.lower() != ".zip" or not data.is_file():
        return data
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return extract(data, cache_root / "zips" / digest, limits)


def extract(zip_path: Path, target: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> Path:
    """Unpack images and CSVs into `target`, wholly or not at all; a target that is there already is taken as it is.

    Args:
        zip_path: The archive.
        target: The folder to make.
        limits: What it may cost.

    Returns:
        `target`, or the only folder in it, where all lies in one that is no split.

    Raises:
        DatasetError: If the archive is broken, too large, or holds what could harm: paths that lead outside, links,
            names that are there twice, encrypted files.
        NoSpaceError: If it says itself that it unpacks to more than the disk has free.
    """
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            _unpack(zip_path, staging, limits)
            _move(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    inside = list(target.iterdir())
    is_wrapped = len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in SPLIT_FOLDERS
    return inside[0] if is_wrapped else target


def _move(staging: Path, target: Path) -> None:
    """Give the finished folder its name; if somebody else was first, theirs is as good."""
    staging.chmod(0o755)
    try:
        staging.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _unpack(zip_path: Path, folder: Path, limits: ArchiveLimits) -> None:
    try:
        with zip_path.open("rb") as file, zipfile.ZipFile(_Sparing(file, limits.entries * _DIRECTORY_BYTES)) as archive:
            wanted = _wanted(archive.infolist(), limits)
            budget = _Budget(zip_path.stat().st_size, limits)
            budget.check_room(folder, wanted)
            for info, parts in wanted:
                path = folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(archive, info, path, budget)
    except (DatasetError, NoSpaceError) as err:
        raise type(err)(f"{zip_path}: {err}") from err
    except _BROKEN as err:
        raise DatasetError(f"{zip_path} is no zip that can be read: {err}") from err


def _wanted(entries: Sequence[zipfile.ZipInfo], limits: ArchiveLimits) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """The entries to write and their paths, after every entry, wanted or not, has been looked at.

    Raises:
        DatasetError: If there are too many, or one of them is not harmless.
    """
    if len(entries) > limits.entries:
        raise DatasetError(f"it has {len(entries)} entries; at most {limits.entries} are accepted")
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    wanted: list[tuple[zipfile.ZipInfo, tuple[str, ...]]] = []
    for info in entries:
        parts = _parts(info)
        folders.update(parts[:count] for count in range(1, len(parts)))
        if info.is_dir():
            continue
        if parts in files:
            raise DatasetError(f"{info.filename!r} is in it twice; expected one file of a name")
        files.add(parts)
        if not any(part.startswith((".", "__MACOSX")) for part in parts) and Path(parts[-1]).suffix.lower() in WANTED:
            _check_method(info)
            wanted.append((info, parts))
    if both := sorted(files & folders):
        raise DatasetError(f"{'/'.join(both[0])!r} is a file and a folder in it")
    if not wanted:
        raise DatasetError(f"it holds no images; expected {', '.join(sorted(SUFFIXES))} files")
    return wanted


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The path of an entry, part by part, as it is in the archive and not as `zipfile` tidies it.

    Raises:
        DatasetError: If it leads outside, cannot be written on every system, or is no plain file or folder.
    """
    name = info.orig_filename
    parts = tuple(part for part in name.removesuffix("/").split("/") if part != ".")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise DatasetError(f"{name!r} leads outside the archive; expected paths inside it")
    if "\\" in name or _CONTROL.search(name) or not all(parts):
        raise DatasetError(f"{name!r} is no path that can be written; expected names between single slashes")
    if len(parts) > _MOST_FOLDERS or any(len(part.encode()) > _MOST_NAME_BYTES for part in parts):
        raise DatasetError(
            f"{name!r:.80} is too long; expected {_MOST_FOLDERS} folders and {_MOST_NAME_BYTES} bytes a name at most"
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.create_system == _UNIX and kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise DatasetError(f"{name!r} is a link or a device; expected plain files")
    return parts


def _check_method(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise DatasetError(f"{info.filename!r} is encrypted; make the zip without a password")
    if info.compress_type not in _METHODS:
        raise DatasetError(f"{info.filename!r} is compressed by method {info.compress_type}; expected stored or deflated files")


class _Budget:
    """How many bytes may still be written, and by which limit."""

    def __init__(self, archive_bytes: int, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._expansion_bytes = max(archive_bytes * limits.ratio, _RATIO_FROM_BYTES)
        self._written = 0

    def check_room(self, folder: Path, wanted: Iterable[tuple[zipfile.ZipInfo, tuple[str, ...]]]) -> None:
        """Refuse what says itself that it is too large, or larger than the disk, before a byte is written."""
        declared = sum(info.file_size for info, _ in wanted)
        self._check_total(declared)
        if declared > (free := shutil.disk_usage(folder).free):
            raise NoSpaceError(f"it unpacks to {declared} bytes, and {folder.parent} has {free} free; make room, or split it")

    def spend(self, count: int, in_file: int, name: str) -> None:
        """Count bytes before they are written; `in_file` is what they make of their file.

        Raises:
            DatasetError: If a limit is passed.
        """
        if in_file > self._limits.file_bytes:
            raise DatasetError(f"{name!r} is larger than {self._limits.file_bytes} bytes, the limit for one file")
        self._written += count
        self._check_total(self._written)

    def _check_total(self, total: int) -> None:
        if total > self._limits.total_bytes:
            raise DatasetError(f"it unpacks to more than {self._limits.total_bytes} bytes, the limit for all files together")
        if total > self._expansion_bytes:
            raise DatasetError(f"it unpacks to more than {self._limits.ratio} times its size, as no images do")


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: _Budget) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    in_file = 0
    with archive.open(info) as source, os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            in_file += len(chunk)
            budget.spend(len(chunk), in_file, info.filename)
            file.write(chunk)


class _Sparing:
    """A file from which `zipfile` cannot read more at once than `most` bytes: it takes the directory in one piece."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = max(most, _CHUNK_BYTES)
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the file.

        Raises:
            zipfile.BadZipFile: If it is before the beginning, where an altered archive may point.
        """
        if whence == os.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile("an entry begins before the file does")
        return self._file.seek(offset, whence)

    def read(self, count: int = -1) -> bytes:
        """Read `count` bytes.

        Raises:
            DatasetError: If that is more than a directory of the accepted number of entries takes.
        """
        if count > self._most:
            raise DatasetError(f"its directory takes {count} bytes; at most {self._most} are accepted")
        return self._file.read(count if count >= 0 else self._most)

    def close(self) -> None:
        """Do nothing: who opened the file closes it."""
