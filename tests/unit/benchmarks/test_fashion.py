"""The class folders: how many images, which, and none of them twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from benchmarks import fashion
from models.dataset import scan
from models.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

LABELS, EACH = 10, 90


@pytest.fixture(scope="module")
def pictures() -> fashion.Pictures:
    """900 images that differ, labels in turn: image i is of label i % 10."""
    numbers = np.arange(LABELS * EACH)
    images = np.zeros((len(numbers), 28, 28), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
    return images, (numbers % LABELS).astype(np.uint8)


def number(path: Path) -> int:
    with Image.open(path) as image:
        return image.getpixel((0, 0)) + 256 * image.getpixel((1, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: fashion.Pictures) -> Path:
    target = tmp_path_factory.mktemp("data") / "seed-3"
    fashion.write_training(target, pictures, training_images=7, seed=3)
    return target


def test_training_folder_is_what_candor_reads(folder: Path) -> None:
    dataset = scan(folder, Recipe())
    assert dataset.labels == tuple(sorted(fashion.LABELS))
    assert not dataset.skipped
    counts = {split: len(dataset.of(split)) for split in ("train", "validation", "calibration", "test")}
    assert counts == {"train": 70, "validation": 100, "calibration": 600, "test": 0}


def test_no_image_is_drawn_twice_and_each_lies_under_its_label(folder: Path) -> None:
    files = list(folder.rglob("*.png"))
    numbers = [number(file) for file in files]
    assert len(set(numbers)) == len(files)
    assert all(fashion.LABELS[n % LABELS] == file.parent.name for n, file in zip(numbers, files, strict=True))


def test_seed_decides_the_draw(tmp_path: Path, folder: Path, pictures: fashion.Pictures) -> None:
    for seed in (3, 4):
        fashion.write_training(tmp_path / str(seed), pictures, training_images=7, seed=seed)

    def drawn(root: Path) -> set[str]:
        return {file.name for file in (root / "train").rglob("*.png")}

    assert drawn(tmp_path / "3") == drawn(folder)
    assert drawn(tmp_path / "4") != drawn(folder)


def test_test_folder_holds_the_last_of_each_label(tmp_path: Path, pictures: fashion.Pictures) -> None:
    fashion.write_test(tmp_path / "test", pictures, test_images=3)
    bags = sorted(number(file) for file in (tmp_path / "test" / "bag").iterdir())
    index = fashion.LABELS.index("bag")
    count = (pictures[1] == index).sum()
    assert bags == [index + 10 * (count - left) for left in (3, 2, 1)]


def test_too_few_images_are_refused(tmp_path: Path, pictures: fashion.Pictures) -> None:
    with pytest.raises(ValueError, match=r"calibration/t-shirt wants 60 images, and only 54 are left of this label"):
        fashion.write_training(tmp_path / "data", pictures, training_images=26, seed=0)


@pytest.mark.parametrize(("training", "validation"), [(7, 10), (50, 10), (150, 30), (600, 120)])
def test_validation_is_a_fifth_and_at_least_ten(training: int, validation: int) -> None:
    assert fashion.validation_images(training) == validation
