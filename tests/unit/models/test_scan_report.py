from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.dataset import Dataset, Draw, Item, Skipped, Split
from models.errors import ManifestError
from models.scan_report import MOST_LISTED, Conflict, Labelled, Leaked, LeftOut, ScanReport, describe_dataset

if TYPE_CHECKING:
    from models.dataset import Target
    from models.recipe import Task

ROOT = Path("/data/pets")


def item(name: str, target: Target, split: Split = "train", digest: str | None = None) -> Item:
    return Item(ROOT / name, target, split, (digest or name).ljust(64, "0"))


def dataset(*items: Item, task: Task = "single_label", labels: tuple[str, ...] = ("cat", "dog"), given: bool = True) -> Dataset:
    splits = frozenset(one.split for one in items) if given else frozenset()
    return Dataset(ROOT, task, labels, items, draw=Draw(7, splits))


def test_the_report_counts_images_and_labels_of_each_split_labels_without_an_image_too() -> None:
    report = describe_dataset(dataset(item("a", 0), item("b", 0), item("c", 1), item("d", 1, "test")), [], {})

    assert {split: (counts.images, counts.labels) for split, counts in report.splits.items()} == {
        "train": (3, {"cat": 2, "dog": 1}),
        "test": (1, {"cat": 0, "dog": 1}),
    }
    assert (report.files, report.given, report.seed, report.labels) == (4, ("train", "test"), 7, ("cat", "dog"))
    assert report.lines() == ["4 images, 2 labels of 2 each: train 3, test 1"]


def test_splits_that_were_drawn_are_said_to_be() -> None:
    images = dataset(item("a", 0), item("b", 1), item("c", 1, "validation"), given=False)
    assert describe_dataset(images, [], {}).lines()[0].endswith(": train 2, validation 1; all drawn with seed 7")
    some = Dataset(ROOT, "single_label", images.labels, images.items, draw=Draw(7, frozenset({"train"})))
    assert describe_dataset(some, [], {}).lines()[0].endswith(": train 2, validation 1; validation drawn with seed 7")


def test_of_several_labels_an_image_counts_for_each() -> None:
    report = describe_dataset(dataset(item("a", (0, 1)), item("b", ()), item("c", (1,)), task="multi_label"), [], {})

    assert report.splits["train"].labels == {"cat": 1, "dog": 2}
    assert report.splits["train"].images == 3


def test_numbers_have_a_range_instead_of_counts() -> None:
    numbers = dataset(item("a", 1.0), item("b", 4.0), item("c", 2.5, "test"), task="regression", labels=("angle",))
    report = describe_dataset(numbers, [], {})

    values = report.splits["train"].values
    assert values is not None
    assert (values.lowest, values.mean, values.highest) == (1.0, 2.5, 4.0)
    assert report.splits["train"].labels == {}
    assert report.lines() == ["3 images, values of angle: train 2, test 1"]


@pytest.fixture
def report() -> ScanReport:
    """Everything that can be found, at once."""
    before = dataset(
        item("train/1", 0, digest="a"),
        item("train/2", 0, digest="a"),
        item("train/3", 0, digest="b"),
        item("train/4", 1, digest="c"),
        item("train/5", 0, digest="d"),
        item("train/6", 1, digest="e"),
        item("train/7", 1, digest="f"),
        item("test/1", 0, "test", digest="b"),
        item("test/2", 0, "test", digest="g"),
    )
    broken = Skipped(ROOT / "train/7", "cut off")
    text = Skipped(ROOT / "notes.txt", "no image")
    copies = {"c".ljust(64, "0"): "c".ljust(64, "0"), "d".ljust(64, "0"): "c".ljust(64, "0")} | {
        letter.ljust(64, "0"): "e".ljust(64, "0") for letter in "eg"
    }
    return describe_dataset(before.without([text, broken]).together({}).together(copies), [broken], copies)


