"""A tree of small files in a folder or an object store: whole or not there, listed by name. Knows nothing of what is in them.

Names are the caller's own and never come from a request. In a folder, a file is written beside and renamed, and nobody but
its owner may read it: images are people's data. An object store does both by itself.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from obstore.fsspec import register

from models.artifact import sync
from models.errors import SettingsError
from models.object_store import patience_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNFINISHED = ".unfinished"
_STALE_S = 3600
# Object stores are reached by obstore, as the registry is, and not by a package of fsspec's for each.
_STORE: dict[str, Any] = {
    **patience_of(2, timedelta(seconds=3), timeout="10s"),
    # What the environment says of it is read now.
    "skip_instance_cache": True,
}
_STORES = {"s3": _STORE, "gs": _STORE, "az": _STORE}
# Others write there too, so no listing may be remembered.
_OTHERS: dict[str, Any] = {"use_listings_cache": False}


class Files:
    """See the module. Paths are relative, with slashes."""

    def __init__(self, place: str) -> None:
        """Name the folder or URL; nothing is made yet.

        Raises:
            SettingsError: If it is a URL of a kind that cannot be reached from here.
        """
        kind = place.partition("://")[0]
        if kind in _STORES:
            register(kind)
        try:
            self._system, self._root = fsspec.core.url_to_fs(place, **_STORES.get(kind, _OTHERS))
        except (ValueError, ImportError) as err:
            raise SettingsError(f"CANDOR_FEEDBACK={place} cannot be used: {err}; expected a folder or an fsspec URL") from err
        self._folder = Path(self._root) if isinstance(self._system, LocalFileSystem) else None

    def names(self, folder: str) -> list[str]:
        """What is in a folder, in no order; nothing where there is none."""
        with contextlib.suppress(FileNotFoundError):
            if self._folder is not None:
                return [name for name in os.listdir(self._folder / folder) if not name.startswith(".")]  # noqa: PTH208 - a fifth
            return [path.rpartition("/")[2] for path in self._system.ls(self._path(folder), detail=False)]
        return []

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return bool((self._folder / path).exists() if self._folder is not None else self._system.exists(self._path(path)))

    def read(self, path: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: If there is none.
        """
        return bytes((self._folder / path).read_bytes() if self._folder is not None else self._system.cat_file(self._path(path)))

    def write(self, path: str, data: bytes, *, is_synced: bool = False) -> None:
        """Write a file, or replace it, at once; `is_synced` says that it must outlive a power cut."""
        if self._folder is None:
            self._system.pipe_file(self._path(path), data)
            return
        target, beside = self._folder / path, self._folder / _UNFINISHED / uuid.uuid4().hex
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            beside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if is_synced:
                    os.fsync(descriptor)
            _rename(beside, target)
            if is_synced:
                sync(target.parent)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; what is not there is gone already."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                if self._folder is not None:
                    (self._folder / path).unlink()
                else:
                    self._system.rm_file(self._path(path))

    def tidy(self) -> None:
        """Remove what a process left unfinished when it was killed."""
        if self._folder is None:
            return
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder / _UNFINISHED):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - _STALE_S:
                        Path(entry.path).unlink()

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"


def _rename(beside: Path, target: Path) -> None:
    try:
        beside.replace(target)
    except FileNotFoundError:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.replace(target)
