"""What is found in a folder before it is stored, and which folders nobody could train on."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from models.errors import DatasetError
from models.examine import Effort, examine
from tests.support.folders import write_colours
from tests.support.pictures import picture

if TYPE_CHECKING:
    from models.dataset_card import Contents


def look(root: Path, *, is_wrapped: bool = False, effort: Effort | None = None) -> Contents:
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}
    return examine(root, digests, is_wrapped=is_wrapped, effort=effort)


def found(contents: Contents) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {finding.kind: (finding.count, finding.examples) for finding in contents.findings}


def test_good_class_folders_have_nothing_to_remark_on(tmp_path: Path) -> None:
    contents = look(write_colours(tmp_path, {"": 20}))
    assert (contents.layout, contents.task, contents.images) == ("folders", "single_label", 60)
    assert contents.labels == {"blue": 20, "green": 20, "red": 20}
    assert contents.splits == {}
    assert contents.findings == ()


def test_splits_are_those_that_the_layout_gives(tmp_path: Path) -> None:
    contents = look(write_colours(tmp_path, {"train": 20, "val": 3, "test": 2}))
    assert contents.splits == {"train": 60, "validation": 9, "test": 6}
    assert contents.labels == {"blue": 25, "green": 25, "red": 25}
    assert contents.findings == ()


def test_everything_odd_is_counted_and_named(tmp_path: Path) -> None:
    write_colours(tmp_path, {"train": 20, "test": 4})
    train, test = tmp_path / "train", tmp_path / "test"
    (train / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (train / "notes.txt").write_text("photographed on Sunday")
    shutil.copy(train / "red" / "000.png", train / "red" / "copy.png")
    shutil.copy(train / "red" / "001.png", train / "blue" / "wrong.png")
    shutil.copy(train / "green" / "002.png", test / "green" / "leak.png")
    with Image.open(train / "blue" / "003.png") as image:
        brighter = np.clip(np.asarray(image, dtype=np.int64) + 2, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(train / "blue" / "brighter.png")
    for number in range(3):
        (train / "few").mkdir(exist_ok=True)
        (train / "few" / f"{number}.png").write_bytes(picture("white", size=(40 + number, 40)))

    contents = look(tmp_path)
    there = found(contents)
    assert there["unreadable"][0] == 1
    assert there["unreadable"][1][0].startswith("train/red/broken.png: ")
    assert there["left_out"] == (1, ("train/notes.txt: .txt is not an image's",))
    assert there["equal_copies"] == (2, ("train/blue/wrong.png, train/red/001.png", "train/red/000.png, train/red/copy.png"))
    assert there["near_copies"] == (1, ("train/blue/003.png, train/blue/brighter.png",))
    assert there["leaks"] == (1, ("train/green/002.png is test/green/leak.png",))
    assert there["contradictions"] == (1, ("train/blue/wrong.png is blue, train/red/001.png is red",))
    assert there["few_images"] == (1, ("few: 3",))
    assert contents.labels == {"blue": 26, "few": 3, "green": 25, "red": 25}
    sentences = {finding.kind: finding.sentence for finding in contents.findings}
    assert sentences["leaks"] == "1 images are left out of their split, since a stricter one holds a copy"
    assert all(re.match(r"\d+ ", sentence) for kind, sentence in sentences.items() if kind not in {"labels", "note"})


def test_examples_are_few_however_many_there_are(tmp_path: Path) -> None:
    write_colours(tmp_path, {"": 20})
    for number in range(30):
        (tmp_path / "red" / f"b{number:02}.png").write_bytes(b"%d" % number)
    count, examples = found(look(tmp_path))["unreadable"]
    assert (count, len(examples)) == (30, 20)


def test_a_table_says_labels_and_splits(tmp_path: Path) -> None:
    write_colours(tmp_path, {"": 3}, labels=("red", "green"))
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name},train" for path in sorted(tmp_path.rglob("*.png"))]
    shutil.move(tmp_path / "green", tmp_path / "images")
    for path in sorted((tmp_path / "red").iterdir()):
        path.rename(tmp_path / "images" / f"r{path.name}")
    (tmp_path / "red").rmdir()
    table = "\n".join(["file,label,split", *rows]).replace("red/", "images/r").replace("green/", "images/")
    (tmp_path / "labels.csv").write_text(table)

    contents = look(tmp_path)
    assert (contents.layout, contents.label_file) == ("table", "labels.csv")
    assert (contents.labels, contents.splits) == ({"green": 3, "red": 3}, {"train": 6})
    assert any("labels from 'label'" in finding.sentence for finding in contents.findings)

    (tmp_path / "labels.csv").write_text("a,b\n1,2\n")
    unclear = look(tmp_path)
    assert (unclear.layout, unclear.label_file, unclear.labels, unclear.task) == ("files", None, {}, None)
    assert any("labels.csv" in finding.sentence for finding in unclear.findings if finding.kind == "labels")
    assert all(str(tmp_path) not in finding.sentence for finding in unclear.findings)


def test_a_table_beside_class_folders_is_remarked_on(tmp_path: Path) -> None:
    write_colours(tmp_path, {"": 20})
    (tmp_path / "labels.csv").write_text("file,label\nred/000.png,red\n")
    contents = look(tmp_path)
    assert contents.layout == "folders"
    assert "label_file=labels.csv" in next(finding.sentence for finding in contents.findings if finding.kind == "labels")


def test_names_without_folders_are_taken_for_a_recipe_to_read(tmp_path: Path) -> None:
    for label in ("great_pyrenees", "beagle"):
        for number in range(2):
            (tmp_path / f"{label}_{number}.png").write_bytes(picture("red", size=(40 + number, 40)))
    contents = look(tmp_path)
    assert (contents.layout, contents.images, contents.labels) == ("files", 4, {})
    kinds = found(contents)
    assert "labels" in kinds
    assert "contradictions" not in kinds
    with pytest.raises(DatasetError, match="it has all images in one folder; expected at least two folders"):
        look(tmp_path, is_wrapped=True)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "it holds no images"),
        ({"labels.csv": b"file,label\n"}, "it holds no images"),
        ({"cat/1.png": picture()}, "it has only the label 'cat'; expected at least two folders"),
        ({"cat/1.png": b"x", "dog/1.png": b"y"}, "none of 2 images can be read; the first, cat/1.png: "),
        ({"cat/1.png": picture(), "dog/1.png": b"y"}, "only images of 'cat' decode"),
        ({"train/cat/1.png": picture(), "dogs/dog/1.png": picture("blue")}, "it has 'dogs' beside train"),
    ],
)
def test_what_no_recipe_could_train_on_is_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"^{re.escape(words)}"):
        look(tmp_path)


def test_what_can_only_be_trained_on_beside_another_is_said(tmp_path: Path) -> None:
    contents = look(write_colours(tmp_path, {"test": 20}))
    (finding,) = (finding for finding in contents.findings if finding.kind == "not_trained")
    assert finding.sentence == (
        "it can only be trained on beside another: it has no images to train on, only test; expected a folder called train"
    )


@pytest.mark.parametrize(("effort", "unseen"), [(Effort(images=25), 35), (Effort(seconds=-1.0), 60)])
def test_a_large_set_is_sampled_and_that_is_said(tmp_path: Path, effort: Effort, unseen: int) -> None:
    contents = look(write_colours(tmp_path, {"": 20}), effort=effort)
    assert (contents.images, contents.labels) == (60, {"blue": 20, "green": 20, "red": 20})
    assert found(contents) == {"sampled": (unseen, ())}
