"""The held-out set: what is kept, that it is fixed once, and that a crash or a change of the files is noticed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from models.dataset import scan
from models.duplicates import find_pairs
from models.errors import HoldoutError
from models.holdout import Holdout
from models.recipe import Recipe
from models.registry import Registry
from tests.support.artifacts import make_manifest, write_files
from tests.support.folders import write_colours

if TYPE_CHECKING:
    from pathlib import Path

    from models.dataset import Dataset


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def data(tmp_path: Path, name: str = "data", **counts: int) -> Dataset:
    return scan(write_colours(tmp_path / name, counts or {"train": 2, "test": 5}), Recipe())


def begin(registry: Registry, tmp_path: Path) -> None:
    """Publish a first version, from which on a held-out set counts."""
    registry.publish(write_files(tmp_path / "source"), make_manifest())


def fixed(registry: Registry, dataset: Dataset) -> Holdout:
    held = Holdout.fix(registry, "birds", dataset)
    assert held is not None
    return held


def test_every_test_image_is_kept_as_it_was_with_its_label(registry: Registry, tmp_path: Path) -> None:
    dataset = data(tmp_path)

    held = fixed(registry, dataset)

    assert held.path == registry.root / "birds" / "holdout" / held.sha256
    found = {image.digest: (image.target, content) for image, content in held.read_images()}
    assert found == {
        hashlib.sha256(path.read_bytes()).hexdigest(): (path.parent.name, path.read_bytes())
        for path in (tmp_path / "data" / "test").rglob("*.png")
    }
    assert held.digests() == found.keys()
    assert held.index.labels == ("blue", "green", "red")
    assert held.thumbnails().shape == (15, 16, 16, 3)


def test_it_counts_from_the_first_version_on_and_is_fixed_once(registry: Registry, tmp_path: Path) -> None:
    held = fixed(registry, data(tmp_path))
    assert Holdout.read(registry, "birds") is None, "no version appeared yet"
    begin(registry, tmp_path)

    assert Holdout.read(registry, "birds") == held
    assert fixed(registry, data(tmp_path, "other", train=2, test=7)) == held


def test_what_a_crash_left_before_the_first_version_gives_way_to_the_next_data(registry: Registry, tmp_path: Path) -> None:
    first = fixed(registry, data(tmp_path))
    second = fixed(registry, data(tmp_path, "other", train=2, test=7))
    begin(registry, tmp_path)

    assert first != second
    assert Holdout.read(registry, "birds") == second


def test_fixing_the_same_images_again_is_harmless(registry: Registry, tmp_path: Path) -> None:
    held = fixed(registry, data(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in held.path.rglob("*")}

    assert fixed(registry, data(tmp_path, "copy")).sha256 == held.sha256
    assert {path: path.stat().st_mtime_ns for path in held.path.rglob("*")} == before


def test_it_is_replaced_on_purpose_and_the_old_one_stays(registry: Registry, tmp_path: Path) -> None:
    held = fixed(registry, data(tmp_path))
    begin(registry, tmp_path)

    new = Holdout.replace(registry, "birds", data(tmp_path, "other", train=2, test=7))

    assert new is not None
    assert new.sha256 != held.sha256
    assert Holdout.read(registry, "birds") == new
    assert held.path.is_dir(), "reports name it"


def test_one_that_was_put_there_before_the_first_version_counts_at_once(registry: Registry, tmp_path: Path) -> None:
    new = Holdout.replace(registry, "birds", data(tmp_path))
    assert Holdout.read(registry, "birds") == new
    assert Holdout.fix(registry, "birds", data(tmp_path, "other", train=2, test=7)) == new


def test_without_test_images_there_is_none(registry: Registry, tmp_path: Path) -> None:
    assert Holdout.fix(registry, "birds", data(tmp_path, train=3, val=3)) is None
    assert Holdout.read(registry, "birds") is None


def test_equal_files_are_kept_once(registry: Registry, tmp_path: Path) -> None:
    dataset = data(tmp_path)
    copy = tmp_path / "data" / "test" / "red" / "copy.png"
    copy.write_bytes((tmp_path / "data" / "test" / "red" / "000.png").read_bytes())
    assert len(fixed(registry, scan(tmp_path / "data", Recipe())).index.images) == len(dataset.of("test"))


def test_thumbnails_find_the_same_picture_at_another_size(registry: Registry, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, size in (("train", 300), ("test", 200)):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(3):
                blocks = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                blocks.resize((size, size)).save(tmp_path / "data" / split / label / f"{number}.png")
    held = fixed(registry, scan(tmp_path / "data", Recipe()))
    from models.duplicates import thumbnail
    from models.preprocess import load_image, standard_preprocessing

    _, content = next(held.read_images())
    at_another = thumbnail(load_image(content, standard_preprocessing(1.0), 224, 224))
    assert find_pairs(np.stack([*held.thumbnails(), at_another])) == [(0, 6)]


def test_numbers_and_several_labels_are_kept_as_they_are(registry: Registry, tmp_path: Path) -> None:
    write_colours(tmp_path / "data", {"": 1})
    rows = {"angle": ("1.5", "2.5", "90.25"), "tags": ("a|b", "b", "")}
    for column, values in rows.items():
        files = ("red/000.png", "green/000.png", "blue/000.png")
        lines = [f"{file},{value},{split}" for file, value, split in zip(files, values, ("train", "train", "test"), strict=True)]
        (tmp_path / "data" / f"{column}.csv").write_text("\n".join([f"file,{column},split", *lines]))
    numbers = scan(tmp_path / "data", Recipe(label_file="angle.csv", label_column="angle", task="regression"), for_training=False)
    tags = scan(tmp_path / "data", Recipe(label_file="tags.csv", label_column="tags", task="multi_label"), for_training=False)
    assert [image.target for image in fixed(registry, numbers).index.images] == [90.25]
    replaced = Holdout.replace(registry, "tagged", tags)
    assert replaced is not None
    assert [image.target for image in replaced.index.images] == [()]


def test_altered_and_missing_files_are_said(registry: Registry, tmp_path: Path) -> None:
    held = fixed(registry, data(tmp_path))
    begin(registry, tmp_path)
    index = (held.path / "index.json").read_bytes()
    (held.path / "index.json").write_bytes(index.replace(b'"red"', b'"rad"'))
    with pytest.raises(HoldoutError, match="index.json was altered: its sha256 is not"):
        Holdout.read(registry, "birds")
    (held.path / "index.json").unlink()
    with pytest.raises(HoldoutError, match=r"index.json cannot be read: .*fix the set anew"):
        Holdout.read(registry, "birds")
    (held.path / "thumbnails.npz").write_bytes(b"")
    with pytest.raises(HoldoutError, match="thumbnails.npz cannot be read"):
        held.thumbnails()
    (registry.root / "birds" / "holdout" / "current.json").write_text("{}")
    with pytest.raises(HoldoutError, match="current.json cannot be read: current.schema_version"):
        Holdout.read(registry, "birds")


def test_an_image_that_changed_meanwhile_is_not_held_out_and_nothing_is_left_behind(registry: Registry, tmp_path: Path) -> None:
    dataset = data(tmp_path)
    (tmp_path / "data" / "test" / "red" / "000.png").write_bytes(b"other")
    with pytest.raises(HoldoutError, match=r"000.png changed while it was trained on"):
        Holdout.fix(registry, "birds", dataset)
    assert list((registry.root / "birds" / "holdout").iterdir()) == []
