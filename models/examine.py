"""Look through a folder that is about to be stored: where the labels stand, what decodes, what is there twice.

Reads as a recipe without any keys would, since which recipe will be used is not known yet: a data set whose labels only a
recipe can find (in file names, in a table with odd columns) is taken, with a finding that says so. Refuses only what no
recipe could train on. Every image is decoded, within bounds; a few threads are enough, since somebody else is served.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.dataset import Dataset, Draw, Item, Skipped, scan
from models.dataset_card import Contents
from models.dataset_findings import find, remark
from models.duplicates import group_copies, thumbnail
from models.errors import DatasetError, ImageError
from models.layouts import walk
from models.preprocess import load_image, standard_preprocessing
from models.recipe import Recipe
from models.scan_report import describe_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from models.dataset_card import Finding
    from models.preprocess import UInt8Array
    from models.recipe import Task

# Copies are compared by thumbnails of it, as `python -m training scan` does.
_IMAGE_PX = 96
_PREPROCESSING = standard_preprocessing(crop_ratio=1.0)
TABLES = frozenset({".csv", ".tsv"})


@dataclass(frozen=True)
class Effort:
    """What a look may cost. Images beyond are taken to be readable, and a finding says how many.

    Attributes:
        images: How many are decoded: the first by the hash of their bytes, which is no order that means anything.
        seconds: How long is decoded.
        threads: How many decode.
    """

    images: int = 20_000
    seconds: float = 300.0
    threads: int = 2


@dataclass(frozen=True)
class _Read:
    """The labels as far as they can be told, and the table that says them; `problem` says why they cannot."""

    layout: Literal["folders", "table", "files"]
    dataset: Dataset
    label_file: str | None = None
    problem: str | None = None


def examine(
    root: Path,
    digests: Mapping[Path, str],
    *,
    is_wrapped: bool = False,
    task: Task | None = None,
    effort: Effort | None = None,
) -> Contents:
    """Say what is in a folder.

    Args:
        root: The folder.
        digests: The sha256 of every file below it.
        is_wrapped: Whether the folder was the only one in an archive: it may be a label then.
        task: Of the table's labels, where that is known; None to tell it by looking at them.
        effort: What it may cost.

    Raises:
        DatasetError: If there is no image, none that decodes, or one label only where folders are the labels. Files are
            named by their path below `root`.
    """
    try:
        read = _read(root, digests, is_wrapped, task)
        return _look(read, effort or Effort())
    except DatasetError as err:
        raise DatasetError(_below(root, str(err))) from err


def _read(root: Path, digests: Mapping[Path, str], is_wrapped: bool, task: Task | None) -> _Read:
    files, _ = walk(root)
    tables = sorted(path for path in digests if path.suffix.lower() in TABLES)
    folders, problem = _scan(root, Recipe(), digests)
    if folders is not None and len(_held(folders)) > 1:
        named = [path.relative_to(root).as_posix() for path in tables]
        hint = f"labels are taken from the folders; label_file={named[0]} takes them from that table" if named else None
        return _Read("folders", folders, problem=hint)
    if tables and tables[0].parent == root:
        table, said = _scan(root, Recipe(label_file=tables[0].name, task=task), digests)
        if table is not None:
            return _Read("table", table, label_file=tables[0].name)
        return _Read("files", _unlabelled(root, files, digests), problem=said)
    if tables:
        hint = f"labels are not in the folders; label_file={tables[0].relative_to(root).as_posix()} may have them"
        return _Read("files", _unlabelled(root, files, digests), problem=hint)
    if folders is None:
        raise DatasetError(problem)
    if folders.items or is_wrapped:
        _refuse_one_label(root, folders)
    return _Read("files", _unlabelled(root, files, digests), problem="no folder or table says the labels")


def _refuse_one_label(root: Path, folders: Dataset) -> None:
    """A folder in a folder may be a label; what has its labels in file names has to say so by having no folders."""
    names = f"only the label {folders.labels[0]!r}" if folders.items else "all images in one folder"
    raise DatasetError(
        f"{root} has {names}; expected at least two folders of images, one for each label. Where file names or a table say "
        "the labels, put the images, and the table, at the top, outside any folder"
    )


def _scan(root: Path, recipe: Recipe, digests: Mapping[Path, str]) -> tuple[Dataset | None, str | None]:
    """A data set, or why it cannot be read so."""
    try:
        return scan(root, recipe, for_training=False, known_digests=digests), None
    except DatasetError as err:
        return None, _below(root, str(err))


def _unlabelled(root: Path, files: Iterable[Path], digests: Mapping[Path, str]) -> Dataset:
    """Every image under one label without a name, so that what is found without labels is found in the same way."""
    items = tuple(Item(path, 0, "train", digests[path]) for path in sorted(files))
    return Dataset(root, "single_label", ("",), items, draw=Draw(0, frozenset()))


def _look(read: _Read, effort: Effort) -> Contents:
    dataset = read.dataset
    thumbnails, unreadable = _decode(dataset.items, effort)
    if unreadable and not thumbnails:
        first = unreadable[0]
        raise DatasetError(f"none of {len(unreadable)} images can be read; the first, {first.path}: {first.reason}")
    usable = dataset.without(unreadable)
    if read.layout == "folders" and len(held := _held(usable)) < 2:
        raise DatasetError(f"only images of {held[0]!r} decode; expected two labels with images that do")
    names = sorted(thumbnails)
    copies = group_copies(names, np.stack([thumbnails[name] for name in names])) if names else {}
    settled = usable.together(copies)
    labels = {} if read.layout == "files" else _counts(usable)
    report = describe_dataset(settled, unreadable, copies)
    unseen = sum(item.digest not in thumbnails for item in usable.items)
    return Contents(
        layout=read.layout,
        label_file=read.label_file,
        task=None if read.layout == "files" else dataset.task,
        images=len(usable.items),
        labels=labels,
        splits=dict(Counter(item.split for item in usable.items)) if dataset.draw and dataset.draw.given else {},
        findings=(*_remarks(read, settled, unseen), *find(report, {} if dataset.task == "regression" else labels)),
    )


def _remarks(read: _Read, settled: Dataset, unseen: int) -> Iterator[Finding]:
    if read.problem is not None:
        yield remark("labels", read.problem)
    if unseen:
        yield remark("sampled", f"{unseen} images were not decoded: what is wrong with them shows in training", unseen)
    if read.layout != "files":
        try:
            settled.require_training()
        except DatasetError as err:
            yield remark("not_trained", f"it can only be trained on beside another: {_below(settled.root, str(err))}")


def _decode(items: Sequence[Item], effort: Effort) -> tuple[dict[str, UInt8Array], list[Skipped]]:
    """The thumbnails of those that decode, by digest, and those that do not. Equal bytes are decoded once."""
    until = time.monotonic() + effort.seconds
    files = {item.digest: item.path for item in items}
    chosen = sorted(files)[: effort.images]

    def read(digest: str) -> UInt8Array | str | None:
        if time.monotonic() > until:
            return None
        try:
            return thumbnail(load_image(files[digest].read_bytes(), _PREPROCESSING, _IMAGE_PX, _IMAGE_PX))
        except ImageError as err:
            return str(err)

    with ThreadPoolExecutor(effort.threads) as pool:
        results = dict(zip(chosen, pool.map(read, chosen), strict=True))
    reasons = {digest: result for digest, result in results.items() if isinstance(result, str)}
    thumbnails = {digest: result for digest, result in results.items() if isinstance(result, np.ndarray)}
    return thumbnails, [Skipped(item.path, reasons[item.digest]) for item in items if item.digest in reasons]


def _held(dataset: Dataset) -> list[str]:
    """The labels that have an image."""
    return list(_counts(dataset))


def _counts(dataset: Dataset) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for item in dataset.items:
        # A regression has one label, the name of its number.
        indices = item.target if isinstance(item.target, tuple) else (0 if isinstance(item.target, float) else item.target,)
        counts.update(dataset.labels[index] for index in indices)
    return {label: counts[label] for label in dataset.labels if counts[label]}


def _below(root: Path, message: str) -> str:
    """A sentence in which files are named as whoever sent them knows them."""
    return message.replace(f"{root}/", "").replace(str(root), "it")
