"""Several data sets as one: labels, splits, and which of the recipe's keys are for which of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from models.dataset import scan
from models.errors import DatasetError
from models.merging import scan_all
from models.recipe import Recipe
from tests.support.folders import write_colours

if TYPE_CHECKING:
    from pathlib import Path


def labelled(folder: Path, column: str, values: tuple[str, ...], name: str = "labels.csv") -> Path:
    """Red images of which a CSV says something."""
    write_colours(folder, {"": len(values)}, ("red",), seed=len(values))
    lines = [f"red/{number:03}.png,{value}" for number, value in enumerate(values)]
    (folder / name).write_text("\n".join([f"file,{column}", *lines]))
    return folder


def test_one_is_what_it_is_alone(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "data", {"": 5})
    assert scan_all([data], Recipe()) == scan(data, Recipe())


def test_labels_are_united_and_each_image_keeps_its_own(tmp_path: Path) -> None:
    one = write_colours(tmp_path / "one", {"": 4}, ("red", "blue"), seed=1)
    other = write_colours(tmp_path / "other", {"": 4}, ("green", "red"), seed=2)

    merged = scan_all([one, other], Recipe())

    assert merged.labels == ("blue", "green", "red")
    assert merged.root == tmp_path
    assert Counter(merged.labels[item.target] for item in merged.items) == {"blue": 4, "green": 4, "red": 8}  # type: ignore[index]
    assert all(merged.labels[item.target] == item.path.parent.name for item in merged.items)  # type: ignore[index]


def test_without_splits_all_is_drawn_together_as_if_it_were_one_folder(tmp_path: Path) -> None:
    one, other = write_colours(tmp_path / "a", {"": 20}, seed=1), write_colours(tmp_path / "b", {"": 20}, seed=2)
    whole = tmp_path / "whole"
    for folder in (one, other):
        for path in sorted(folder.rglob("*.png")):
            target = whole / path.parent.name / f"{folder.name}{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())

    merged = scan_all([one, other], Recipe())

    assert {item.digest: item.split for item in merged.items} == {item.digest: item.split for item in scan(whole, Recipe()).items}


def test_what_has_no_splits_is_trained_on_beside_what_has_some(tmp_path: Path) -> None:
    split = write_colours(tmp_path / "split", {"train": 3, "val": 2, "test": 2}, seed=1)
    plain = write_colours(tmp_path / "plain", {"": 4}, seed=2)

    merged = scan_all([split, plain], Recipe())

    assert {split: len(merged.of(split)) for split in ("train", "validation", "test")} == {
        "train": 21,
        "validation": 6,
        "test": 6,
    }
    assert {item.split for item in merged.items if "plain" in item.path.parts} == {"train"}
    assert merged.notes == ("plain: no splits of its own, beside data that has some; all of it is for training",)


def test_a_copy_of_a_test_image_in_another_data_set_is_a_leak(tmp_path: Path) -> None:
    split = write_colours(tmp_path / "split", {"train": 3, "test": 2}, seed=1)
    plain = write_colours(tmp_path / "plain", {"": 2}, seed=2)
    (plain / "red" / "leak.png").write_bytes((split / "test" / "red" / "000.png").read_bytes())

    merged = scan_all([split, plain], Recipe())

    assert [(leak.item.path.name, leak.kept.split) for leak in merged.leaks] == [("leak.png", "test")]


def test_one_label_in_each_is_enough_and_one_in_all_is_not(tmp_path: Path) -> None:
    one = write_colours(tmp_path / "one", {"": 4}, ("red",), seed=1)
    other = write_colours(tmp_path / "other", {"": 4}, ("green",), seed=2)
    again = write_colours(tmp_path / "again", {"": 4}, ("red",), seed=3)
    assert scan_all([one, other], Recipe()).labels == ("green", "red")
    with pytest.raises(DatasetError, match=r"have together only \['red'\]; expected two labels"):
        scan_all([one, again], Recipe())


def test_a_label_file_is_for_those_that_have_it_and_folders_are_read_as_folders(tmp_path: Path) -> None:
    listed = labelled(tmp_path / "listed", "label", ("cat", "dog", "cat", "dog"))
    folders = write_colours(tmp_path / "folders", {"": 2}, ("green",), seed=9)
    merged = scan_all([listed, folders], Recipe(label_file="labels.csv"))
    assert merged.labels == ("cat", "dog", "green")
    as_file = scan_all([listed / "labels.csv", folders], Recipe(label_file="labels.csv"))
    assert as_file.items == merged.items


def test_a_pattern_is_for_those_whose_names_match_it(tmp_path: Path) -> None:
    named = tmp_path / "named"
    write_colours(tmp_path / "one", {"": 2}, ("red", "blue"), seed=1)
    named.mkdir()
    for path in (tmp_path / "one").rglob("*.png"):
        path.rename(named / f"{path.parent.name}_{path.stem}.png")
    folders = write_colours(tmp_path / "folders", {"": 2}, ("green",), seed=2)
    assert scan_all([named, folders], Recipe(label_pattern=r"^([a-z]+)_\d+")).labels == ("blue", "green", "red")


def test_numbers_are_one_number_and_tasks_must_agree(tmp_path: Path) -> None:
    angles = labelled(tmp_path / "angles", "angle", ("1.5", "2.5", "3.5", "4.5"))
    more = labelled(tmp_path / "more", "degrees", ("5.5", "6.5", "7.5"))
    recipe = Recipe(label_file="labels.csv")
    merged = scan_all([angles, more], recipe)
    assert (merged.task, merged.labels, len(merged.items)) == ("regression", ("angle",), 7)
    with pytest.raises(DatasetError, match=r"angles is regression data, and .*folders is single_label; pass task="):
        scan_all([angles, write_colours(tmp_path / "folders", {"": 2})], recipe)


def test_the_same_folder_twice_counts_once_and_two_labels_for_one_file_are_refused(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "data", {"": 4})
    assert len(scan_all([data, data / "."], Recipe()).items) == 12
    with pytest.raises(DatasetError, match="is in two of the data sets, with different labels"):
        scan_all([data, tmp_path], Recipe())
