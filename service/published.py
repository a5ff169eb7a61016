"""What a version was published with, beside its model: its review, its confidence, its history, its pictures, its report.

Read from the registry, whether or not the version is loaded. Parsed files are kept while the version's manifest is the
same file, so that a page turned in a long list reads nothing but that manifest's state. Every file is compared with the
manifest's hash when it is read; the artifact as a whole was verified when it was loaded, and is not hashed again.
Called in threads.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from models.artifact import CONFIDENCE, MANIFEST, read_manifest
from models.confidence.schema import Confidence
from models.errors import ArtifactError, ContractError, UnreachableError
from models.errors import UnknownModelError as NoSuchModelError
from models.manifest import NAME_PATTERN
from models.review import ID_PREFIX, REVIEW, parse_review, thumbnail_name
from service.errors import NotFoundError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.manifest import Manifest
    from models.registry import Registry
    from models.review_schema import Review

logger = logging.getLogger("candor.published")
HISTORY = "history.json"
REPORT = "report.html"
Parsed = TypeVar("Parsed")
_KEPT = 4


class Overfit(BaseModel):
    """Whether validation got worse while training got better."""

    verdict: str
    best_epoch: int | None
    sentence: str


class _History(BaseModel):
    """Of training's own file, the part that is shown."""

    overfit: Overfit


@dataclass(frozen=True)
class Published:
    """One version's files, parsed. A part that is None is missing or cannot be read, and `missing` says which it is."""

    path: Path
    manifest: Manifest
    review: Review | None
    confidence: Confidence | None
    overfit: Overfit | None
    missing: dict[str, str]


def require_model(registry: Registry, name: str) -> None:
    """Refuse what names no model, before it becomes part of a path.

    Raises:
        UnknownModelError: If there is none of that name.
    """
    if not re.fullmatch(NAME_PATTERN, name) or not registry.has_version(name):
        known = ", ".join(registry.names()) or "none"
        raise UnknownModelError(f"there is no model named {name!r:.80}; there are: {known}")


class PublishedVersions:
    """Reads versions of a registry, and keeps the last few."""

    def __init__(self, registry: Registry) -> None:
        """Read nothing yet."""
        self._registry = registry
        self._kept: OrderedDict[Path, tuple[tuple[int, int], Published]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, version: int | None) -> Published:
        """Read a version; without a number, the one in production.

        Raises:
            UnknownModelError: If there is none, or its manifest cannot be read.
        """
        path = self._path(name, version)
        try:
            stat = (path / MANIFEST).stat()
            state = (stat.st_ino, stat.st_mtime_ns)
            with self._lock:
                kept = self._kept.get(path)
                if kept is not None and kept[0] == state:
                    self._kept.move_to_end(path)
                    return kept[1]
            read, is_whole = _read(path)
        except (ContractError, OSError) as err:
            logger.error("%s cannot be read: %s", path, err)
            raise UnknownModelError(f"{name}:{path.name} cannot be read; the log has the reason") from err
        if not is_whole:
            # What failed to be read may be readable the next time.
            return read
        with self._lock:
            self._kept[path] = state, read
            self._kept.move_to_end(path)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return read

    def thumbnail(self, name: str, version: int | None, image_id: str) -> bytes:
        """A listed image in small, as JPEG.

        Raises:
            UnknownModelError: As `get`.
            NotFoundError: If the version has no picture of that image.
        """
        published = self.get(name, version)
        # Looked up among the files that the manifest lists, so what a caller writes never becomes a path.
        return _bytes(published, thumbnail_name(image_id), f"no picture of image {image_id.removeprefix(ID_PREFIX)!r:.80}")

    def report(self, name: str, version: int | None) -> bytes:
        """The report, as HTML.

        Raises:
            UnknownModelError: As `get`.
            NotFoundError: If the version was published without one.
        """
        return _bytes(self.get(name, version), REPORT, "no report")

    def _path(self, name: str, version: int | None) -> Path:
        require_model(self._registry, name)
        try:
            version = version or self._registry.aliases(name).production
        except UnreachableError:
            raise
        except ContractError as err:
            raise UnknownModelError(f"the aliases of {name} cannot be read; name a version") from err
        if version is None:
            raise UnknownModelError(f"{name} has no production version; name one of {self._registry.versions(name)}")
        try:
            return self._registry.path(name, version)
        except NoSuchModelError as err:
            raise UnknownModelError(str(err)) from err
        except UnreachableError:
            raise
        except ContractError as err:
            logger.error("%s:%s cannot be read: %s", name, version, err)
            raise UnknownModelError(f"{name}:{version} cannot be read; the log has the reason") from err


def _read(path: Path) -> tuple[Published, bool]:
    """The version's parts, and whether all that it was published with could be read."""
    manifest = read_manifest(path)
    missing: dict[str, str] = {}
    failed: list[str] = []

    def parsed(file: str, what: str, parse: Callable[[bytes], Parsed]) -> Parsed | None:
        if file not in manifest.files:
            missing[what] = f"published without {file}"
            return None
        try:
            return parse(_checked(path, manifest, file))
        except (ContractError, OSError, ValidationError) as err:
            logger.error("%s of %s cannot be read: %s", file, manifest.reference, err)
            failed.append(file)
            missing[what] = f"{file} cannot be read; `python -m models verify {manifest.reference}` says why"
            return None

    published = Published(
        path=path,
        manifest=manifest,
        review=parsed(REVIEW, "review", parse_review),
        confidence=parsed(CONFIDENCE, "confidence", Confidence.parse),
        overfit=parsed(HISTORY, "overfit", lambda data: _History.model_validate_json(data).overfit),
        missing=missing,
    )
    return published, not failed


def _bytes(published: Published, file: str, absent: str) -> bytes:
    manifest = published.manifest
    if file not in manifest.files:
        raise NotFoundError(f"{manifest.reference} has {absent}")
    try:
        return _checked(published.path, manifest, file)
    except (ArtifactError, OSError) as err:
        logger.error("%s of %s cannot be read: %s", file, manifest.reference, err)
        raise NotFoundError(f"{manifest.reference} has {absent} that can be read") from err


def _checked(path: Path, manifest: Manifest, file: str) -> bytes:
    data = (path / file).read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.files[file]:
        raise ArtifactError(f"{path / file} was altered")
    return data
