from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dataset import SPLIT_FOLDERS, SPLITS, SUFFIXES, Dataset, Item, Skipped, scan
from models.errors import DatasetError
from models.recipe import Recipe

RECIPE = Recipe(seed=0)


def write(root: Path, folder: str, count: int, suffix: str = ".jpg", first: int = 0) -> Path:
    """Write `count` files whose bytes say where they were written. Nothing here looks at pixels, so they hold none."""
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (target / f"{number:03}{suffix}").write_bytes(f"{folder} {number}".encode())
    return root


def write_labels(root: Path, **counts: int) -> Path:
    for label, count in counts.items():
        write(root, label, count)
    return root


def sizes(dataset: Dataset) -> dict[str, int]:
    """Images in each split that has any."""
    return {split: len(dataset.of(split)) for split in SPLITS if dataset.of(split)}


def per_label(dataset: Dataset, split: str) -> dict[str, int]:
    return dict(Counter(dataset.labels[item.target] for item in dataset.items if item.split == split))


def drawn(dataset: Dataset) -> dict[str, str]:
    """The split of each file, by its path below the root."""
    return {str(item.path.relative_to(dataset.root)): item.split for item in dataset.items}


# --- one folder


def test_one_folder_a_label_is_divided_60_10_15_15(tmp_path: Path) -> None:
    dataset = scan(write_labels(tmp_path, cat=100, dog=100), RECIPE)

    for split, expected in {"train": 60, "validation": 10, "calibration": 15, "test": 15}.items():
        assert per_label(dataset, split) == {"cat": expected, "dog": expected}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "validation": 1}),
        (3, {"train": 2, "validation": 1}),
        (4, {"train": 2, "validation": 1, "test": 1}),
        (19, {"train": 14, "validation": 2, "test": 3}),
        (20, {"train": 12, "validation": 2, "calibration": 3, "test": 3}),
    ],
)
def test_a_small_label_has_one_for_validation_first_and_calibration_only_from_20(
    images: int, expected: dict[str, int], tmp_path: Path
) -> None:
    dataset = scan(write_labels(tmp_path, cat=images, dog=50), RECIPE)

    assert {split: per_label(dataset, split).get("cat", 0) for split in SPLITS if "cat" in per_label(dataset, split)} == expected


def test_two_images_a_label_train_on_one_and_validate_on_the_other(tmp_path: Path) -> None:
    dataset = scan(write_labels(tmp_path, cat=2, dog=2), RECIPE)

    assert per_label(dataset, "train") == per_label(dataset, "validation") == {"cat": 1, "dog": 1}


def test_labels_are_alphabetical_and_items_in_order_of_path_with_their_sha256(tmp_path: Path) -> None:
    write_labels(tmp_path, zebra=2, ant=2)
    (tmp_path / "ant" / "000.jpg").write_bytes(b"abc")

    dataset = scan(tmp_path, RECIPE)

    assert dataset.labels == ("ant", "zebra")
    assert [str(item.path.relative_to(tmp_path)) for item in dataset.items] == [
        "ant/000.jpg",
        "ant/001.jpg",
        "zebra/000.jpg",
        "zebra/001.jpg",
    ]
    assert [item.target for item in dataset.items] == [0, 0, 1, 1]
    assert dataset.items[0].digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_nested_folders_keep_their_path_as_the_label(tmp_path: Path) -> None:
    write(tmp_path, "animals/domestic/cat", 2)
    write(tmp_path, "animals/wild/cat", 2)
    write(tmp_path, "animals", 2)
    write(tmp_path, "plants", 2)

    dataset = scan(tmp_path, RECIPE)

    assert dataset.labels == ("animals", "animals/domestic/cat", "animals/wild/cat", "plants")
    assert Counter(item.target for item in dataset.items) == {0: 2, 1: 2, 2: 2, 3: 2}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES | {".JPG", ".Png"}))
def test_every_suffix_of_an_image_is_taken_in_any_case(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, "cat", 2, suffix)
    write(tmp_path, "dog", 2, suffix)

    assert len(scan(tmp_path, RECIPE).items) == 4


