"""Every image decoded once: the pixels of the service, in the order of the splits, in memory or on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import training.data
from models.dataset import SPLITS, scan
from models.errors import DatasetError
from models.preprocess import load_image, standard_preprocessing
from models.recipe import Recipe
from tests.support.folders import write_colours
from training.data import Decoded, decode_all

if TYPE_CHECKING:
    from models.dataset import Dataset

PREPROCESSING = standard_preprocessing(crop_ratio=1.0)
SAMPLES = Path(__file__).resolve().parents[3] / "samples"


def decoded(found: Dataset, tmp_path: Path, size: int = 32) -> Decoded:
    return decode_all(found, PREPROCESSING, size, tmp_path / "work")


def holds_what_the_service_would_see(result: Decoded, size: int = 32) -> bool:
    return all(
        np.array_equal(images.pixels[row], load_image(item.path.read_bytes(), PREPROCESSING, size, size))
        for images in result.splits.values()
        for row, item in enumerate(images.items)
    )


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "data", {"": 30})


def tiles(folder: Path, count: int) -> list[Path]:
    """Different pictures: tiles of photographs, as PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in ("cat", "coffee"):
        image = Image.open(SAMPLES / f"{name}.jpg").convert("RGB")
        image.thumbnail((800, 800))
        for number in range(count // 2):
            x, y = 40 * (number % 12), 60 * (number // 12)
            paths.append(folder / f"{name}{number}.png")
            image.crop((x, y, x + 120, y + 120)).save(paths[-1])
    return paths


# --- pixels


def test_pixels_are_the_services_in_the_order_of_the_splits_and_items_are_those_of_the_data_set(
    colours: Path, tmp_path: Path
) -> None:
    result = decoded(scan(colours, Recipe()), tmp_path)

    assert holds_what_the_service_would_see(result)
    assert set(result.splits) == set(SPLITS)
    for split, images in result.splits.items():
        assert images.items == tuple(result.dataset.of(split))
        assert images.pixels.shape == (len(images), 32, 32, 3)
        assert images.targets.dtype == np.int64
        assert images.targets.tolist() == [item.target for item in images.items]


def test_pixels_of_all_splits_are_one_array_so_that_none_is_held_twice(colours: Path, tmp_path: Path) -> None:
    splits = decoded(scan(colours, Recipe()), tmp_path).splits

    assert len({id(_owner(images.pixels)) for images in splits.values()}) == 1


def _owner(array: np.ndarray) -> object:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_files_that_do_not_decode_are_left_out_named_and_counted_and_the_others_are_drawn_anew(
    colours: Path, tmp_path: Path
) -> None:
    broken = [colours / label / f"{number:03}.png" for label in ("red", "blue") for number in range(0, 10, 3)]
    for number, path in enumerate(broken):
        path.write_bytes(path.read_bytes()[: 60 + number])

    result = decoded(scan(colours, Recipe()), tmp_path)

    assert {entry.path for entry in result.dataset.skipped} == set(broken)
    assert result.report.unreadable.count == 8
    assert "broken or cut off" in result.report.unreadable.first[0].reason
    assert (result.report.files, sum(map(len, result.splits.values()))) == (90, 82)
    assert holds_what_the_service_would_see(result)
    assert [len(result.splits[split]) for split in SPLITS] == [49, 9, 12, 12]


def test_a_label_whose_only_readable_image_would_have_validated_is_trained_on_it(tmp_path: Path) -> None:
    root = write_colours(tmp_path / "data", {"": 2})
    found = scan(root, Recipe())
    trained = next(item for item in found.of("train") if found.labels[item.target] == "red")
    trained.path.write_bytes(b"nothing")

    result = decoded(scan(root, Recipe()), tmp_path)

    assert {result.dataset.labels[item.target] for item in result.dataset.of("train")} == {"red", "green", "blue"}


def test_a_label_without_a_readable_image_is_refused_with_the_first_file(tmp_path: Path) -> None:
    root = write_colours(tmp_path / "data", {"train": 2, "val": 1, "test": 1})
    for path in (root / "train" / "red").iterdir():
        path.write_bytes(path.name.encode())

    with pytest.raises(DatasetError) as caught:
        decoded(scan(root, Recipe()), tmp_path)

    assert str(caught.value) == (
        f"{root}: label 'red' has no image to train on; its 2 are held out "
        f"(2 files were left out, the first is {root / 'train' / 'red' / '000.png'})"
    )


# --- copies


def test_near_copies_are_drawn_into_one_split_and_reported(tmp_path: Path) -> None:
    paths = tiles(tmp_path / "data" / "all", 100)
    copies = {}
    for number, path in enumerate(paths):
        target = tmp_path / "data" / f"label{number % 2}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        if number % 5 == 0:
            copies[target] = target.with_suffix(".jpg")
            ImageEnhance.Brightness(Image.open(target)).enhance(1.05).save(copies[target], quality=80)

    result = decoded(scan(tmp_path / "data", Recipe()), tmp_path, size=64)

    splits = {item.path: item.split for item in result.dataset.items}
    assert all(splits[path] == splits[copy] for path, copy in copies.items())
    assert result.report.near_copies.count == len(copies) == 20
    assert result.report.leaks.count == result.report.conflicts.count == 0
    assert len({splits[path] for path in copies}) > 1
    assert holds_what_the_service_would_see(result, size=64)


def test_near_copies_across_given_splits_are_left_out_of_the_one_nearer_to_training(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, count in {"train": 24, "val": 8, "test": 8}.items():
        for label, paths in enumerate((tiles(tmp_path / "all", 48)[:24], tiles(tmp_path / "all", 48)[24:])):
            for path in paths[{"train": 0, "val": 8, "test": 16}[split] :][: min(count, 8)]:
                target = root / split / str(label) / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    held_out = next((root / "test" / "0").iterdir())
    Image.open(held_out).save(root / "train" / "1" / "leak.jpg", quality=85)

    result = decoded(scan(root, Recipe()), tmp_path, size=64)

    (leak,) = result.report.leaks.first
    assert (leak.kind, leak.file, leak.split) == ("near", "train/1/leak.jpg", "train")
    assert (leak.copy_of, leak.copy_split) == (f"test/0/{held_out.name}", "test")
    (conflict,) = result.report.conflicts.first
    assert {entry.label for entry in conflict.files} == {"0", "1"}
    assert len(result.splits["train"]) == 16
    assert holds_what_the_service_would_see(result, size=64)


# --- targets


def labelled(tmp_path: Path, values: list[str], header: str) -> Path:
    root = write_colours(tmp_path / "data", {"": len(values)}, labels=("red",)) / "red"
    rows = [f"{number:03}.png,{value}" for number, value in enumerate(values)]
    (root / "labels.csv").write_text("\n".join((f"file,{header}", *rows)))
    return root / "labels.csv"


def test_several_labels_are_rows_of_0_and_1(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["a|b", "", "b", "a|c"] * 5, "labels")

    result = decoded(scan(path, Recipe(task="multi_label")), tmp_path)

    assert result.dataset.labels == ("a", "b", "c")
    expected = {0: [1, 1, 0], 1: [0, 0, 0], 2: [0, 1, 0], 3: [1, 0, 1]}
    for images in result.splits.values():
        assert images.targets.dtype == np.float32
        assert images.targets.tolist() == [expected[int(item.path.stem) % 4] for item in images.items]


def test_numbers_are_a_column_in_their_own_unit(tmp_path: Path) -> None:
    path = labelled(tmp_path, [f"{number * 1.5}" for number in range(20)], "angle")

    result = decoded(scan(path, Recipe()), tmp_path)

    assert result.dataset.task == "regression"
    for images in result.splits.values():
        assert images.targets.dtype == np.float32
        assert images.targets.tolist() == [[int(item.path.stem) * 1.5] for item in images.items]
    assert result.report.notes[-1].startswith("'angle' holds 20 different numbers")


# --- where pixels are kept


def test_pixels_go_to_disk_where_memory_is_short_and_are_the_same_there(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_memory = decoded(scan(colours, Recipe()), tmp_path)
    needed = 90 * 32 * 32 * 3

    monkeypatch.setattr(training.data, "available_bytes", lambda: 2 * needed)
    assert not isinstance(decoded(scan(colours, Recipe()), tmp_path).splits["train"].pixels, np.memmap)
    assert "go to" not in capsys.readouterr().err

    monkeypatch.setattr(training.data, "available_bytes", lambda: 2 * needed - 2)
    on_disk = decoded(scan(colours, Recipe()), tmp_path)

    assert isinstance(on_disk.splits["train"].pixels, np.memmap)
    assert f"so they go to {tmp_path / 'work'}" in capsys.readouterr().err
    assert on_disk.report == in_memory.report
    for split, images in in_memory.splits.items():
        assert np.array_equal(images.pixels, on_disk.splits[split].pixels)
        assert images.items == on_disk.splits[split].items
    on_disk.splits["train"].pixels[0] = 7
    assert (on_disk.splits["train"].pixels[0] == 7).all(), "whoever trains may write into it, as into memory"


def test_nothing_is_left_on_disk_whatever_happens_to_the_process(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.data, "available_bytes", lambda: 0)
    result = decoded(scan(colours, Recipe()), tmp_path)

    assert list((tmp_path / "work").iterdir()) == []
    assert holds_what_the_service_would_see(result)


def test_pixels_that_fit_nowhere_are_refused_with_every_number(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(training.data, "available_bytes", lambda: 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=200_000))

    with pytest.raises(DatasetError) as caught:
        decoded(scan(colours, Recipe()), tmp_path)

    assert str(caught.value) == (
        f"the decoded images take 276480 bytes; 500 may be used in memory, and {tmp_path / 'work'} has 200000 free on disk. "
        "Pass a smaller image_size, or use fewer images"
    )


# --- the same again


def test_the_same_data_and_seed_give_the_same_arrays_and_another_seed_gives_others(colours: Path, tmp_path: Path) -> None:
    once, again, other = (decoded(scan(colours, Recipe(seed=seed)), tmp_path) for seed in (1, 1, 2))

    assert once.dataset == again.dataset
    assert once.report == again.report
    for split in SPLITS:
        assert np.array_equal(once.splits[split].pixels, again.splits[split].pixels)
        assert np.array_equal(once.splits[split].targets, again.splits[split].targets)
    assert {item.path for item in once.dataset.of("test")} != {item.path for item in other.dataset.of("test")}
    assert once.dataset.fingerprint() != other.dataset.fingerprint()
