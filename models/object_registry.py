"""A registry in an object store: the layout of the folder, and a local mirror of what was read.

There is no rename, so a version's number is claimed by the exclusive creation of `claims/<n>.json`, its files are written, and
`manifest.json` last: a version is there when its manifest is. Reads ask the store first, and while it cannot be reached the
mirror, which is itself a registry in a folder. Writes go to the store or fail.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from models import aliases as moves
from models import retention
from models.aliases import Aliases
from models.artifact import CONFIDENCE, MANIFEST
from models.confidence.schema import Confidence
from models.errors import ArtifactError, ConflictError, UnknownModelError, UnreachableError
from models.following import StoreFollower
from models.gate_report import GateReport
from models.manifest import NAME_PATTERN, Manifest, check_name
from models.mirror import Mirror
from models.publishing import seal_numbered, staging_in, sweep
from models.registry import GATES, HOLDOUT, IMAGES, INDEX, POINTER, THUMBNAILS, Registry
from models.retention import DELETED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.following import Follower
    from models.object_store import ObjectStore

Answer = TypeVar("Answer")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What was begun so long ago is not finished any more.
_CLAIMS = "claims"
STALE = timedelta(days=1)
# A deletion, whose calls take seconds, by then.
ABANDONED = timedelta(minutes=10)
_TOGETHER = 16


class ObjectRegistry(Registry):
    """See the module. Its `root` is the mirror."""

    def __init__(self, store: ObjectStore, mirror: Path) -> None:
        """Name the store, and the folder for what is read from it."""
        super().__init__(mirror)
        self._store = store
        self._mirror = Mirror(store, mirror)
        self._mirrored = Registry(mirror)

    @property
    def place(self) -> str:
        """See `Registry`."""
        return self._store.url

    def follower(self) -> Follower:
        """See `Registry`."""
        return StoreFollower(self, self._mirrored)

    def names(self) -> list[str]:
        """See `Registry`; asks once, and twice or more for each name."""
        return _asked(lambda: [name for name in self.folders() if self._has_whole(name)], lambda: self._mirrored.names() or None)

    def folders(self) -> list[str]:
        """Every name that something was written of, in alphabetical order.

        Raises:
            UnreachableError: If the store cannot be reached; so with everything here that has no answer in the mirror.
        """
        return sorted(name for name in self._store.folders("") if re.fullmatch(NAME_PATTERN, name))

    def versions(self, name: str) -> list[int]:
        """See `Registry`; asks once, and once more for each number."""
        if not re.fullmatch(NAME_PATTERN, name):
            return []
        return _asked(lambda: self.present(name), lambda: self._mirrored.versions(name) or None)

    def present(self, name: str) -> list[int]:
        """As `versions`, by the store and nobody else."""
        numbers = self._numbers(check_name(name))
        with ThreadPoolExecutor(_TOGETHER) as pool:
            are_whole = pool.map(lambda number: self._store.exists(_manifest(name, number)), numbers)
            return [number for number, is_whole in zip(numbers, are_whole, strict=True) if is_whole]

    def has_version(self, name: str) -> bool:
        """See `Registry`; asks twice, or more where the newest is none."""
        if not re.fullmatch(NAME_PATTERN, name):
            return False
        return _asked(lambda: self._has_whole(name), lambda: self._mirrored.has_version(name) or None)

    def path(self, name: str, version: int) -> Path:
        """A version's folder in the mirror; brought there, and verified, if it was not there.

        What is in the mirror leaves it only where a listing, too, says that it is gone: where the bucket is missing, or a proxy
        answers for it, a 404 comes for every object.

        Raises:
            UnknownModelError: If there is none.
            ArtifactError: If what came is not what the manifest says.
        """
        check_name(name)
        try:
            manifest = self._store.read(_manifest(name, version))
            left = self._store.files(_folder(name, version)) if manifest is None else {}
        except UnreachableError:
            if (mirrored := self._mirror.find(name, version)) is None:
                raise
            return mirrored
        if manifest is not None:
            return self._mirror.bring(name, version, manifest)
        if left and DELETED not in left and (mirrored := self._mirror.find(name, version)) is not None:
            return mirrored
        self._mirror.drop(name, version)
        raise UnknownModelError(self._unknown(name, version))

    def require(self, name: str, version: int) -> None:
        """See `Registry`; brings nothing here."""
        check_name(name)
        manifest = _manifest(name, version)
        if not _asked(lambda: self._store.exists(manifest), lambda: self._mirror.find(name, version) is not None or None):
            raise UnknownModelError(self._unknown(name, version))

    def verify(self, name: str, version: int) -> Manifest:
        """See `Registry`: all of it is read from the store, and by no means from the mirror."""
        manifest = self._store.read(_manifest(check_name(name), version))
        if manifest is None:
            raise UnknownModelError(self._unknown(name, version))
        return self._mirror.check(name, version, manifest)

    def manifest(self, name: str, version: int) -> Manifest:
        """See `Registry`; nothing else of the version is read."""
        return Manifest.parse(self._read_file(name, version, MANIFEST))

    def confidence(self, name: str, version: int) -> Confidence:
        """See `Registry`; nothing else of the version is read."""
        return Confidence.parse(self._read_file(name, version, CONFIDENCE))

    def aliases(self, name: str) -> Aliases:
        """See `Registry`."""

        def mirrored() -> Aliases | None:
            found = self._mirrored.aliases(name)
            return found if found.epoch else None

        return _asked(lambda: self.current(name), mirrored)

    def current(self, name: str) -> Aliases:
        """As `aliases`, by the store and nobody else."""
        epochs = self.history(name)
        return (self.read_epoch(name, epochs[-1]) if epochs else None) or Aliases.none()

    def read_epoch(self, name: str, epoch: int) -> Aliases | None:
        """What the aliases of `name` pointed to from an epoch on; None where it has not come.

        Raises:
            RegistryError: If it is not valid, or a copy of another epoch's.
        """
        path = f"{name}/aliases/{epoch}.json"
        data = self._store.read(path)
        if data is None:
            return None
        found = moves.parse(data, f"{self.place}/{path}", epoch)
        self._mirror.write_alias(path, data)
        return found

    def history(self, name: str) -> list[int]:
        """See `Registry`."""
        return moves.epochs_in(self._store.files(f"{check_name(name)}/aliases"))

    def has_begun(self, name: str) -> bool:
        """See `Registry`. A number that was only claimed is none."""
        check_name(name)
        return any(self._is_taken(name, number) for number in self._numbers(name))

    def receive(self, source: Path, sealed: Manifest) -> None:
        """See `Registry`. A copy that was begun with the same bytes is finished."""
        name, version = sealed.name, sealed.version
        self._store.require_exclusive()
        if self._is_taken(name, version):
            retention.require_same(self, sealed)
        elif self._store.create_own(_claim(name, version), json.dumps({"manifest": sealed.sha256}).encode()):
            self._upload(source, sealed)
        else:
            raise ConflictError(f"{self.place} has begun a {sealed.reference} of its own; copy it to a registry of its own")

    def bury(self, name: str, version: int) -> None:
        """See `Registry`; of two who do it at once, one is told of a conflict. One that broke off minutes ago is gone on with."""
        manifest = self._store.read(_manifest(name, version))
        if manifest is None:
            raise UnknownModelError(self._unknown(name, version))
        if not self._store.create(_buried(name, version), manifest) and not self._is_abandoned(name, version, manifest):
            raise ConflictError(f"somebody else is deleting {name}:{version}; look again and repeat")
        self._store.remove([_manifest(name, version)])

    def unbury(self, name: str, version: int) -> None:
        """See `Registry`."""
        manifest = self._store.read(_buried(name, version))
        if manifest is not None:
            self._store.write(_manifest(name, version), manifest)
            self._store.remove([_buried(name, version)])

    def empty(self, name: str, version: int) -> None:
        """See `Registry`."""
        self._remove_files(name, version)
        self._mirror.drop(name, version)

    def sweep(self, name: str) -> None:
        """See `Registry`: what was begun more than a day ago, and what a deletion left."""
        for folder in (self.home(name), self.home(name) / HOLDOUT):
            sweep(folder)
        long_ago, buried = datetime.now(UTC) - STALE, {}
        for number in self._numbers(name):
            files = self._store.files(_folder(name, number))
            if MANIFEST in files:
                if DELETED in files and files[DELETED] < long_ago:
                    # Whoever was about to delete it never did.
                    self._store.remove([_buried(name, number)])
            elif DELETED in files:
                if len(files) > 1:
                    buried[number] = retention.is_complete(self._store.read(_buried(name, number)) or b"", files)
            elif all(written < long_ago for written in files.values()):
                self._remove_files(name, number)
        retention.finish(self, name, buried)

    def write_gate(self, report: GateReport) -> None:
        """See `Registry`."""
        self._store.write(f"{report.name}/{GATES}/{report.candidate}.json", report.to_bytes())
        self._mirrored.write_gate(report)

    def read_gate(self, name: str, version: int) -> GateReport | None:
        """See `Registry`."""
        path = f"{check_name(name)}/{GATES}/{version}.json"

        def asked() -> GateReport | None:
            data = self._store.read(path)
            return None if data is None else GateReport.parse(data)

        return _asked(asked, lambda: self._mirrored.read_gate(name, version))

    def holdout(self, name: str) -> Path:
        """See `Registry`. Never of the mirror alone: what nobody may learn from has to be known for certain.

        Raises:
            OSError: If it cannot be written here, so that an older one would count.
        """
        home, path = super().holdout(name), f"{name}/{HOLDOUT}"
        pointer = self._store.read(f"{path}/{POINTER}")
        if pointer is None:
            (home / POINTER).unlink(missing_ok=True)
            return home
        self._mirror.write_surely(f"{path}/{POINTER}", pointer)
        sha256 = _set_of(pointer)
        if sha256 is not None and not (home / sha256 / INDEX).is_file():
            self._mirror.bring_folder(f"{path}/{sha256}", (INDEX, THUMBNAILS, IMAGES))
        return home

    def point_holdout(self, name: str, sha256: str, pointer: bytes) -> None:
        """See `Registry`: the set goes to the store first, its index last of it."""
        path, folder = f"{name}/{HOLDOUT}/{sha256}", self.home(name) / HOLDOUT / sha256
        if not self._store.exists(f"{path}/{INDEX}"):
            self._store.upload(folder, path, [file.name for file in folder.iterdir() if file.name != INDEX])
            self._store.upload(folder, path, [INDEX])
        self._store.write(f"{name}/{HOLDOUT}/{POINTER}", pointer)
        super().point_holdout(name, sha256, pointer)

    def _is_abandoned(self, name: str, version: int, manifest: bytes) -> bool:
        """Whether somebody began to delete this very version, and is not at it any more."""
        begun = self._store.files(_folder(name, version)).get(DELETED)
        return (
            begun is not None and begun < datetime.now(UTC) - ABANDONED and self._store.read(_buried(name, version)) == manifest
        )

    def _take_in(self, source: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None) -> Manifest:
        name = manifest.name
        home = self.home(name)
        self._store.require_exclusive()
        home.mkdir(parents=True, exist_ok=True)
        sweep(home)
        with staging_in(home) as made:
            shutil.copytree(source, made, dirs_exist_ok=True)

            def take(sealed: Manifest) -> bool:
                claim = {"manifest": sealed.sha256, "at": datetime.now(UTC).isoformat(), "by": uuid.uuid4().hex}
                return self._store.create_own(_claim(name, sealed.version), json.dumps(claim).encode())

            sealed = seal_numbered(made, manifest, finish, lambda: self._next(name), take)
            self._upload(made, sealed)
            self._mirror.keep(made, name, sealed.version)
        return sealed

    def _next(self, name: str) -> int:
        claimed = moves.epochs_in(self._store.files(f"{name}/{_CLAIMS}"))
        return max([0, *claimed, *self._numbers(name)]) + 1

    def _upload(self, source: Path, sealed: Manifest) -> None:
        """Write a version whose number is claimed, and its manifest last."""
        path = _folder(sealed.name, sealed.version)
        self._store.upload(source, path, sealed.files)
        if not self._store.create_own(f"{path}/{MANIFEST}", (source / MANIFEST).read_bytes()):
            raise ConflictError(f"{self.place} has another {sealed.reference} meanwhile; somebody wrote it past the registry")

    def _append(self, name: str, aliases: Aliases) -> Aliases:
        path, data = f"{name}/aliases/{aliases.epoch}.json", aliases.to_bytes()
        if not self._store.create_own(path, data):
            raise moves.overtaken(name)
        self._mirror.write_alias(path, data)
        return aliases

    def _numbers(self, name: str) -> list[int]:
        """The numbers that files were written under, ascending, whole or not."""
        return sorted(int(number) for number in self._store.folders(f"{name}/versions") if moves.is_number(number))

    def _is_taken(self, name: str, version: int) -> bool:
        """Whether there is a version, or was one."""
        return self._store.exists(_manifest(name, version)) or self._store.exists(_buried(name, version))

    def _has_whole(self, name: str) -> bool:
        return any(self._store.exists(_manifest(name, number)) for number in reversed(self._numbers(name)))

    def _read_file(self, name: str, version: int, file: str) -> bytes:
        check_name(name)

        def mirrored() -> bytes | None:
            place = self._mirror.find(name, version)
            return None if place is None else (place / file).read_bytes()

        data = _asked(lambda: self._store.read(f"{_folder(name, version)}/{file}"), mirrored)
        if data is None:
            self.require(name, version)
            raise ArtifactError(f"{self.place}/{_folder(name, version)} is not an artifact: {file} cannot be read")
        return data

    def _remove_files(self, name: str, version: int) -> None:
        """Remove what is below a number but its tombstone, so that the number is not given again."""
        path = _folder(name, version)
        self._store.remove(f"{path}/{file}" for file in self._store.files(path) if file != DELETED)


def _asked(store: Callable[[], Answer], mirror: Callable[[], Answer | None]) -> Answer:
    """What the store says; while it cannot be reached what the mirror has.

    Raises:
        UnreachableError: If the mirror has nothing, which it says by None.
    """
    try:
        return store()
    except UnreachableError:
        if (kept := mirror()) is None:
            raise
        return kept


def _folder(name: str, version: int) -> str:
    return f"{name}/versions/{version}"


def _manifest(name: str, version: int) -> str:
    return f"{_folder(name, version)}/{MANIFEST}"


def _buried(name: str, version: int) -> str:
    return f"{_folder(name, version)}/{DELETED}"


def _claim(name: str, version: int) -> str:
    return f"{name}/{_CLAIMS}/{version}.json"


def _set_of(pointer: bytes) -> str | None:
    """The set that a pointer names; None where it is not valid, which whoever reads it will say."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        sha256 = json.loads(pointer)["sha256"]
        return sha256 if _SHA256.fullmatch(sha256) else None
    return None