def test_what_was_left_out_is_told_apart(report: ScanReport) -> None:
    assert report.files == 9
    assert report.skipped.first == (LeftOut(file="notes.txt", reason="no image"),)
    assert report.unreadable.first == (LeftOut(file="train/7", reason="cut off"),)
    assert report.leaks.first == (
        Leaked(kind="exact", file="train/3", split="train", copy_of="test/1", copy_split="test"),
        Leaked(kind="near", file="train/6", split="train", copy_of="test/2", copy_split="test"),
    )
    assert {split: counts.images for split, counts in report.splits.items()} == {"train": 4, "test": 2}


def test_copies_that_stay_are_listed_by_how_alike_they_are(report: ScanReport) -> None:
    assert report.exact_copies.first == (("train/1", "train/2"),)
    assert report.near_copies.first == (("train/4", "train/5"),)


def test_copies_with_different_labels_contradict_each_other_in_one_split_or_in_two(report: ScanReport) -> None:
    assert report.conflicts.first == (
        Conflict(kind="near", files=(Labelled(file="test/2", label="cat"), Labelled(file="train/6", label="dog"))),
        Conflict(kind="near", files=(Labelled(file="train/4", label="dog"), Labelled(file="train/5", label="cat"))),
    )


def test_the_words_name_everything_that_was_found(report: ScanReport) -> None:
    assert report.lines() == [
        "9 images, 2 labels of 1 (dog) to 5 (cat): train 4, test 2",
        "files left out: 1",
        "  notes.txt: no image",
        "images that do not decode: 1",
        "  train/7: cut off",
        "images left out, since a stricter split has a copy: 2",
        "  train/3 is test/1",
        "  train/6 is nearly test/2",
        "groups of equal images, each in one split: 1",
        "  train/1, train/2",
        "groups of nearly equal images, each in one split: 1",
        "  train/4, train/5",
        "groups of copies with different labels, of which one at most is right: 2",
        "  test/2 is cat, train/6 is dog",
        "  train/4 is dog, train/5 is cat",
    ]


def test_a_report_is_json_that_reads_back_and_names_no_folder_of_this_machine(report: ScanReport) -> None:
    data = report.to_bytes()

    assert ScanReport.parse(data) == report
    assert json.loads(data)["conflicts"]["count"] == 2
    assert b"/data/pets" not in data
    assert ScanReport.parse(data).to_bytes() == data
    assert ScanReport.parse(data).lines() == report.lines()


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"more": 1}, {"files": -1}])
def test_a_report_that_is_none_is_refused_by_key(report: ScanReport, change: dict[str, int]) -> None:
    broken = json.dumps(json.loads(report.to_bytes()) | change).encode()

    with pytest.raises(ManifestError, match=f"data.{next(iter(change))}"):
        ScanReport.parse(broken)


def test_numbers_of_nearly_equal_images_may_differ_and_those_of_equal_ones_may_not() -> None:
    group = {letter.ljust(64, "0"): "a".ljust(64, "0") for letter in "ab"}
    items = (item("1", 1.0, digest="a"), item("2", 1.5, digest="b"), item("3", 1.25, digest="b"))
    report = describe_dataset(dataset(*items, task="regression", labels=("angle",)), [], group)

    assert report.conflicts.first == (
        Conflict(kind="exact", files=(Labelled(file="2", label=1.5), Labelled(file="3", label=1.25))),
    )
    assert report.near_copies.first == (("1", "2", "3"),)


def test_long_lists_are_counted_whole_and_cut() -> None:
    skipped = [Skipped(ROOT / f"{number:04}.txt", "no image") for number in range(MOST_LISTED + 10)]
    report = describe_dataset(dataset(item("a", 0)).without(skipped), [], {})

    assert report.skipped.count == MOST_LISTED + 10
    assert len(report.skipped.first) == MOST_LISTED
    assert report.lines()[1:] == [
        "files left out: 510",
        "  0000.txt: no image",
        "  0001.txt: no image",
        "  0002.txt: no image",
        "  and 507 more",
    ]


def test_a_name_that_is_not_utf_8_is_spelt_with_escapes() -> None:
    report = describe_dataset(dataset(item("a", 0)).without([Skipped(ROOT / "caf\udce9.jpg", "no name")]), [], {})

    assert report.skipped.first[0].file == "caf\\udce9.jpg"
    assert ScanReport.parse(report.to_bytes()) == report
