"""The held-out set of a name: images that no version may learn from, and that every candidate is judged on.

Fixed when the first version is published, as `registry/<name>/holdout/<sha256>/`: the images as they were, by the hash of
their bytes, in a zip; an index with what each shows; and thumbnails to find near copies by. The folder's name is the hash of the
index, so that fixing the same images twice is harmless; `current.json` says which set counts, and is replaced at once. Sets
that counted before stay, since reports name them.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from models import artifact
from models.duplicates import THUMBNAIL_PX, thumbnail
from models.errors import HoldoutError, ImageError, ManifestError
from models.frozen import Frozen, parse_json
from models.manifest import FileName, Sha256, canonical_json
from models.preprocess import load_image, standard_preprocessing
from models.publishing import make_readable, staging_in, sweep
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation
from models.registry import HOLDOUT, IMAGES, INDEX, POINTER, THUMBNAILS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from models.dataset import Dataset, Item
    from models.registry import Registry

# Thumbnails are averages, so that the size they are made from matters little.
_DECODED_PX = 96
# Images in memory at once.
_CHUNK = 256


class HeldOutImage(Frozen):
    """One image: its file in `images.zip`, the sha256 of its bytes, and its label, labels or number."""

    file: FileName
    digest: Sha256
    target: str | tuple[str, ...] | float


class HoldoutIndex(Frozen):
    """What a held-out set is: images in the order of their hashes."""

    schema_version: Literal[1]
    task: Task
    labels: tuple[str, ...]
    images: tuple[HeldOutImage, ...] = Field(min_length=1)


class _Pointer(Frozen):
    """Which set counts. One that a first version was to bring counts only once that version is there."""

    schema_version: Literal[1]
    sha256: Sha256
    origin: Literal["first_version", "replaced"]


@dataclass(frozen=True)
class Holdout:
    """A held-out set on disk."""

    path: Path
    sha256: str
    index: HoldoutIndex

    @classmethod
    def read(cls, registry: Registry, name: str) -> Holdout | None:
        """The held-out set of `name` that counts; None where there is none.

        Raises:
            HoldoutError: If it cannot be read, or its index was altered.
        """
        home = registry.holdout(name)
        try:
            pointer = parse_json(_Pointer, (home / POINTER).read_bytes(), "current.{}".format)
        except FileNotFoundError:
            return None
        except (OSError, ManifestError) as err:
            raise HoldoutError(f"{home / POINTER} cannot be read: {err}; copy it from a backup, or fix the set anew") from err
        if pointer.origin == "first_version" and not registry.has_begun(name):
            return None
        return cls._load(home / pointer.sha256, pointer.sha256)

    @classmethod
    def fix(cls, registry: Registry, name: str, dataset: Dataset) -> Holdout | None:
        """Hold out a data set's test split before the first version of `name` appears; None where there is no test image.

        From then on it counts. Where no version appears after all, the next one's data takes its place.

        Raises:
            HoldoutError: If an image cannot be read.
        """
        return cls.read(registry, name) or cls._write_set(registry, name, dataset, "first_version")

    @classmethod
    def replace(cls, registry: Registry, name: str, dataset: Dataset) -> Holdout | None:
        """Hold out a data set's test split, whatever was held out before; None where there is no test image.

        Raises:
            HoldoutError: If an image cannot be read.
        """
        return cls._write_set(registry, name, dataset, "replaced")

    @classmethod
    def _write_set(
        cls, registry: Registry, name: str, dataset: Dataset, origin: Literal["first_version", "replaced"]
    ) -> Holdout | None:
        items = _distinct(dataset.of("test"))
        if not items:
            return None
        home = registry.home(name) / HOLDOUT
        home.mkdir(parents=True, exist_ok=True)
        sweep(home)
        index = _index(dataset, items)
        sha256 = hashlib.sha256(canonical_json(index)).hexdigest()
        if not (home / sha256 / INDEX).is_file():
            _write(home, sha256, index, items)
        pointer = _Pointer(schema_version=1, sha256=sha256, origin=origin)
        registry.point_holdout(name, sha256, canonical_json(pointer))
        return cls._load(home / sha256, sha256)

    @classmethod
    def _load(cls, path: Path, sha256: str) -> Holdout:
        try:
            data = (path / INDEX).read_bytes()
            index = parse_json(HoldoutIndex, data, "index.{}".format)
        except (OSError, ManifestError) as err:
            raise HoldoutError(f"{path / INDEX} cannot be read: {err}; copy it from a backup, or fix the set anew") from err
        if hashlib.sha256(data).hexdigest() != sha256:
            raise HoldoutError(f"{path / INDEX} was altered: its sha256 is not {sha256[:12]}…, which its folder is called")
        return cls(path, sha256, index)

    def digests(self) -> frozenset[str]:
        """The sha256 of every image's bytes."""
        return frozenset(image.digest for image in self.index.images)

    def thumbnails(self) -> npt.NDArray[np.uint8]:
        """uint8 `[N, 16, 16, 3]`, in the order of the index.

        Raises:
            HoldoutError: If they cannot be read.
        """
        file = self.path / THUMBNAILS
        try:
            with np.load(file, allow_pickle=False) as stored:
                thumbnails: npt.NDArray[np.uint8] = stored["thumbnails"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as err:
            raise HoldoutError(f"{file} cannot be read: {err}; fix the set anew") from err
        if thumbnails.shape != (len(self.index.images), THUMBNAIL_PX, THUMBNAIL_PX, 3):
            raise HoldoutError(f"{file} has thumbnails {thumbnails.shape} for {len(self.index.images)} images; fix the set anew")
        return thumbnails

    def read_images(self) -> Iterator[tuple[HeldOutImage, bytes]]:
        """Every image with its bytes as they were, in the order of the index.

        Raises:
            HoldoutError: If one is missing, or was altered.
        """
        file = self.path / IMAGES
        try:
            with zipfile.ZipFile(file) as archive:
                for image in self.index.images:
                    data = archive.read(image.file)
                    if hashlib.sha256(data).hexdigest() != image.digest:
                        raise HoldoutError(f"{file} was altered: the sha256 of {image.file} is another; copy it from a backup")
                    yield image, data
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as err:
            raise HoldoutError(f"{file} cannot be read: {err}; copy it from a backup, or fix the set anew") from err


def _distinct(items: Sequence[Item]) -> list[Item]:
    """One item of equal bytes, in the order of their hashes."""
    return list({item.digest: item for item in sorted(items, key=lambda item: (item.digest, item.path))}.values())


def _index(dataset: Dataset, items: Sequence[Item]) -> HoldoutIndex:
    images = tuple(
        HeldOutImage(
            file=item.digest + item.path.suffix.lower(),
            digest=item.digest,
            target=tuple(dataset.labels[i] for i in item.target)
            if isinstance(item.target, tuple)
            else item.target
            if isinstance(item.target, float)
            else dataset.labels[item.target],
        )
        for item in items
    )
    return HoldoutIndex(schema_version=1, task=dataset.task, labels=dataset.labels, images=images)


def _write(home: Path, sha256: str, index: HoldoutIndex, items: Sequence[Item]) -> None:
    """Write the whole folder beside, then rename it: whoever was first wrote the same."""
    with staging_in(home) as staging:
        thumbnails = _write_images(staging / IMAGES, items, index)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, thumbnails=thumbnails)
        (staging / THUMBNAILS).write_bytes(buffer.getvalue())
        (staging / INDEX).write_bytes(canonical_json(index))
        make_readable(staging)
        for path in (*staging.iterdir(), staging):
            artifact.sync(path)
        try:
            staging.rename(home / sha256)
        except OSError:
            if not (home / sha256 / INDEX).is_file():
                raise
        artifact.sync(home)


def _write_images(file: Path, items: Sequence[Item], index: HoldoutIndex) -> npt.NDArray[np.uint8]:
    """Copy every file into one, since a thousand files are synced a thousand times; the thumbnails of what was copied."""
    thumbnails: list[npt.NDArray[np.uint8]] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(items), _CHUNK):
            part = slice(start, start + _CHUNK)
            for image, (data, small) in zip(index.images[part], pool.map(_read, items[part]), strict=True):
                archive.writestr(image.file, data)
                thumbnails.append(small)
    return np.stack(thumbnails)


def _read(item: Item) -> tuple[bytes, npt.NDArray[np.uint8]]:
    data = item.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != item.digest:
        raise HoldoutError(f"{item.path} changed while it was trained on; begin again")
    try:
        return data, thumbnail(load_image(data, standard_preprocessing(crop_ratio=1.0), _DECODED_PX, _DECODED_PX))
    except ImageError as err:
        raise HoldoutError(f"{item.path} cannot be held out: {err}") from err
