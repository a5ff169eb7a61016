"""The draw: what stays together, what stays in proportion, and what stays where it is when the data changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from models.dataset import SPLITS, Dataset, Draw, Item, Leak, Skipped, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.dataset import Target
    from models.recipe import Task


def dataset(
    targets: Sequence[Target],
    task: Task = "single_label",
    splits: Sequence[Split | None] = (),
    seed: int = 0,
) -> Dataset:
    """Images 0, 1, ... with these targets, before any draw."""
    chosen = list(splits) or [None] * len(targets)
    items = tuple(
        Item(Path(f"{number:04}.jpg"), target, split or "train", f"{number:064}")
        for number, (target, split) in enumerate(zip(targets, chosen, strict=True))
    )
    labels = {"single_label": 3, "multi_label": 3, "regression": 1}[task]
    draw = Draw(seed, frozenset(split for split in chosen if split))
    return Dataset(Path(), task, tuple("abc"[:labels]), items, draw=draw)


def group(*numbers: int) -> dict[str, str]:
    return {f"{number:064}": f"{min(numbers):064}" for number in numbers}


def of(found: Dataset) -> dict[int, Split]:
    return {int(item.path.stem): item.split for item in found.items}


def sizes(found: Dataset) -> dict[str, int]:
    return {split: len(found.of(split)) for split in SPLITS if found.of(split)}


# --- copies

Labels = st.lists(st.integers(0, 2), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(Labels, st.data(), st.integers(0, 3))
def test_copies_share_a_split_whatever_their_labels(labels: list[int], data: st.DataObject, seed: int) -> None:
    groups = data.draw(st.lists(st.integers(0, 12), min_size=len(labels), max_size=len(labels)))
    firsts = {number: labels_of[0] for number, labels_of in _members(groups).items()}
    copies = {f"{image:064}": f"{firsts[number]:064}" for image, number in enumerate(groups)}

    found = dataset(labels, seed=seed).together(copies)

    assert len(found.items) == len(labels)
    assert found.leaks == ()
    splits = of(found)
    assert all(len({splits[image] for image in images}) == 1 for images in _members(groups).values())
    # A label of which there are several groups, none shared with another label, is trained on and held out.
    for label in set(labels):
        own = {number for number, images in _members(groups).items() if {labels[image] for image in images} == {label}}
        every = {groups[image] for image, one in enumerate(labels) if one == label}
        if own == every:
            assert "train" in {splits[image] for image, one in enumerate(labels) if one == label}


def _members(groups: list[int]) -> dict[int, list[int]]:
    members = defaultdict(list)
    for image, number in enumerate(groups):
        members[number].append(image)
    return members


def test_a_group_that_is_larger_than_a_held_out_split_should_be_is_for_training() -> None:
    found = dataset([0] * 200 + [1] * 200).together(group(*range(100)))

    assert {of(found)[number] for number in range(100)} == {"train"}
    assert {split: sum(item.target == 0 for item in found.of(split)) for split in SPLITS} == {
        "train": 120,
        "validation": 20,
        "calibration": 30,
        "test": 30,
    }


def test_objects_that_were_each_photographed_from_all_sides_are_held_out_as_a_whole() -> None:
    views = {key: value for start in range(0, 300, 30) for key, value in group(*range(start, start + 30)).items()}
    found = dataset([0] * 300 + [1] * 100).together(views)

    objects = {number // 30: split for number, split in of(found).items() if number < 300}
    assert Counter(objects.values())["train"] >= 4
    assert set(objects.values()) >= {"train", "validation", "test"}


def test_of_two_pairs_of_copies_one_is_to_train_on_and_one_to_validate() -> None:
    found = dataset([0] * 4 + [1] * 50).together(group(0, 1) | group(2, 3))

    assert Counter(of(found)[number] for number in range(4)) == {"train": 2, "validation": 2}


# --- leaks across given splits


def test_near_copies_across_given_splits_are_kept_in_the_strictest() -> None:
    splits: list[Split | None] = ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
    before = dataset([0, 1] * 20, splits=splits)

    found = before.together(group(0, 20, 30) | group(1, 2) | group(3, 21))

    nearly = "nearly the same image is in"
    assert found.skipped == (
        Skipped(Path("0000.jpg"), f"{nearly} test"),
        Skipped(Path("0003.jpg"), f"{nearly} validation"),
        Skipped(Path("0020.jpg"), f"{nearly} test"),
    )
    assert found.leaks[0] == Leak(before.items[0], before.items[30], "near")
    assert sizes(found) == {"train": 18, "validation": 9, "test": 10}


def test_copies_inside_a_split_that_is_divided_further_are_no_leak() -> None:
    splits: list[Split | None] = ["train"] * 30 + ["validation"] * 180
    before = dataset([0, 1, 2] * 70, splits=splits).together({})
    assert sizes(before) == {"train": 30, "validation": 90, "calibration": 90}
    apart = [next(n for n, split in of(before).items() if split == wanted) for wanted in ("validation", "calibration")]

    found = before.together(group(*apart))

    assert found.leaks == ()
    assert len({of(found)[number] for number in apart}) == 1


def test_splits_of_which_nothing_is_known_stay_as_they_are() -> None:
    items = (Item(Path("a.jpg"), 0, "train", "a" * 64), Item(Path("b.jpg"), 1, "test", "b" * 64))
    known = Dataset(Path(), "single_label", ("a", "b"), items)

    assert known.together({"a" * 64: "a" * 64, "b" * 64: "a" * 64}) == known


# --- seeds, and data that changes


@settings(max_examples=30, deadline=None)
@given(Labels, st.integers(0, 2**32 - 1))
def test_the_same_data_and_seed_give_the_same_splits_in_whatever_order(labels: list[int], seed: int) -> None:
    once = dataset(labels, seed=seed).together({})

    assert dataset(labels, seed=seed).together({}) == once
    backwards = Dataset(Path(), once.task, once.labels, once.items[::-1], draw=once.draw).together({})
    assert of(backwards) == of(once)
    assert backwards.fingerprint() == once.fingerprint()


def test_drawing_again_changes_nothing_and_another_seed_does() -> None:
    found = dataset([0, 1, 2] * 40).together({})

    assert found.together({}) == found
    assert of(dataset([0, 1, 2] * 40, seed=1).together({})) != of(found)


def test_an_image_more_or_less_moves_hardly_any_other() -> None:
    labels = [0, 1] * 500
    before = of(dataset(labels).together({}))
    after = of(dataset([*labels, *[0, 1] * 5]).together({}))
    fewer = dataset(labels).without([Skipped(Path(f"{number:04}.jpg"), "broken") for number in range(5)]).together({})

    assert sum(after[number] != split for number, split in before.items()) <= 8
    assert sum(before[number] != split for number, split in of(fewer).items()) <= 8


# --- several labels, and numbers


def test_of_several_labels_the_rarest_is_kept_in_proportion() -> None:
    targets: list[Target] = [(0, 1)] * 400 + [(0, 2)] * 40 + [()] * 100
    found = dataset(targets, "multi_label").together({})

    for split, share in {"train": 0.6, "validation": 0.1, "calibration": 0.15, "test": 0.15}.items():
        counts = Counter(item.target for item in found.items if item.split == split)
        assert counts == {(0, 1): 400 * share, (0, 2): 40 * share, (): 100 * share}


def test_every_label_that_two_images_have_is_trained_on() -> None:
    targets: list[Target] = [(0,)] * 50 + [(1,)] * 2 + [(2, 0)] * 3
    for seed in range(20):
        found = dataset(targets, "multi_label", seed=seed).together({})
        found.require_training()


def test_numbers_are_drawn_from_their_whole_range() -> None:
    found = dataset([float(number**2) for number in range(1000)], "regression").together({})

    assert sizes(found) == {"train": 600, "validation": 100, "calibration": 150, "test": 150}
    for split in SPLITS:
        deciles = Counter(int(item.target**0.5) // 100 for item in found.items if item.split == split)
        assert set(deciles.values()) == {len(found.of(split)) // 10}


def test_numbers_that_are_mostly_equal_are_drawn_all_the_same() -> None:
    found = dataset([0.0] * 900 + [1.0] * 100, "regression").together({})

    for split, count in {"train": 600, "validation": 100, "calibration": 150, "test": 150}.items():
        assert abs(len(found.of(split)) - count) <= 2
        assert abs(sum(item.target for item in found.of(split)) - count / 10) <= 2


def test_a_regression_gives_half_of_validation_to_calibration_from_forty_images() -> None:
    for count, calibration in ((39, 0), (40, 20)):
        splits: list[Split | None] = ["train"] * 10 + ["validation"] * count
        found = dataset([float(number) for number in range(10 + count)], "regression", splits).together({})
        assert len(found.of("calibration")) == calibration
