"""Where the images of a data set lie, what they are called, and in which split: folders, and patterns in file names.

Owns the walk over the files and what folders and names say about them. `label_file` does the same for a CSV. What the
words mean (labels, several labels, numbers) is `targets`' business; pixels are nobody's here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from models.splits import Split

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "calibration": "calibration",
    "cal": "calibration",
    "test": "test",
}
# What others call them. Not taken for them, since they may be labels; but nothing else beside them makes it plain.
_NEARLY = frozenset({"training", "testing"})
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif"})


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Row:
    """What the layout says of one image, in its own words.

    Attributes:
        path: The file.
        labels: The label as it is written, or the names of the columns that hold a 1.
        split: None where it is ours to draw.
        where: Where this is written, for messages: a line of a CSV, or the file's path.
    """

    path: Path
    labels: tuple[str, ...]
    split: Split | None
    where: str


@dataclass(frozen=True)
class Layout:
    """All rows of a data set and what was left out.

    Attributes:
        root: The folder that every path is below.
        rows: At least one.
        skipped: Files, and rows of a CSV, that are left out.
        column: The label column of a CSV.
        columns: Where every label has a column of 0 and 1 of its own, those columns.
        notes: What was decided on the way, in sentences for people.
    """

    root: Path
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    column: str | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def walk(root: Path) -> tuple[list[Path], list[Skipped]]:
    """As `find_images`.

    Raises:
        DatasetError: If there is no image at all.
    """
    files, skipped = find_images(root)
    if not files:
        raise DatasetError(f"{root} holds no images; expected a folder of {', '.join(sorted(SUFFIXES))} files for each label")
    return files, skipped


def find_images(root: Path) -> tuple[list[Path], list[Skipped]]:
    """Find every image file below `root`. A link to a folder is followed once: a loop is left out, and said."""
    files: list[Path] = []
    skipped: list[Skipped] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            skipped.append(Skipped(Path(folder), "the folder was seen before (a link that loops)"))
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if (reason := _unusable(path)) is None:
                files.append(path)
            else:
                skipped.append(Skipped(path, reason))
    return files, skipped


def _unusable(path: Path) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if path.suffix.lower() not in SUFFIXES:
        return f"{path.suffix or 'no suffix'} is not an image's"
    return None if os.access(path, os.R_OK) else "cannot be read (permissions, or a broken link)"


def by_folder(root: Path) -> Layout:
    """Label each file by its folder's path; below `train` and its like (in any case) that path begins there.

    Raises:
        DatasetError: If there are no images, or if `train` stands beside a folder that is no split.
    """
    files, skipped = walk(root)
    # A label called train has images in it, a split called train has folders.
    has_splits = _has_splits(root, [path for path in files if len(_below(root, path)) > 2])
    rows: list[Row] = []
    for path in files:
        split, folders = _split(_below(root, path)[:-1], has_splits)
        if folders and (split or not has_splits):
            rows.append(Row(path, ("/".join(folders),), split, "/".join(_below(root, path))))
        else:
            skipped.append(Skipped(path, "lies outside the label folders"))
    return Layout(root, tuple(rows), tuple(skipped))


def by_pattern(root: Path, pattern: str) -> Layout:
    """Label each file by the one group of `pattern` in its name; folders are splits, or say nothing.

    Raises:
        DatasetError: If there are no images, if no name matches, or if `train` stands beside a folder that is no split.
    """
    files, skipped = walk(root)
    has_splits = _has_splits(root, [path for path in files if len(_below(root, path)) > 1])
    rows: list[Row] = []
    for path in files:
        split, _ = _split(_below(root, path)[:-1], has_splits)
        found = re.search(pattern, path.name)
        if has_splits and split is None:
            skipped.append(Skipped(path, "lies outside the split folders"))
        elif found is None or not (found[1] or "").strip():
            skipped.append(Skipped(path, f"its name does not match label_pattern {pattern}"))
        else:
            rows.append(Row(path, (found[1].strip(),), split, "/".join(_below(root, path))))
    if not rows:
        raise DatasetError(
            f"{root}: label_pattern {pattern} finds no label in any of {len(files)} file names, as {files[0].name!r}; "
            "expected a regular expression whose one group is the label"
        )
    return Layout(root, tuple(rows), tuple(skipped))


def _below(root: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts


def _split(folders: Sequence[str], has_splits: bool) -> tuple[Split | None, Sequence[str]]:
    """The split that the first folder names, and the folders below it."""
    split = SPLIT_FOLDERS.get(folders[0].lower()) if has_splits and folders else None
    return split, folders[1:] if split else folders


def _has_splits(root: Path, files: Iterable[Path]) -> bool:
    """Whether the folders at the top are splits: `train` says so, or that all of them are called like splits.

    Raises:
        DatasetError: If `train` stands beside a folder that is no split, or splits stand where none are looked for: their
            images would be labels.
    """
    below = [_below(root, path) for path in files]
    tops = {parts[0] for parts in below}
    named = {top.lower() for top in tops}
    if named & _NEARLY and named <= SPLIT_FOLDERS.keys() | _NEARLY:
        raise DatasetError(f"{root} has {sorted(tops)}; rename them to train and test, so that they are splits and not labels")
    if len(tops) == 1 and any(len(parts) > 3 and parts[1].lower() == "train" for parts in below):
        raise DatasetError(f"{root} holds only {below[0][0]!r}, and the splits are in there; pass {root / below[0][0]}")
    has_splits = "train" in named or (bool(named) and named <= SPLIT_FOLDERS.keys())
    others = sorted(top for top in tops if top.lower() not in SPLIT_FOLDERS)
    if has_splits and others:
        raise DatasetError(
            f"{root} has {others[0]!r} beside train; expected only {', '.join(SPLIT_FOLDERS)} there, or no split folders at all"
        )
    return has_splits
