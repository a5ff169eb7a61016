from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from models.dataset import Dataset, Skipped, scan
from models.errors import DatasetError
from models.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def table(root: Path, *lines: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\r\n".join(lines).encode(encoding))
    return path


def four(root: Path) -> Path:
    return write(root, "a.jpg", "b.jpg", "c.jpg", "d.jpg")


FOUR = ("a.jpg,cat", "b.jpg,dog", "c.jpg,cat", "d.jpg,dog")


def recipe(**keys: Any) -> Recipe:
    return Recipe(label_file="labels.csv", **keys)


def learnt(dataset: Dataset) -> dict[str, str]:
    return {item.path.relative_to(dataset.root).as_posix(): dataset.spelt(item.target) for item in dataset.items}


def refusal(root: Path, asked: Recipe | None = None) -> str:
    with pytest.raises(DatasetError) as caught:
        scan(root, asked or recipe())
    return str(caught.value)


CATS_AND_DOGS = {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat", "d.jpg": "dog"}

# --- columns


@pytest.mark.parametrize("image", ["file", "filename", "file_name", "path", "Image", "image_path", "Image ID", "fname", "id"])
@pytest.mark.parametrize("label", ["label", "Labels", "class", "tags", "category", "target", "breed"])
def test_columns_are_found_by_their_usual_names_and_the_only_other_one_by_being_that(
    image: str, label: str, tmp_path: Path
) -> None:
    table(four(tmp_path), f"{image},{label}", *FOUR)

    dataset = scan(tmp_path, recipe())

    assert learnt(dataset) == CATS_AND_DOGS
    assert (dataset.task, dataset.labels, dataset.skipped) == ("single_label", ("cat", "dog"), ())
    assert dataset.notes == (f"labels.csv: images from {image!r}, labels from {label!r}, no column of splits",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_delimiter_is_the_one_that_parts_the_header_and_a_byte_order_mark_is_nothing(
    delimiter: str, encoding: str, tmp_path: Path
) -> None:
    table(four(tmp_path), *(line.replace(",", delimiter) for line in ("file,label", *FOUR)), encoding=encoding)

    assert learnt(scan(tmp_path, recipe())) == CATS_AND_DOGS


def test_quotes_keep_delimiters_in_a_label_and_errors_count_lines(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", 'a.jpg,"cat, ""old\'"""', 'b.jpg,"dog\r\n wet"', "c.jpg,cat", "", "d.jpg")

    assert refusal(tmp_path) == "line 7 of labels.csv has 1 values, expected 2, as the header has"
    table(tmp_path, "file,label", 'a.jpg,"cat, ""old\'"""', 'b.jpg,"cat, ""old\'"""', " c.jpg , dög", "d.jpg,dög")
    assert scan(tmp_path, recipe()).labels == ('cat, "old\'"', "dög")


def test_columns_that_are_named_win_over_usual_names(tmp_path: Path) -> None:
    table(four(tmp_path), "file,path,label,breed", *(f"x.jpg,{line.replace(',', ',?,')}" for line in FOUR))

    assert learnt(scan(tmp_path, recipe(image_column="path", label_column="breed"))) == CATS_AND_DOGS


@pytest.mark.parametrize(
    ("header", "row", "found", "wanted"),
    [
        ("file,path,label", "a.jpg,a.jpg,cat", "'file', 'path' could be the image's path", "image_column"),
        ("photo,label", "a.jpg,cat", "no column could be the image's path", "image_column"),
        ("file,label,class", "a.jpg,cat,cat", "'label', 'class' could be the label", "label_column"),
        ("file,breed,age", "a.jpg,cat,3", "no column by a usual name could be the label", "label_column"),
        (
            "file,cat,dog",
            "a.jpg,0,1",
            "no column by a usual name could be the label",
            "label_column, or task=multi_label, since all of them are 0 and 1",
        ),
    ],
)
def test_columns_that_are_not_clear_are_all_named_with_the_key_to_pass(
    header: str, row: str, found: str, wanted: str, tmp_path: Path
) -> None:
    path = table(four(tmp_path), header, row)

    columns = ", ".join(map(repr, header.split(",")))
    assert refusal(tmp_path) == f"label_file {path}: {found}; its columns are {columns}. Pass {wanted}"


@pytest.mark.parametrize("key", ["image_column", "label_column"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(key: str, tmp_path: Path) -> None:
    path = table(four(tmp_path), "file,label", *FOUR)

    assert (
        refusal(tmp_path, recipe(**{key: "x"})) == f"label_file {path} has no column 'x' ({key}); its columns are 'file', 'label'"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 columns and 0 rows; expected a header"),
        (b"file,label\n", "has 2 columns and 0 rows; expected a header"),
        (b"file\na.jpg\n", "has 1 columns and 1 rows; expected a header"),
        (b"file,file\na.jpg,b\n", "has two columns called 'file', or one without a name"),
        (b"file,\na.jpg,b\n", "has two columns called '', or one without a name"),
        (b"file,label\na.jpg,caf\xe9\n", r"is not UTF-8 \(byte 20\)"),
        (b"file,label\n" + b"x" * 200_000 + b",cat\n", "is no CSV: field larger than field limit"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (four(tmp_path) / "labels.csv").write_bytes(content)

    with pytest.raises(DatasetError, match=message):
        scan(tmp_path, recipe())


def test_a_label_file_that_is_not_there_is_refused_by_path(tmp_path: Path) -> None:
    assert refusal(four(tmp_path)) == f"label_file {tmp_path / 'labels.csv'} cannot be read: No such file or directory"


# --- which file a row means


def test_a_csv_can_be_the_data_and_its_folder_is_the_root(tmp_path: Path) -> None:
    path = table(four(tmp_path / "images").parent, "file,label", *(f"images/{line}" for line in FOUR), name="my.CSV")

    dataset = scan(path, Recipe())

    assert dataset.root == tmp_path
    assert learnt(dataset) == {f"images/{name}": label for name, label in CATS_AND_DOGS.items()}
    assert scan(path, Recipe(label_file="my.CSV")) == dataset
    assert "is itself the label_file" in refusal(path)
    assert "is itself the label_file" in refusal(path, Recipe(label_pattern="(.)"))


def test_paths_may_lead_from_the_root_or_from_beside_the_csv_and_may_use_backslashes(tmp_path: Path) -> None:
    write(tmp_path, "set/images/a.jpg", "set/images/b.jpg", "set/c.jpg", "d.jpg")
    table(
        tmp_path,
        "file,label",
        r"images\a.jpg,cat",
        "./images/../images/b.jpg,dog",
        "set/c.jpg,cat",
        "d.jpg,dog",
        name="set/l.csv",
    )

    assert learnt(scan(tmp_path, Recipe(label_file="set/l.csv"))) == {
        "set/images/a.jpg": "cat",
        "set/images/b.jpg": "dog",
        "set/c.jpg": "cat",
        "d.jpg": "dog",
    }


def test_names_without_folder_or_suffix_mean_the_only_file_that_fits(tmp_path: Path) -> None:
    write(tmp_path, "train/0001.jpg", "train/0002.png", "train/deep/3.x.jpg", "val/0002.jpg")
    table(tmp_path, "id,label", "0001,cat", "train/0002,dog", "3.x,cat", "val/0002.jpg,dog")

    assert learnt(scan(tmp_path, recipe())) == {
        "train/0001.jpg": "cat",
        "train/0002.png": "dog",
        "train/deep/3.x.jpg": "cat",
        "val/0002.jpg": "dog",
    }


def test_a_name_that_fits_two_files_is_refused_with_both(tmp_path: Path) -> None:
    table(write(tmp_path, "one/0001.jpg", "two/0001.png"), "id,label", "0001,cat")

    assert refusal(tmp_path) == (
        "line 2 of labels.csv names '0001', which fits 'one/0001.jpg' and 'two/0001.png'; give the whole path"
    )


def test_a_name_with_its_suffix_is_not_taken_for_one_without(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jpg", "in/a.jpg.png", "b.jpg", "c.jpg", "d.jpg")
    table(tmp_path, "file,label", *FOUR)

    assert learnt(scan(tmp_path, recipe()))["in/a.jpg"] == "cat"


@pytest.mark.parametrize("path", ["../outside.jpg", "in/../../outside.jpg", "/etc/passwd", "..\\outside.jpg", ".."])
def test_a_path_outside_the_data_is_refused_and_never_read(path: str, tmp_path: Path) -> None:
    write(tmp_path, "outside.jpg")
    table(four(tmp_path / "data"), "file,label", *FOUR, f"{path},cat")

    assert refusal(tmp_path / "data") == (
        f"line 6 of labels.csv names {path!r}, which is outside {tmp_path / 'data'}; expected a path in it"
    )


def test_an_absolute_path_inside_the_data_is_as_good_as_a_relative_one(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", *(f"{tmp_path}/{line}" for line in FOUR))

    assert learnt(scan(tmp_path, recipe())) == CATS_AND_DOGS


def test_rows_without_a_file_and_files_without_a_row_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, "extra.jpg", "notes.txt", "scan.tiff")
    table(four(tmp_path), "file,label", *FOUR, "gone.jpg,cat", "scan.tiff,cat", "a/b/gone.jpg,dog")

    assert sorted(scan(tmp_path, recipe()).skipped, key=lambda entry: entry.path) == [
        Skipped(tmp_path / "a/b/gone.jpg", "line 8 of labels.csv names it, and there is no such image"),
        Skipped(tmp_path / "extra.jpg", "is not listed in labels.csv"),
        Skipped(tmp_path / "gone.jpg", "line 6 of labels.csv names it, and there is no such image"),
        Skipped(tmp_path / "notes.txt", ".txt is not an image's"),
        Skipped(tmp_path / "scan.tiff", ".tiff is not an image's"),
    ]


def test_no_file_at_all_is_refused_with_a_value_that_should_have_been_one(tmp_path: Path) -> None:
    path = table(four(tmp_path), "id,image,label", "1,x,cat", "2,y,dog")

    assert refusal(tmp_path) == (
        f"{path}: column 'image' names no image that is below {tmp_path}, as 'x'; "
        "pass image_column if another column has the paths"
    )


def test_a_row_without_an_image_is_refused(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", *FOUR, ",cat")

    assert refusal(tmp_path) == "line 6 of labels.csv names no image"


# --- splits


def test_a_column_called_split_gives_the_split_by_any_of_its_names(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.jpg" for number in range(8)))
    splits = ("train", "TRAIN", "val", "valid", "cal", "calibration", "test", "validation")
    table(tmp_path, "file,label,Split", *(f"{n}.jpg,{'cat' if n % 2 else 'dog'},{split}" for n, split in enumerate(splits)))

    dataset = scan(tmp_path, recipe())

    assert Counter(item.split for item in dataset.items) == {"train": 2, "validation": 3, "calibration": 2, "test": 1}
    assert dataset.notes[0].endswith("splits from 'Split'")


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("1", "0"), ("yes", "no")])
def test_a_column_called_is_valid_says_what_validates(yes: str, no: str, tmp_path: Path) -> None:
    table(
        four(tmp_path), "fname,label,is_valid", *(f"{line},{flag}" for line, flag in zip(FOUR, (no, no, yes, yes), strict=True))
    )

    assert {item.path.name: item.split for item in scan(tmp_path, recipe()).items} == {
        "a.jpg": "train",
        "b.jpg": "train",
        "c.jpg": "validation",
        "d.jpg": "validation",
    }


def test_a_split_column_without_a_value_is_none(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label,split", *(f"{line}," for line in FOUR))

    assert Counter(item.split for item in scan(tmp_path, recipe()).items) == {"train": 2, "validation": 2}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("split", "holdout", "train, val, valid, validation, calibration, cal, test"),
        ("split", "", "train, val, valid, validation, calibration, cal, test"),
        ("is_valid", "maybe", "true or false"),
    ],
)
def test_a_split_that_is_none_is_refused_by_line(column: str, value: str, expected: str, tmp_path: Path) -> None:
    good = "train" if column == "split" else "0"
    table(four(tmp_path), f"file,label,{column}", f"a.jpg,cat,{good}", f"b.jpg,dog,{value}")

    assert refusal(tmp_path) == f"line 3 of labels.csv has {value!r} in {column!r}; expected {expected}"


def test_two_columns_that_say_the_split_are_refused(tmp_path: Path) -> None:
    path = table(four(tmp_path), "file,label,split,is_valid", "a.jpg,cat,train,0")

    assert refusal(tmp_path) == f"label_file {path} has 'split', 'is_valid'; expected one column that says the split"


# --- one label an image


def test_a_file_that_is_named_twice_alike_is_one_image(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", *FOUR, "a.jpg,cat", "./a,cat")

    assert learnt(scan(tmp_path, recipe())) == CATS_AND_DOGS


def test_a_file_that_is_called_two_things_is_refused_with_both_lines(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", *FOUR, "a.jpg,dog")

    assert refusal(tmp_path) == (
        "line 2 of labels.csv and line 6 of labels.csv call 'a.jpg' 'cat' and 'dog'; expected one row an image "
        "(task=multi_label unites them)"
    )


def test_a_file_in_two_splits_is_refused_with_both_lines(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label,split", *(f"{line},train" for line in FOUR), "a.jpg,cat,test")

    assert refusal(tmp_path) == "line 2 of labels.csv and line 6 of labels.csv name 'a.jpg' in train and test"


def test_an_image_without_a_label_is_skipped(tmp_path: Path) -> None:
    write(four(tmp_path), "e.jpg")
    table(tmp_path, "file,label", *FOUR, "e.jpg,")

    assert scan(tmp_path, recipe()).skipped == (Skipped(tmp_path / "e.jpg", "line 6 of labels.csv has no label"),)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["cat"] * 4, "has only the label 'cat'; expected at least 2"), ([""] * 4, "has no labels; expected at least 2")],
)
def test_nothing_to_tell_apart_is_refused(labels: list[str], message: str, tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", *(f"{name}.jpg,{label}" for name, label in zip("abcd", labels, strict=True)))

    assert refusal(tmp_path) == f"{tmp_path} {message}"


# --- several labels an image


@pytest.mark.parametrize("separator", ["|", ";", ",", " "])
def test_several_labels_stand_apart_by_what_is_found_in_them(separator: str, tmp_path: Path) -> None:
    rows = (f'a.jpg,"cat{separator}dog"', 'b.jpg,"dog"', 'c.jpg,""', f'd.jpg,"cat{separator} eel{separator}"')
    table(write(four(tmp_path), "e.jpg", "f.jpg"), "file,tags", *rows, "e.jpg,eel", "f.jpg,cat")

    dataset = scan(tmp_path, recipe(task="multi_label"))

    assert (dataset.task, dataset.labels) == ("multi_label", ("cat", "dog", "eel"))
    assert [item.target for item in dataset.items] == [(0, 1), (1,), (), (0, 2), (2,), (0,)]
    assert dataset.notes[-1] == f"in 'tags' labels stand apart by {separator!r}; label_separator says otherwise"


def test_a_separator_that_is_given_is_the_only_one_and_says_that_there_are_several_labels(tmp_path: Path) -> None:
    table(four(tmp_path), "file,tags", "a.jpg,polar bear/ice|snow", "b.jpg,ice|snow", "c.jpg,polar bear", "d.jpg,ice|snow")

    dataset = scan(tmp_path, recipe(label_separator="/"))

    assert (dataset.task, dataset.labels) == ("multi_label", ("ice|snow", "polar bear"))


def test_a_row_for_each_label_of_an_image_is_united_where_several_are_asked_for(tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", *FOUR, "a.jpg,dog", "a.jpg,cat", "b.jpg,")

    assert [item.target for item in scan(tmp_path, recipe(task="multi_label")).items] == [(0, 1), (1,), (0,), (1,)]


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1", "-1"), ("1.0", "0.0")])
def test_a_column_for_each_label_of_0_and_1(yes: str, no: str, tmp_path: Path) -> None:
    flags = {"a": (yes, no, yes), "b": (no, yes, no), "c": (no, no, no), "d": (yes, yes, yes)}
    write(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    rows = [f"{name}.jpg,train,{','.join(values)}" for name, values in flags.items()]
    table(tmp_path, "image,split,smiles,hat,beard", *rows)

    dataset = scan(tmp_path, recipe(task="multi_label"))

    assert dataset.labels == ("beard", "hat", "smiles")
    assert {item.path.stem: item.target for item in dataset.items} == {"a": (0, 2), "b": (1,), "c": (), "d": (0, 1, 2)}
    assert dataset.notes == (
        "labels.csv: images from 'image', a label from each of the 3 columns of 0 and 1, splits from 'split'",
    )


def test_a_label_that_no_image_has_is_refused_by_its_column(tmp_path: Path) -> None:
    table(four(tmp_path), "file,hat,beard", "a.jpg,1,0", "b.jpg,1,0", "c.jpg,0,0", "d.jpg,1,0")

    assert "label 'beard' has no image to train on" in refusal(tmp_path, recipe(task="multi_label"))


# --- numbers


def numbers(root: Path, values: list[str], column: str = "angle") -> Path:
    write(root, *(f"{index:03}.jpg" for index in range(len(values))))
    table(root, f"file,{column}", *(f"{index:03}.jpg,{value}" for index, value in enumerate(values)))
    return root


def test_numbers_that_are_not_whole_are_a_regression_and_it_is_said(tmp_path: Path) -> None:
    dataset = scan(numbers(tmp_path, ["1", "2", "0.5", "-3e1", "1"]), recipe())

    assert (dataset.task, dataset.labels) == ("regression", ("angle",))
    assert [item.target for item in dataset.items] == [1.0, 2.0, 0.5, -30.0, 1.0]
    assert (
        dataset.notes[-1] == "'angle' holds 4 different numbers: the task is regression; task=single_label takes them for labels"
    )


@pytest.mark.parametrize(("count", "task"), [(20, "single_label"), (21, "regression")])
def test_whole_numbers_are_labels_up_to_twenty_of_them(count: int, task: str, tmp_path: Path) -> None:
    dataset = scan(numbers(tmp_path, [str(index % count) for index in range(4 * count)], "label"), recipe())

    assert dataset.task == task
    assert f"'label' holds {count} different whole numbers" in dataset.notes[-1]


@pytest.mark.parametrize("odd", ["x", "007", "1_000", "1,5", "inf", "0x1F", "1e999", "e5", "-"])
def test_one_value_that_people_would_not_write_for_a_number_makes_all_of_them_labels(odd: str, tmp_path: Path) -> None:
    values = [f"{index}.5" for index in range(10)] * 2 + [f'"{odd}"'] * 2

    assert scan(numbers(tmp_path, values), recipe()).task == "single_label"


@pytest.mark.parametrize("odd", ["x", "inf", "1,5"])
def test_a_column_of_numbers_but_for_one_is_refused_with_its_line(odd: str, tmp_path: Path) -> None:
    numbers(tmp_path, [f"{index}.5" for index in range(30)] + [f'"{odd}"'])

    assert refusal(tmp_path) == (
        f"'angle' holds numbers, but line 32 of labels.csv has {odd!r}; mend it, or pass task=single_label"
    )


@pytest.mark.parametrize("label", ['"old\n cat"', "cat\x00", '"a\tb"'])
def test_a_label_that_cannot_be_read_on_a_line_is_refused(label: str, tmp_path: Path) -> None:
    table(four(tmp_path), "file,label", f"a.jpg,{label}", "b.jpg,dog", "c.jpg,cat", "d.jpg,dog")

    assert "has a line break or another control character; rename it" in refusal(tmp_path)


def test_asking_for_labels_or_for_numbers_decides(tmp_path: Path) -> None:
    numbers(tmp_path, ["1", "2"] * 10)

    assert scan(tmp_path, recipe(task="regression")).task == "regression"
    assert scan(numbers(tmp_path, ["1.5", "2.5"] * 10), recipe(task="single_label")).labels == ("1.5", "2.5")


@pytest.mark.parametrize("empty", ["", "NaN", "NA", "null"])
def test_an_image_without_a_number_is_skipped_and_does_not_make_the_others_labels(empty: str, tmp_path: Path) -> None:
    dataset = scan(numbers(tmp_path, ["0.5", "1.5", empty, "2.5"]), recipe())

    assert dataset.task == "regression"
    assert dataset.skipped == (Skipped(tmp_path / "002.jpg", "line 4 of labels.csv has no label"),)


@pytest.mark.parametrize("value", ["north", "inf"])
def test_what_is_no_number_is_refused_by_line_where_numbers_were_asked_for(value: str, tmp_path: Path) -> None:
    numbers(tmp_path, ["1", value, "3"])

    assert refusal(tmp_path, recipe(task="regression")) == (
        f"line 3 of labels.csv has {value!r}; with task=regression a number is expected, below 1e+30 in size"
    )


def test_two_numbers_for_one_image_are_refused_with_both_lines(tmp_path: Path) -> None:
    table(four(tmp_path), "file,angle", "a.jpg,1.5", "b.jpg,2.5", "a.jpg,3.5")

    assert refusal(tmp_path) == (
        "line 2 of labels.csv and line 4 of labels.csv call 'a.jpg' '1.5' and '3.5'; expected one row an image"
    )


def test_one_number_for_all_is_nothing_to_learn(tmp_path: Path) -> None:
    assert refusal(numbers(tmp_path, ["1.5"] * 4)) == f"{tmp_path} has only the value 1.5 to learn; expected numbers that differ"


def test_images_to_train_on_must_have_numbers_that_differ(tmp_path: Path) -> None:
    table(four(tmp_path), "file,angle,split", "a.jpg,1.5,train", "b.jpg,1.5,train", "c.jpg,2.5,test")

    assert (
        refusal(tmp_path)
        == f"{tmp_path}: all images to train on have the same number, or there are none; expected numbers that differ"
    )
