"""Fashion-MNIST as class folders of PNGs: a draw of training images for each seed, and one test folder for all of them.

The images come from Debian's package `dataset-fashion-mnist`. Knows nothing of the tools that are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from samples.make_fashion_mnist import LABELS, SOURCE, read

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "dataset-fashion-mnist"
CALIBRATION_IMAGES = 60
TEST_IMAGES = 200

Pictures = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def validation_images(training_images: int) -> int:
    """Validation images a label beside so many training images: a fifth, and at least 10."""
    return max(10, training_images // 5)


def load(prefix: str) -> Pictures:
    """Images uint8 `[N, 28, 28]` and labels `[N]` of `train` or `t10k`.

    Raises:
        SystemExit: If the package is not installed.
    """
    if not SOURCE.is_dir():
        raise SystemExit(f"{SOURCE} is missing; run: apt-get install {PACKAGE}")
    return read(prefix)


def write_training(folder: Path, pictures: Pictures, training_images: int, seed: int) -> None:
    """Write `train/ val/ calibration/` below `folder`, each with class folders in it, no image in two of them.

    Args:
        folder: Created.
        pictures: The official training set.
        training_images: Of each label; validation and calibration come on top.
        seed: Decides which images are drawn.
    """
    splits = {
        "train": training_images,
        "val": validation_images(training_images),
        "calibration": CALIBRATION_IMAGES,
    }
    for index, label in enumerate(LABELS):
        drawn = np.random.default_rng([seed, index]).permutation(np.flatnonzero(pictures[1] == index))
        for split, count in splits.items():
            _write(folder / split / label, pictures[0], drawn[:count], count)
            drawn = drawn[count:]


def write_test(folder: Path, pictures: Pictures, test_images: int = TEST_IMAGES) -> None:
    """Write class folders with the last images of each label of the official test set: no recipe was tried out on them."""
    for index, label in enumerate(LABELS):
        _write(folder / label, pictures[0], np.flatnonzero(pictures[1] == index)[-test_images:], test_images)


def _write(folder: Path, images: npt.NDArray[np.uint8], positions: npt.NDArray[np.intp], count: int) -> None:
    if len(positions) != count:
        raise ValueError(f"{folder} wants {count} images, and only {len(positions)} are left of this label")
    folder.mkdir(parents=True)
    for position in positions:
        Image.fromarray(images[position]).save(folder / f"{position:05}.png")
