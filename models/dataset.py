"""Folders of images: which files, which label, which split, and one fingerprint for all of it.

Understands class folders, with or without `train/ val/ calibration/ test/` above them. Nested folders keep their path
as the label (`animals/domestic/cat`). Knows nothing of pixels: whether a file decodes is found out when it is decoded.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from models.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from models.recipe import Task

Split = Literal["train", "validation", "calibration", "test"]
# The index of the one label; the indices of all that hold, ascending; or the number.
Target = int | tuple[int, ...] | float
SPLITS: tuple[Split, ...] = ("train", "validation", "calibration", "test")
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "calibration": "calibration",
    "cal": "calibration",
    "test": "test",
}
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif"})
# Shares of one folder that is split for you; what is left is for training.
HELD_OUT: dict[Split, float] = {"test": 0.15, "calibration": 0.15, "validation": 0.10}
# Below this many images of a label there is no calibration split: validation serves, and says so ("partial").
MIN_FOR_CALIBRATION = 20
# A validation folder with this many images a label gives half of them to calibration.
MIN_TO_HALVE_VALIDATION = 40
VALIDATION_FROM_TRAIN = 0.15


@dataclass(frozen=True)
class Item:
    """One image file: its path, what is to be learnt of it, its split, and the sha256 of its bytes."""

    path: Path
    target: Target
    split: Split
    digest: str


class _Entry(NamedTuple):
    path: Path
    label: int
    split: Split | None
    digest: str


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Labels in alphabetical order, items in order of path, and what was left out.

    With task `regression` there is one label, the name of the number.
    """

    root: Path
    task: Task
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = field(default=())

    def of(self, split: Split) -> list[Item]:
        """The items of one split."""
        return [item for item in self.items if item.split == split]

    def without(self, skipped: Iterable[Skipped]) -> Dataset:
        """The same, less some files; a label that loses its last image stays, with none."""
        gone = {entry.path: entry for entry in skipped}
        return replace(
            self,
            items=tuple(item for item in self.items if item.path not in gone),
            skipped=(*self.skipped, *gone.values()),
        )

    def fingerprint(self) -> str:
        """sha256 over every file's hash, label and split: equal data has an equal fingerprint, wherever it lies."""
        lines = sorted(f"{item.digest} {item.split} {self._spelt(item.target)}" for item in self.items)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _spelt(self, target: Target) -> str:
        if isinstance(target, float):
            return repr(target)
        return "\t".join(self.labels[index] for index in ((target,) if isinstance(target, int) else target))