def test_a_folder_that_looks_like_an_image_is_a_label(tmp_path: Path) -> None:
    assert scan(write_labels(tmp_path, **{"cat.jpg": 2, "dog": 2}), RECIPE).labels == ("cat.jpg", "dog")


# --- split folders


def write_splits(root: Path, **counts: int) -> Path:
    for split, count in counts.items():
        for label in ("cat", "dog"):
            write(root, f"{split}/{label}", count)
    return root


@pytest.mark.parametrize(("folder", "split"), sorted(SPLIT_FOLDERS.items()))
def test_a_split_folder_is_taken_by_each_of_its_names(folder: str, split: str, tmp_path: Path) -> None:
    write_splits(tmp_path, train=10, validation=2)
    write(tmp_path, f"{folder}/cat", 3, first=100)

    dataset = scan(tmp_path, RECIPE)

    assert dataset.labels == ("cat", "dog")
    assert sum(item.split == split and item.path.stem >= "100" for item in dataset.items) == 3


def test_splits_that_are_all_given_are_kept(tmp_path: Path) -> None:
    dataset = scan(write_splits(tmp_path, train=5, val=50, calibration=3, test=4), RECIPE)

    assert sizes(dataset) == {"train": 10, "validation": 100, "calibration": 6, "test": 8}
    assert all(SPLIT_FOLDERS[path.split("/")[0]] == split for path, split in drawn(dataset).items())


def test_nested_labels_below_split_folders_keep_their_path(tmp_path: Path) -> None:
    for label in ("pets/cat", "pets/dog"):
        write(tmp_path, f"train/{label}", 3)
        write(tmp_path, f"val/{label}", 1)

    assert scan(tmp_path, RECIPE).labels == ("pets/cat", "pets/dog")


@pytest.mark.parametrize("others", [{}, {"test": 7}], ids=["train_alone", "train_and_test"])
@pytest.mark.parametrize(("images", "expected"), [(2, 1), (3, 1), (20, 3)])
def test_missing_validation_is_15_percent_of_train_and_at_least_one(
    others: dict[str, int], images: int, expected: int, tmp_path: Path
) -> None:
    dataset = scan(write_splits(tmp_path, train=images, **others), RECIPE)

    assert per_label(dataset, "validation") == {"cat": expected, "dog": expected}
    assert per_label(dataset, "train") == {"cat": images - expected, "dog": images - expected}
    assert len(dataset.of("test")) == 2 * others.get("test", 0)
    assert dataset.of("calibration") == []
    assert all(path.startswith("train/") for path, split in drawn(dataset).items() if split == "validation")


@pytest.mark.parametrize(("images", "calibration"), [(39, 0), (40, 20), (41, 20)])
def test_missing_calibration_is_half_of_validation_from_40_a_label(images: int, calibration: int, tmp_path: Path) -> None:
    dataset = scan(write_splits(tmp_path, train=3, val=images, test=2), RECIPE)

    assert sizes(dataset).get("calibration", 0) == 2 * calibration
    assert len(dataset.of("validation")) == 2 * (images - calibration)
    assert (len(dataset.of("train")), len(dataset.of("test"))) == (6, 4)
    assert all(path.startswith("val/") for path, split in drawn(dataset).items() if split in {"validation", "calibration"})


def test_the_smallest_label_decides_whether_validation_is_halved(tmp_path: Path) -> None:
    write_splits(tmp_path, train=3)
    write(tmp_path, "val/cat", 80)
    write(tmp_path, "val/dog", 39)

    assert sizes(scan(tmp_path, RECIPE)) == {"train": 6, "validation": 119}


def test_a_label_without_validation_images_keeps_validation_whole(tmp_path: Path) -> None:
    write_splits(tmp_path, train=3)
    write(tmp_path, "val/cat", 40)

    assert sizes(scan(tmp_path, RECIPE)) == {"train": 6, "validation": 40}


