"""Images that a name's held-out set has, or nearly, are never learnt from: found, left out, counted and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from models.dataset import scan
from models.errors import DatasetError
from models.holdout import Holdout
from models.preprocess import standard_preprocessing
from models.recipe import Recipe
from models.registry import Registry
from training.data import Decoded, decode_all

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESSING = standard_preprocessing(crop_ratio=1.0)


def write_pictures(folder: Path, split: str, count: int, seed: int) -> list[Path]:
    """Pictures that have nothing in common, `count` of each of two labels."""
    rng = np.random.default_rng(seed)
    paths = []
    for label in ("ant", "bee"):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            blocks = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
            paths.append(folder / split / label / f"{seed}-{number}.png")
            blocks.resize((90, 90), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture
def held(tmp_path: Path) -> Holdout:
    """The test images of a first data set, 30 of each label."""
    first = tmp_path / "first"
    write_pictures(first, "test", 30, seed=1)
    write_pictures(first, "train", 2, seed=2)
    found = Holdout.replace(Registry(tmp_path / "registry"), "insects", scan(first, Recipe()))
    assert found is not None
    return found


def decoded(data: Path, tmp_path: Path, held: Holdout | None) -> Decoded:
    return decode_all(scan(data, Recipe()), PREPROCESSING, 64, tmp_path / "work", held)


def test_equal_and_nearly_equal_images_are_left_out_of_everything_but_test(held: Holdout, tmp_path: Path) -> None:
    first = sorted((tmp_path / "first" / "test" / "ant").iterdir())
    later = tmp_path / "later"
    for split, seed in (("train", 3), ("val", 4), ("test", 5)):
        write_pictures(later, split, 8, seed)
    for index, split in enumerate(("train", "val", "test")):
        (later / split / "ant" / "equal.png").write_bytes(first[index].read_bytes())
    brighter = ImageEnhance.Brightness(Image.open(first[5]).resize((120, 120))).enhance(1.05)
    brighter.save(later / "train" / "ant" / "nearly.jpg", quality=90)

    result = decoded(later, tmp_path, held)

    names = {split: {item.path.name for item in images.items} for split, images in result.splits.items()}
    assert not {"equal.png", "nearly.jpg"} & (names["train"] | names["validation"])
    assert "equal.png" in names["test"]
    report = result.report.held_out
    assert {(one.kind, one.file) for one in report.first} == {
        ("exact", "train/ant/equal.png"),
        ("exact", "val/ant/equal.png"),
        ("near", "train/ant/nearly.jpg"),
    }
    assert "images left out, since they are equal or nearly equal to held-out ones: 3" in result.report.lines()
    assert result.report.files == 48 + 4
    assert result.report.splits["train"].images == 16
    # Nothing else changed by looking.
    without = decoded(later, tmp_path, None)
    assert {item.path for item in without.dataset.items} - {item.path for item in result.dataset.items} == {
        one.item.path for one in result.dataset.withheld
    }


def test_the_data_that_was_held_out_from_loses_nothing(held: Holdout, tmp_path: Path) -> None:
    """As after a crash between the held-out set and its version: the run goes on with the same data."""
    with_set, without = (decoded(tmp_path / "first", tmp_path, one) for one in (held, None))
    assert with_set.dataset.fingerprint() == without.dataset.fingerprint()
    assert with_set.dataset.withheld == ()


def test_data_that_is_drawn_anew_loses_what_falls_into_training(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for label in ("ant", "bee"):
        (data / label).mkdir(parents=True)
    for path in write_pictures(tmp_path / "all", "", 40, seed=6):
        path.rename(data / path.parent.name / path.name)
    held = Holdout.replace(Registry(tmp_path / "registry"), "insects", scan(data, Recipe(seed=1)))
    assert held is not None
    result = decode_all(scan(data, Recipe(seed=2)), PREPROCESSING, 64, tmp_path / "work", held)

    learnt = {item.digest for split in ("train", "validation", "calibration") for item in result.dataset.of(split)}  # type: ignore[arg-type]
    assert not learnt & held.digests()
    assert len(result.dataset.withheld) + len(held.digests() & {item.digest for item in result.dataset.of("test")}) == 12


def test_data_with_nothing_else_in_it_cannot_be_trained_on(held: Holdout, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in (tmp_path / "first" / "test").rglob("*.png"):
        target = copy / "train" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with pytest.raises(DatasetError, match=r"60 files were left out|no images to train on"):
        decoded(copy, tmp_path, held)
