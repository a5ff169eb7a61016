"""The copy on disk of what was read from an object store, in the layout of a registry in a folder.

Owns how a version gets there: written beside, verified, renamed. Several processes may share it. What is not used any more
leaves it, since it can be read again, unless an alias names it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from models import aliases, artifact
from models.artifact import MANIFEST
from models.errors import ArtifactError, ContractError, RegistryError
from models.manifest import Manifest
from models.publishing import make_readable, numbers, rename, staging_in, sweep
from models.staging import discard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from models.object_store import ObjectStore

# Of one name; a trainer, a gate and pages of old versions may be at some beside those that serve.
KEPT = 8


class Mirror:
    """See the module."""

    def __init__(self, store: ObjectStore, root: Path) -> None:
        """Name the store and the folder; nothing is made yet."""
        self._store = store
        self._root = root
        self._locks: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)
        # By this process, once: a power cut or a bad disk may have come between.
        self._verified: set[Path] = set()

    def find(self, name: str, version: int) -> Path | None:
        """A version's folder; None where it is not here."""
        place = self._place(name, version)
        return place if (place / MANIFEST).is_file() else None

    def bring(self, name: str, version: int, manifest: bytes) -> Path:
        """A version's folder, read from the store unless one with this manifest is here.

        Raises:
            ArtifactError: If a file is missing, or is not what the manifest says.
            ManifestError: If that is not valid.
            UnreachableError: If the store goes away meanwhile.
        """
        place = self._place(name, version)
        with self._locks[name, version]:
            if not self._is_sound(place, manifest):
                self.drop(name, version)
                with self._fetched(place, manifest) as made:
                    rename(made, place)
                self._tidy(name)
            self._verified.add(place)
        with contextlib.suppress(OSError):
            os.utime(place)
        return place

    def check(self, name: str, version: int, manifest: bytes) -> Manifest:
        """Read a version from the store and verify it, whatever is here; nothing of it is kept.

        Raises:
            ArtifactError: As with `bring`, and so the others.
        """
        with self._fetched(self._place(name, version), manifest):
            return Manifest.parse(manifest)

    def bring_folder(self, path: str, names: Iterable[str]) -> None:
        """Read those objects of `names` that are below `path` into the folder of the same name, all of them at once.

        Raises:
            UnreachableError: If the store cannot be reached.
        """
        place = self._root / path
        with _staged(place) as made:
            there = self._store.files(path)
            self._store.download(path, [name for name in names if name in there], made)
            rename(made, place)

    def keep(self, made: Path, name: str, version: int) -> None:
        """Take in a folder that was just published."""
        place = self._place(name, version)
        self.drop(name, version)
        place.parent.mkdir(parents=True, exist_ok=True)
        rename(made, place)
        self._tidy(name)

    def write(self, path: str, data: bytes) -> None:
        """Keep an object; where the disk is full it is only not kept."""
        with contextlib.suppress(OSError):
            self.write_surely(path, data)

    def write_surely(self, path: str, data: bytes) -> None:
        """Keep an object that is read from here and from nowhere else.

        Raises:
            OSError: If that is not possible.
        """
        file = self._root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_synced(file, data)

    def write_alias(self, path: str, data: bytes) -> None:
        """Keep what the aliases of a name point to now, in place of what they pointed to."""
        file = self._root / path
        with contextlib.suppress(OSError):
            if file.read_bytes() == data:
                return
        self.write(path, data)
        for other in file.parent.glob("*.json"):
            if other != file:
                other.unlink(missing_ok=True)

    def drop(self, name: str, version: int) -> None:
        """Let a version be gone, if it is here."""
        place = self._place(name, version)
        self._verified.discard(place)
        if place.exists():
            discard(place, self._root / name)

    def _is_sound(self, place: Path, manifest: bytes) -> bool:
        try:
            if (place / MANIFEST).read_bytes() != manifest:
                return False
            if place not in self._verified:
                artifact.verify(place)
        except (OSError, ContractError):
            return False
        return True

    @contextlib.contextmanager
    def _fetched(self, place: Path, manifest: bytes) -> Iterator[Path]:
        """A folder with a version that was read, and verified, and may be renamed."""
        card, path = Manifest.parse(manifest), place.relative_to(self._root).as_posix()
        if (card.name, str(card.version)) != (place.parent.parent.name, place.name):
            raise ArtifactError(f"{self._store.url}/{path} holds {card.reference}")
        with _staged(place) as made:
            self._store.download(path, card.files, made)
            (made / MANIFEST).write_bytes(manifest)
            try:
                artifact.verify(made)
            except ArtifactError as err:
                # The folder is gone when this is read.
                raise ArtifactError(str(err).replace(str(made), f"{self._store.url}/{path}")) from err
            make_readable(made)
            yield made

    def _tidy(self, name: str) -> None:
        """Let go of what was used longest ago, but of nothing that an alias names: it is what there is to fall back on."""
        folder = self._root / name / "versions"
        present = numbers(folder)
        with contextlib.suppress(FileNotFoundError, RegistryError):
            now = aliases.read_newest(self._root / name / "aliases")
            used = sorted(present, key=lambda version: (folder / str(version)).stat().st_mtime)
            for version in sorted(used, key=lambda version: now.role_of(version, present) is not None)[:-KEPT]:
                discard(folder / str(version), self._root / name)

    def _place(self, name: str, version: int) -> Path:
        return self._root / name / "versions" / str(version)


@contextlib.contextmanager
def _staged(place: Path) -> Iterator[Path]:
    """A folder to fill, to be renamed to `place`; below a name's folder, where `prune` sweeps."""
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place.parent.parent)
    with staging_in(place.parent.parent) as made:
        yield made