def test_a_label_called_train_is_a_label_where_there_are_no_folders_in_it(tmp_path: Path) -> None:
    assert scan(write_labels(tmp_path, train=2, car=2), RECIPE).labels == ("car", "train")


def test_labels_called_train_and_test_are_labels_where_there_are_no_folders_in_them(tmp_path: Path) -> None:
    assert scan(write_labels(tmp_path, train=2, test=2), RECIPE).labels == ("test", "train")


def test_images_straight_below_a_folder_beside_split_folders_are_skipped(tmp_path: Path) -> None:
    write_splits(tmp_path, train=5, val=2)
    write(tmp_path, "samples", 1)

    dataset = scan(tmp_path, RECIPE)

    assert dataset.labels == ("cat", "dog")
    assert dataset.skipped == (Skipped(tmp_path / "samples" / "000.jpg", "lies outside the label folders"),)


def test_split_folders_without_train_are_no_labels_and_nothing_to_train_on(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        write(tmp_path, f"val/{label}", 2)
        write(tmp_path, f"test/{label}", 2)

    with pytest.raises(DatasetError) as caught:
        scan(tmp_path, RECIPE)
    assert str(caught.value) == (f"{tmp_path} has no images to train on, only test, validation; expected a folder called train")
    looked_at = scan(tmp_path, RECIPE, for_training=False)
    assert (looked_at.labels, len(looked_at.items)) == (("cat", "dog"), 8)


def test_splits_one_folder_too_deep_or_called_otherwise_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write_splits(tmp_path / "deep" / "photos", train=5, val=2)
    with pytest.raises(DatasetError, match=r"holds only 'photos', and the splits are in there; pass .*/deep/photos"):
        scan(tmp_path / "deep", RECIPE)
    for label in ("cat", "dog"):
        write(tmp_path / "other", f"Training/{label}", 3)
        write(tmp_path / "other", f"Testing/{label}", 3)
    with pytest.raises(DatasetError, match=r"has \['Testing', 'Training'\]; rename them to train and test"):
        scan(tmp_path / "other", RECIPE)


def test_data_that_is_only_looked_at_needs_no_two_labels_and_keeps_copies(tmp_path: Path) -> None:
    write(tmp_path, "cat", 2)
    (tmp_path / "cat" / "copy.jpg").write_bytes(next((tmp_path / "cat").iterdir()).read_bytes())

    assert len(scan(tmp_path, RECIPE, for_training=False).items) == 3


def test_a_folder_beside_split_folders_that_is_no_split_is_refused_by_name(tmp_path: Path) -> None:
    write_splits(tmp_path, train=5, val=2)
    write(tmp_path, "samples/cat", 1)

    with pytest.raises(DatasetError) as caught:
        scan(tmp_path, RECIPE)

    assert str(caught.value) == (
        f"{tmp_path} has 'samples' beside train; expected only train, val, valid, validation, calibration, cal, test there, "
        "or no split folders at all"
    )


def test_split_folders_are_taken_in_any_case(tmp_path: Path) -> None:
    dataset = scan(write_splits(tmp_path, Train=5, VAL=2), RECIPE)

    assert dataset.labels == ("cat", "dog")
    assert sizes(dataset) == {"train": 10, "validation": 4}


@pytest.mark.parametrize(("images", "calibration"), [(262, 0), (264, 20)])
def test_validation_that_is_drawn_from_train_is_halved_for_calibration_from_40_a_label(
    images: int, calibration: int, tmp_path: Path
) -> None:
    dataset = scan(write_splits(tmp_path, train=images), RECIPE)

    assert sizes(dataset).get("calibration", 0) == 2 * calibration
    assert len(dataset.of("validation")) == 2 * (round(images * 0.15) - calibration)


# --- equal bytes


def by_digest(dataset: Dataset) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for item in dataset.items:
        splits[item.digest].add(item.split)
    return splits


def test_equal_bytes_stay_in_one_split(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=40, dog=40)
    for path in sorted((tmp_path / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))

    dataset = scan(tmp_path, RECIPE)

    assert len(dataset.items) == 120
    assert all(len(splits) == 1 for splits in by_digest(dataset).values())
    assert len({item.digest for item in dataset.of("test")}) == 12, "copies must not make a label's share larger"


def test_two_equal_images_are_both_for_training(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=1, dog=10)
    shutil.copy(tmp_path / "cat" / "000.jpg", tmp_path / "cat" / "001.jpg")

    assert {split for path, split in drawn(scan(tmp_path, RECIPE)).items() if path.startswith("cat/")} == {"train"}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["cat", "dog", "eel"]), st.integers(0, 25)), min_size=10, max_size=90),
    st.sampled_from(["", "train/"]),
    st.integers(0, 5),
)
def test_each_image_is_in_one_split_and_equal_bytes_in_the_same_one(files: list[tuple[str, int]], top: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for label in ("cat", "dog", "eel"):
            write(Path(folder), f"{top}{label}", 4)
        for number, (label, content) in enumerate(files):
            Path(folder, f"{top}{label}", f"drawn{number}.png").write_bytes(b"%d" % content)

        dataset = scan(Path(folder), Recipe(seed=seed))

        assert len(drawn(dataset)) == len(dataset.items) == len(files) + 12
        assert all(len(splits) == 1 for splits in by_digest(dataset).values())
        assert {item.split for item in dataset.items} <= set(SPLITS)


@pytest.mark.parametrize(
    ("trained", "held_out", "split"),
    [
        ("train", "test", "test"),
        ("train", "val", "validation"),
        ("train", "cal", "calibration"),
        ("val", "test", "test"),
        ("val", "cal", "calibration"),
        ("cal", "test", "test"),
    ],
)
def test_an_image_that_is_given_in_two_splits_is_kept_in_the_one_further_from_training(
    trained: str, held_out: str, split: str, tmp_path: Path
) -> None:
    write_splits(tmp_path, train=5, val=2, cal=2, test=2)
    leak = tmp_path / trained / "dog" / "leak.jpg"
    shutil.copy(tmp_path / held_out / "cat" / "000.jpg", leak)  # under another label, which makes it no better

    dataset = scan(tmp_path, RECIPE)

    assert dataset.skipped == (Skipped(leak, f"the same image is in {split}"),)
    assert leak not in {item.path for item in dataset.items}
    assert len(dataset.items) == 22


def test_a_label_whose_training_images_are_all_held_out_is_refused_by_name(tmp_path: Path) -> None:
    write_splits(tmp_path, train=2, val=2, test=2)
    for number in range(2):
        shutil.copy(tmp_path / "train" / "cat" / f"{number:03}.jpg", tmp_path / "test" / "cat" / f"copy{number}.jpg")

    with pytest.raises(DatasetError, match="label 'cat' has no image to train on"):
        scan(tmp_path, RECIPE)


# --- seeds


def test_the_same_seed_gives_the_same_split_and_another_seed_another(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=40, dog=40)

    assert scan(tmp_path, Recipe(seed=3)) == scan(tmp_path, Recipe(seed=3))
    assert drawn(scan(tmp_path, Recipe(seed=3))) != drawn(scan(tmp_path, Recipe(seed=4)))
    assert sizes(scan(tmp_path, Recipe(seed=3))) == sizes(scan(tmp_path, Recipe(seed=4)))


def test_the_split_goes_by_content_so_renaming_files_moves_none(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=30, dog=30)
    before = {item.digest: item.split for item in scan(tmp_path, RECIPE).items}

    for number, path in enumerate(sorted((tmp_path / "cat").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed{number:03}.jpg"))

    assert {item.digest: item.split for item in scan(tmp_path, RECIPE).items} == before


# --- fingerprint


def test_the_fingerprint_does_not_depend_on_where_the_data_lies(tmp_path: Path) -> None:
    here = scan(write_labels(tmp_path / "here", cat=10, dog=10), RECIPE)
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere" / "deeper")

    assert scan(tmp_path / "elsewhere" / "deeper", RECIPE).fingerprint() == here.fingerprint()


def test_the_fingerprint_does_not_depend_on_the_order_of_items_or_names_of_files(tmp_path: Path) -> None:
    dataset = scan(write_labels(tmp_path, cat=10, dog=10), RECIPE)
    reversed_items = Dataset(tmp_path, dataset.task, dataset.labels, dataset.items[::-1])

    assert reversed_items.fingerprint() == dataset.fingerprint()
    (tmp_path / "cat" / "000.jpg").rename(tmp_path / "cat" / "zzz.jpg")
    assert scan(tmp_path, RECIPE).fingerprint() == dataset.fingerprint()


def one_item(digest: str = "a" * 64, label: str = "cat", split: str = "train") -> Dataset:
    return Dataset(Path(), "single_label", (label, "other"), (Item(Path("x.jpg"), 0, split, digest),))


@pytest.mark.parametrize("change", [{"digest": "b" * 64}, {"label": "dog"}, {"split": "test"}], ids=str)
def test_the_fingerprint_changes_with_any_byte_label_or_split(change: dict[str, str]) -> None:
    assert one_item(**change).fingerprint() != one_item().fingerprint()


def test_the_fingerprint_counts_copies(tmp_path: Path) -> None:
    once = one_item()
    twice = Dataset(tmp_path, once.task, once.labels, once.items * 2)

    assert twice.fingerprint() != once.fingerprint()


# --- what is left out


def test_a_file_that_is_no_image_is_skipped_with_its_suffix_and_counted(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=2, dog=2)
    for name in ("notes.txt", "scan.tiff", "README"):
        (tmp_path / "cat" / name).write_text("")

    dataset = scan(tmp_path, RECIPE)

    assert dataset.skipped == (
        Skipped(tmp_path / "cat" / "README", "no suffix is not an image's"),
        Skipped(tmp_path / "cat" / "notes.txt", ".txt is not an image's"),
        Skipped(tmp_path / "cat" / "scan.tiff", ".tiff is not an image's"),
    )
    assert len(dataset.items) == 4


def test_hidden_files_and_folders_are_passed_over_and_not_counted(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=2, dog=2)
    for folder in (".cache", "__MACOSX", "cat/.thumbnails"):
        write(tmp_path, folder, 2)
    (tmp_path / "cat" / "._000.jpg").write_bytes(b"a Mac's")
    (tmp_path / ".DS_Store").write_bytes(b"")

    dataset = scan(tmp_path, RECIPE)

    assert (len(dataset.items), dataset.skipped, dataset.labels) == (4, (), ("cat", "dog"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_an_image_whose_path_is_not_utf_8_is_skipped_because_nothing_could_hold_its_label(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=2, dog=2)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"image")

    dataset = scan(tmp_path, RECIPE)

    assert dataset.skipped == (Skipped(folder / "0.jpg", "its name is not UTF-8"),)
    assert dataset.labels == ("cat", "dog")
    assert len(dataset.fingerprint()) == 64


def test_an_image_outside_the_label_folders_is_skipped(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=2, dog=2)
    (tmp_path / "stray.jpg").write_bytes(b"stray")

    dataset = scan(tmp_path, RECIPE)

    assert dataset.skipped == (Skipped(tmp_path / "stray.jpg", "lies outside the label folders"),)
    assert len(dataset.items) == 4


def test_an_image_between_split_and_label_folders_is_skipped(tmp_path: Path) -> None:
    write_splits(tmp_path, train=5, val=2)
    for path in (tmp_path / "train" / "stray.jpg", tmp_path / "stray.jpg"):
        path.write_bytes(b"stray")

    dataset = scan(tmp_path, RECIPE)

    assert {entry.path for entry in dataset.skipped} == {tmp_path / "train" / "stray.jpg", tmp_path / "stray.jpg"}
    assert dataset.labels == ("cat", "dog")


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere", 3)
    write(tmp_path, "data/dog", 3)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")

    dataset = scan(tmp_path / "data", RECIPE)

    assert dataset.labels == ("cat", "dog")
    assert len(dataset.items) == 6


@pytest.mark.timeout(10)
@pytest.mark.parametrize("target", [".", "cat", "cat/deeper"])
def test_a_link_that_loops_is_skipped_with_its_path(target: str, tmp_path: Path) -> None:
    write_labels(tmp_path, cat=2, dog=2)
    write(tmp_path, "cat/deeper", 2)
    loop = tmp_path / "cat" / "deeper" / "loop"
    loop.symlink_to(tmp_path / target)

    dataset = scan(tmp_path, RECIPE)

    assert dataset.skipped == (Skipped(loop, "the folder was seen before (a link that loops)"),)
    assert len(dataset.items) == 6


def test_a_link_that_leads_nowhere_is_skipped(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=2, dog=2)
    (tmp_path / "cat" / "broken.jpg").symlink_to(tmp_path / "nothing.jpg")

    dataset = scan(tmp_path, RECIPE)

    assert dataset.skipped == (Skipped(tmp_path / "cat" / "broken.jpg", "cannot be read (permissions, or a broken link)"),)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_that_may_not_be_read_is_skipped(tmp_path: Path) -> None:
    write_labels(tmp_path, cat=3, dog=2)
    (tmp_path / "cat" / "000.jpg").chmod(0)

    assert [entry.path.name for entry in scan(tmp_path, RECIPE).skipped] == ["000.jpg"]


@pytest.fixture
def found(tmp_path: Path) -> Dataset:
    write_labels(tmp_path, cat=3, dog=2)
    (tmp_path / "notes.txt").write_text("")
    return scan(tmp_path, RECIPE)


def test_without_leaves_out_files_and_counts_them_as_skipped(found: Dataset) -> None:
    broken = Skipped(found.items[0].path, "cut off")

    less = found.without([broken])

    assert less.items == found.items[1:]
    assert less.skipped == (*found.skipped, broken)
    assert (less.root, less.labels) == (found.root, found.labels)
    assert len(found.items) == 5, "the dataset itself must not change"


def test_without_keeps_a_label_that_loses_its_last_image(found: Dataset) -> None:
    cats = [Skipped(item.path, "cut off") for item in found.items if item.target == 0]

    less = found.without(cats)

    assert less.labels == ("cat", "dog")
    assert {item.target for item in less.items} == {1}


# --- what is refused


def test_a_folder_that_is_missing_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(tmp_path / "none", RECIPE)

    assert str(caught.value) == f"{tmp_path / 'none'} does not exist; expected a folder with one folder of images for each label"


def test_a_file_instead_of_a_folder_is_refused_by_path(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"")

    with pytest.raises(DatasetError) as caught:
        scan(tmp_path / "data.zip", RECIPE)

    assert str(caught.value) == f"{tmp_path / 'data.zip'} is a file; expected a folder with one folder of images for each label"


@pytest.mark.parametrize("names", [[], ["cat/notes.txt"], ["cat/.hidden.jpg"]], ids=["empty", "text", "hidden"])
def test_a_folder_without_images_is_refused_with_what_counts_as_one(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    with pytest.raises(DatasetError) as caught:
        scan(tmp_path, RECIPE)

    assert str(caught.value) == (
        f"{tmp_path} holds no images; expected a folder of .bmp, .gif, .jpe, .jpeg, .jpg, .png, .webp files for each label"
    )


def test_one_label_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(write_labels(tmp_path, cat=5), RECIPE)

    assert str(caught.value) == f"{tmp_path} has one label ('cat'); expected at least two folders of images, one for each label"


def test_images_without_label_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(write(tmp_path, ".", 5), RECIPE)

    assert str(caught.value) == (
        f"{tmp_path} has no label folders; expected at least two folders of images, one for each label; "
        "label_pattern takes labels from file names, label_file from a CSV"
    )


def test_a_label_without_training_images_is_refused_by_name(tmp_path: Path) -> None:
    write_splits(tmp_path, train=5, val=2)
    write(tmp_path, "val/eel", 3)

    with pytest.raises(DatasetError) as caught:
        scan(tmp_path, RECIPE)

    assert str(caught.value) == f"{tmp_path}: label 'eel' has no image to train on; its 3 are held out"
