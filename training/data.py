"""Every image decoded once, into one uint8 array, by the function that the service uses.

Owns reading pixels. What a file that does not decode means for the data set is decided here: it is left out, counted and
named.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.dataset import Dataset, Item, Skipped, Split
from models.errors import DatasetError, ImageError
from models.preprocess import load_image
from training.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.manifest import Preprocessing

# Enough to judge by; reading the header of every file of a large folder would cost minutes.
_SIZE_SAMPLE = 200
SMALL_IMAGE_SIZE = 96


@dataclass(frozen=True)
class Images:
    """The decoded images of one split: uint8 `[N, H, W, 3]`, what is to be learnt of them, and the files they came from.

    Targets are label indices, int64 `[N]`, with task `single_label`; float32 `[N, K]` of 0 and 1 with `multi_label`;
    and float32 `[N, 1]`, in the number's own unit, with `regression`.
    """

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[Any]
    items: tuple[Item, ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.items)


def decode_all(dataset: Dataset, preprocessing: Preprocessing, image_size: int) -> tuple[Dataset, dict[Split, Images]]:
    """Decode every image of the data set at `image_size` squared.

    Returns:
        The data set without the files that did not decode (they are in its `skipped`), and the images of each split.

    Raises:
        DatasetError: If a label is left with no image to train on.
    """

    def read(item: Item) -> npt.NDArray[np.uint8] | Skipped:
        try:
            return load_image(item.path.read_bytes(), preprocessing, image_size, image_size)
        except (ImageError, OSError) as err:
            return Skipped(item.path, str(err))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(progress(pool.map(read, dataset.items), "reading images", len(dataset.items)))
    readable = dataset.without(result for result in results if isinstance(result, Skipped))
    _require_training(readable)
    rows = [(item, result) for item, result in zip(dataset.items, results, strict=True) if not isinstance(result, Skipped)]
    splits: dict[Split, Images] = {}
    for split in {item.split for item, _ in rows}:
        chosen = [(item, pixels) for item, pixels in rows if item.split == split]
        splits[split] = Images(
            pixels=np.stack([pixels for _, pixels in chosen]),
            targets=np.array([item.target for item, _ in chosen], dtype=np.int64),
            items=tuple(item for item, _ in chosen),
        )
    return readable, splits


def default_image_size(items: Sequence[Item], backbone_size: int, seed: int) -> int:
    """The backbone's size; 96 where the median short side is under half of it, since upscaling buys nothing."""
    chosen = np.random.default_rng(seed).permutation(len(items))[:_SIZE_SAMPLE]
    sides = [side for index in chosen if (side := _short_side(items[int(index)])) is not None]
    return SMALL_IMAGE_SIZE if sides and np.median(sides) < backbone_size / 2 else backbone_size


def _short_side(item: Item) -> int | None:
    try:
        with Image.open(item.path) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError):
        return None


def _require_training(dataset: Dataset) -> None:
    trained = {item.target for item in dataset.of("train")}
    for index, label in enumerate(dataset.labels):
        if index not in trained:
            named = next((entry.path for entry in dataset.skipped), None)
            raise DatasetError(
                f"{dataset.root}: no image of label {label!r} to train on could be read ({len(dataset.skipped)} files were "
                f"left out, the first is {named})"
            )