def scan(root: Path, seed: int) -> Dataset:
    """Find the images below `root`, their labels and their splits.

    Args:
        root: Class folders, or `train/ val/ ...` with class folders in them.
        seed: Decides which image goes to which split, where that is left to us.

    Raises:
        DatasetError: If the folder is missing, holds no images, or has fewer than two labels.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}; expected a folder with one folder of images for each label")
    files, skipped = _walk(root)
    if not files:
        raise DatasetError(f"{root} holds no images; expected a folder of {', '.join(sorted(SUFFIXES))} files for each label")
    found, more = _labelled(root, files)
    skipped += more
    labels = tuple(sorted({label for _, label, _ in found}))
    if len(labels) < 2:
        names = f"one label ({labels[0]!r})" if labels else "no label folders"
        raise DatasetError(f"{root} has {names}; expected at least two folders of images, one for each label")
    index = {label: i for i, label in enumerate(labels)}
    entries = [_Entry(path, index[label], split, _digest(path)) for path, label, split in found]
    items = tuple(sorted(_assign(entries, len(labels), seed), key=lambda item: item.path))
    dataset = Dataset(root, "single_label", labels, items, tuple(skipped)).without(_leaks(items))
    _require_training(dataset.items, labels, root)
    return dataset


def _walk(root: Path) -> tuple[list[Path], list[Skipped]]:
    """Every image file below `root`. A link to a folder is followed once: a loop is left out, and said."""
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
            if not _is_text(str(path)):
                skipped.append(Skipped(path, "its name is not UTF-8"))
            elif path.suffix.lower() not in SUFFIXES:
                skipped.append(Skipped(path, f"{path.suffix or 'no suffix'} is not an image's"))
            elif not os.access(path, os.R_OK):
                skipped.append(Skipped(path, "cannot be read (permissions, or a broken link)"))
            else:
                files.append(path)
    return files, skipped


def _labelled(root: Path, files: Sequence[Path]) -> tuple[list[tuple[Path, str, Split | None]], list[Skipped]]:
    """Label each file by its folder's path; below `train` and its like (in any case) that path begins there.

    Raises:
        DatasetError: If `train` stands beside a folder that is no split: its images would be a label, or be lost.
    """
    tops = {path.relative_to(root).parts[0] for path in files if len(path.relative_to(root).parts) > 2}
    has_splits = "train" in {top.lower() for top in tops}
    others = sorted(top for top in tops if top.lower() not in SPLIT_FOLDERS)
    if has_splits and others:
        raise DatasetError(
            f"{root} has {others[0]!r} beside train; expected only {', '.join(SPLIT_FOLDERS)} there, or no split folders at all"
        )
    found: list[tuple[Path, str, Split | None]] = []
    skipped: list[Skipped] = []
    for path in files:
        folders = path.relative_to(root).parts[:-1]
        split = SPLIT_FOLDERS.get(folders[0].lower()) if has_splits and folders else None
        inner = folders[1:] if split else folders
        if inner and (split or not has_splits):
            found.append((path, "/".join(inner), split))
        else:
            skipped.append(Skipped(path, "lies outside the label folders"))
    return found, skipped


def _assign(entries: Sequence[_Entry], labels: int, seed: int) -> Iterator[Item]:
    """Give every file a split. Files with equal bytes get one, where it is ours to give."""
    drawn = _draw(entries, labels, seed)
    for path, label, given, digest in entries:
        yield Item(path, label, drawn.get((given, digest)) or given or "train", digest)


def _draw(entries: Sequence[_Entry], labels: int, seed: int) -> dict[tuple[Split | None, str], Split]:
    """Where the splits are not given: what (given split, hash) becomes. Test images are never moved."""
    given = {entry.split for entry in entries} - {None}
    if not given:
        return {(None, digest): split for digest, split in _divide(entries, HELD_OUT, seed).items()}
    drawn: dict[tuple[Split | None, str], Split] = {}
    source: Split = "validation" if "validation" in given else "train"
    pool = [entry for entry in entries if entry.split == source]
    if source == "train":
        taken = _divide(pool, {"validation": VALIDATION_FROM_TRAIN}, seed)
        drawn = {("train", digest): split for digest, split in taken.items()}
        pool = [entry for entry in pool if entry.digest in taken]
    if "calibration" not in given and _smallest_label(pool, labels) >= MIN_TO_HALVE_VALIDATION:
        halved = _divide(pool, {"calibration": 0.5}, seed)
        drawn |= {(source, digest): split for digest, split in halved.items()}
    return drawn


def _leaks(items: Iterable[Item]) -> Iterator[Skipped]:
    """Copies, byte for byte, of an image that another split holds out: it must not have been trained or chosen on."""
    order = {split: rank for rank, split in enumerate(SPLITS)}
    strictest: dict[str, Split] = {}
    items = list(items)
    for item in items:
        strictest[item.digest] = max(strictest.get(item.digest, item.split), item.split, key=order.__getitem__)
    for item in items:
        if strictest[item.digest] != item.split:
            yield Skipped(item.path, f"the same image is in {strictest[item.digest]}")


def _divide(entries: Sequence[_Entry], shares: dict[Split, float], seed: int) -> dict[str, Split]:
    """Draw held-out splits label by label, by hash; what is not drawn is not in the answer."""
    groups: dict[int, set[str]] = defaultdict(set)
    for entry in entries:
        groups[entry.label].add(entry.digest)
    chosen: dict[str, Split] = {}
    for label in sorted(groups):
        names = sorted(groups[label] - chosen.keys())
        random.Random(f"{seed}:{label}").shuffle(names)  # noqa: S311 - a draw that repeats, not a secret
        for split, count in _counts(len(names), shares).items():
            chosen.update(dict.fromkeys(names[:count], split))
            del names[:count]
    return chosen


def _counts(total: int, shares: dict[Split, float]) -> dict[Split, int]:
    """How many of a label's images each held-out split gets; of two images one is for validation."""
    counts = {split: round(total * share) for split, share in shares.items()}
    if shares is HELD_OUT and total < MIN_FOR_CALIBRATION:
        counts["calibration"] = 0
    if "validation" in counts and total >= 2:
        counts["validation"] = max(counts["validation"], 1)
    return counts


def _smallest_label(entries: Sequence[_Entry], labels: int) -> int:
    counts = Counter(entry.label for entry in entries)
    return min(counts[label] for label in range(labels))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_training(items: Sequence[Item], labels: Sequence[str], root: Path) -> None:
    trained = {item.target for item in items if item.split == "train"}
    for index, label in enumerate(labels):
        if index not in trained:
            raise DatasetError(f"{root}: label {label!r} has no image to train on; every label needs at least two images")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
