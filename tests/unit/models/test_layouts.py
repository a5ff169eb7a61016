from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from models.dataset import Dataset, Skipped, scan
from models.errors import DatasetError, RecipeError
from models.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

PETS = Recipe(label_pattern=r"^(.+)_\d+")


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def labelled(dataset: Dataset) -> dict[str, str]:
    return {item.path.relative_to(dataset.root).as_posix(): dataset.spelt(item.target) for item in dataset.items}


# --- labels from file names


def test_the_one_group_of_the_pattern_is_the_label_wherever_the_file_lies(tmp_path: Path) -> None:
    write(tmp_path, "images/great_pyrenees_12.jpg", "images/great_pyrenees_3.jpg", "Abyssinian_1.jpg", "a/b/Abyssinian_2.jpg")

    assert labelled(scan(tmp_path, PETS)) == {
        "images/great_pyrenees_12.jpg": "great_pyrenees",
        "images/great_pyrenees_3.jpg": "great_pyrenees",
        "Abyssinian_1.jpg": "Abyssinian",
        "a/b/Abyssinian_2.jpg": "Abyssinian",
    }


def test_the_pattern_is_searched_for_in_the_whole_name_with_its_suffix(tmp_path: Path) -> None:
    write(tmp_path, "001-cat.jpg", "002-cat.png", "003-dog.jpg", "004-dog.jpg")

    assert scan(tmp_path, Recipe(label_pattern=r"-(\w+)\.(?:jpg|png)$")).labels == ("cat", "dog")


def test_files_whose_names_do_not_match_are_skipped_and_so_are_those_without_a_label(tmp_path: Path) -> None:
    write(tmp_path, "cat_1.jpg", "cat_2.jpg", "dog_1.jpg", "dog_2.jpg", "IMG0001.jpg", " _1.jpg")

    dataset = scan(tmp_path, PETS)

    reason = r"its name does not match label_pattern ^(.+)_\d+"
    assert dataset.skipped == (Skipped(tmp_path / " _1.jpg", reason), Skipped(tmp_path / "IMG0001.jpg", reason))
    assert len(dataset.items) == 4


def test_a_group_that_takes_no_part_in_the_match_is_no_label(tmp_path: Path) -> None:
    write(tmp_path, "a-cat.jpg", "b-cat.jpg", "a-dog.jpg", "b-dog.jpg", "other.jpg")

    assert [entry.path.name for entry in scan(tmp_path, Recipe(label_pattern=r"-(\w+)\.|other")).skipped] == ["other.jpg"]


def test_split_folders_hold_names_with_labels_too(tmp_path: Path) -> None:
    for split, count in {"train": 3, "Valid": 2, "test": 1}.items():
        write(tmp_path, *(f"{split}/{label}_{number}.jpg" for label in ("cat", "dog") for number in range(count)))
    write(tmp_path, "cat_9.jpg")

    dataset = scan(tmp_path, PETS)

    assert Counter(item.split for item in dataset.items) == {"train": 6, "validation": 4, "test": 2}
    assert dataset.skipped == (Skipped(tmp_path / "cat_9.jpg", "lies outside the split folders"),)


def test_another_folder_with_images_beside_split_folders_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/cat_1.jpg", "annotations/cat_1.png")

    with pytest.raises(DatasetError, match="has 'annotations' beside train"):
        scan(tmp_path, PETS)


def test_a_pattern_that_matches_nothing_shows_a_name_that_it_should_have_matched(tmp_path: Path) -> None:
    write(tmp_path, "images/IMG0002.jpg", "images/IMG0001.jpg")

    with pytest.raises(DatasetError) as caught:
        scan(tmp_path, PETS)

    assert str(caught.value) == (
        rf"{tmp_path}: label_pattern ^(.+)_\d+ finds no label in any of 2 file names, as 'IMG0001.jpg'; "
        "expected a regular expression whose one group is the label"
    )


# --- tasks, whatever the layout


def test_folders_that_are_numbers_are_labels_unless_regression_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, *(f"{degrees}/{number}.jpg" for degrees in range(0, 330, 10) for number in range(2)))

    assert len(scan(tmp_path, Recipe()).labels) == 33
    dataset = scan(tmp_path, Recipe(task="regression"))
    assert (dataset.task, dataset.labels) == ("regression", ("value",))
    assert {item.path.parent.name: item.target for item in dataset.items}["320"] == 320.0


def test_names_may_hold_numbers_to_learn(tmp_path: Path) -> None:
    write(tmp_path, "31_a.jpg", "7.5_b.jpg", "-2_c.jpg")

    dataset = scan(tmp_path, Recipe(label_pattern=r"^([-\d.]+)_", task="regression"))

    assert sorted(item.target for item in dataset.items) == [-2.0, 7.5, 31.0]


def test_a_name_that_is_no_number_is_refused_where_numbers_are_learnt(tmp_path: Path) -> None:
    write(tmp_path, "31_a.jpg", "x_b.jpg")

    with pytest.raises(DatasetError, match=r"x_b\.jpg has 'x'; with task=regression a number is expected"):
        scan(tmp_path, Recipe(label_pattern=r"^(.+)_", task="regression"))


def test_folders_may_hold_several_labels(tmp_path: Path) -> None:
    write(tmp_path, *(f"{folder}/{number}.jpg" for folder in ("cat", "cat+dog", "dog + cat", "dog") for number in range(3)))

    dataset = scan(tmp_path, Recipe(task="multi_label", label_separator="+"))

    assert dataset.labels == ("cat", "dog")
    assert {item.path.parent.name: item.target for item in dataset.items} == {
        "cat": (0,),
        "cat+dog": (0, 1),
        "dog + cat": (0, 1),
        "dog": (1,),
    }


def test_multi_label_leaves_the_names_of_folders_whole_unless_a_separator_is_given(tmp_path: Path) -> None:
    write(tmp_path, *(f"{folder}/{number}.jpg" for folder in ("polar bear", "a|b") for number in range(3)))

    dataset = scan(tmp_path, Recipe(task="multi_label"))

    assert dataset.labels == ("a|b", "polar bear")
    assert {item.target for item in dataset.items} == {(0,), (1,)}


def test_a_separator_contradicts_a_task_of_one_label(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/1.jpg")

    with pytest.raises(RecipeError, match="label_separator belongs to multi_label, task is single_label"):
        scan(tmp_path, Recipe.from_mapping({"task": "single_label", "label_separator": "|"}))
