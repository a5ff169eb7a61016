"""A data set: which files, what is to be learnt of each, which split, and one fingerprint for all of it.

`scan` is the door to every layout: class folders with or without `train/ val/ calibration/ test/` above them (nested
folders keep their path as the label: `animals/domestic/cat`), patterns in file names, and a CSV. Knows nothing of pixels:
whether a file decodes, and what is nearly the same image, is found out when it is decoded, and told by `without` and
`together`.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from models.errors import DatasetError
from models.label_file import by_label_file
from models.layouts import SPLIT_FOLDERS, SUFFIXES, Skipped, by_folder, by_pattern
from models.splits import SPLITS, Draw, Item, Leak, Split, Target, assign, find_leaks
from models.targets import read_targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from models.layouts import Layout
    from models.recipe import Recipe, Task
    from models.targets import Targets

__all__ = [
    "SPLITS",
    "SPLIT_FOLDERS",
    "SUFFIXES",
    "Dataset",
    "Draw",
    "Item",
    "Leak",
    "Skipped",
    "Split",
    "Target",
    "Withheld",
    "scan",
]


@dataclass(frozen=True)
class Withheld:
    """An image that is left out since the model's held-out set has it, or nearly the same one."""

    item: Item
    kind: Literal["exact", "near"]


@dataclass(frozen=True)
class Dataset:
    """Labels in alphabetical order, items in order of path, and what was left out.

    With task `regression` there is one label, the name of the number.

    Attributes:
        root: The folder that every path is below.
        task: What kind of target the items have.
        labels: What indices in targets mean.
        items: The images that are used.
        skipped: Files that are left out, with the reason; leaks too.
        draw: How the splits came about; None where that is not known, and they stay as they are.
        leaks: Images that are left out because a stricter split holds a copy.
        withheld: Images that are left out since the model's held-out set has them.
        notes: What was decided by looking at the data, in sentences for people.
    """

    root: Path
    task: Task
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    draw: Draw | None = None
    leaks: tuple[Leak, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    notes: tuple[str, ...] = ()

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

    def together(self, copies: Mapping[str, str]) -> Dataset:
        """Draw the splits again, with copies of one image in one of them.

        Across splits that the layout gives, only the copy in the strictest is kept.

        Args:
            copies: The digest of an image to the name of its group of copies; equal bytes need not be there.
        """
        if self.draw is None:
            return self
        leaks = tuple(find_leaks(self.items, self.draw, copies))
        words = {"exact": "the same image is in", "near": "nearly the same image is in"}
        kept = self.without(Skipped(leak.item.path, f"{words[leak.kind]} {leak.kept.split}") for leak in leaks)
        items = assign(kept.items, self.task, len(self.labels), self.draw, copies)
        return replace(kept, items=items, leaks=(*self.leaks, *leaks))

    def relabelled(self, labels: tuple[str, ...]) -> Dataset:
        """The same with indices that count in `labels`, among which all of its own are; a regression has none to count."""
        if self.task == "regression":
            return replace(self, labels=labels)
        place = [labels.index(label) for label in self.labels]

        def moved(target: Target) -> Target:
            return tuple(sorted(place[index] for index in target)) if isinstance(target, tuple) else place[int(target)]

        return replace(self, labels=labels, items=tuple(replace(item, target=moved(item.target)) for item in self.items))

    def withhold(self, kinds: Mapping[str, Literal["exact", "near"]]) -> Dataset:
        """The same, less images that are held out from every version, but for those in test, which nothing is learnt from.

        Args:
            kinds: The digest of an image to how it is like a held-out one.
        """
        held = tuple(Withheld(item, kinds[item.digest]) for item in self.items if item.digest in kinds and item.split != "test")
        words = {"exact": "is in the held-out set", "near": "nearly the same image is in the held-out set"}
        return replace(self.without(Skipped(one.item.path, words[one.kind]) for one in held), withheld=held)

    def require_training(self) -> None:
        """Refuse a data set from which something would not be learnt at all.

        Raises:
            DatasetError: If a label has no image to train on, or a regression's training images all have one value.
        """
        trained = [item.target for item in self.of("train")]
        if self.task == "regression":
            if len(set(trained)) < 2:
                raise DatasetError(
                    f"{self.root}: all images to train on have the same number, or there are none; expected numbers that differ"
                )
            return
        if not trained:
            there = ", ".join(sorted({item.split for item in self.items}))
            raise DatasetError(f"{self.root} has no images to train on, only {there}; expected a folder called train")
        known = {label for target in trained for label in _as_tuple(target)}
        for index, label in enumerate(self.labels):
            if index not in known:
                held = sum(index in _as_tuple(item.target) for item in self.items)
                raise DatasetError(
                    f"{self.root}: label {label!r} has no image to train on"
                    + (f"; its {held} are held out" if held else "")
                    + (f" ({len(self.skipped)} files were left out, the first is {self.skipped[0].path})" if self.skipped else "")
                )

    def fingerprint(self) -> str:
        """sha256 over every file's hash, label and split: equal data has an equal fingerprint, wherever it lies."""
        lines = sorted(f"{item.digest} {item.split} {self.spelt(item.target)}" for item in self.items)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def spelt(self, target: Target) -> str:
        """A target in words: the label, all labels with tabs between them, or the number."""
        if isinstance(target, float):
            return repr(target)
        return "\t".join(self.labels[index] for index in ((target,) if isinstance(target, int) else target))


def _as_tuple(target: Target) -> tuple[float, ...]:
    return target if isinstance(target, tuple) else (target,)


def scan(root: Path, recipe: Recipe, *, for_training: bool = True, known_digests: Mapping[Path, str] | None = None) -> Dataset:
    """Find the images below `root`, what is to be learnt of them, and their splits.

    Equal bytes have one split already; near copies are known only after decoding (`Dataset.together`).

    Args:
        root: Class folders, `train/ val/ ...` with class folders in them, a folder of files whose names or whose CSV say
            the label, or that CSV itself. A zip is unpacked first (`archive.unpacked`).
        recipe: Where the labels stand, the task, and the seed by which splits are drawn.
        for_training: Whether something is to be learnt. Data that is only looked at needs no two labels, and all of it counts.
        known_digests: The sha256 of every image, where they were read before; None reads them.

    Raises:
        DatasetError: If there are no images, or not enough to learn a difference from, or the labels contradict themselves.
    """
    layout, targets = look(root, recipe)
    images = sorted(targets.images, key=lambda image: image.path)
    given = frozenset(image.split for image in images if image.split is not None)
    _require_all_given(layout, given, [image.path for image in images if image.split is None])
    paths = [image.path for image in images]
    digests = _digests(paths) if known_digests is None else [known_digests[path] for path in paths]
    items = tuple(
        Item(image.path, image.target, image.split or "train", digest) for image, digest in zip(images, digests, strict=True)
    )
    found = Dataset(
        layout.root,
        targets.task,
        targets.labels,
        items,
        (*layout.skipped, *targets.skipped),
        Draw(recipe.seed, given),
        notes=(*layout.notes, *targets.notes),
    )
    if not for_training:
        return found
    targets.require_difference(layout)
    dataset = found.together({})
    dataset.require_training()
    return dataset


def look(root: Path, recipe: Recipe) -> tuple[Layout, Targets]:
    """What is to be learnt of which files, by their names and tables alone: no image is opened.

    Raises:
        DatasetError: If there are no images, or the labels contradict themselves.
    """
    layout = _layout(root, recipe)
    return layout, read_targets(layout, recipe)


def _layout(root: Path, recipe: Recipe) -> Layout:
    if root.is_file() and root.suffix.lower() in {".csv", ".tsv"}:
        if recipe.label_pattern is not None or recipe.label_file not in {None, root.name}:
            raise DatasetError(f"{root} is itself the label_file; expected neither label_pattern nor another label_file")
        return by_label_file(root.parent, root, recipe)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}; expected a folder with one folder of images for each label")
    if recipe.label_file is not None:
        return by_label_file(root, root / recipe.label_file, recipe)
    return by_folder(root) if recipe.label_pattern is None else by_pattern(root, recipe.label_pattern)


def _require_all_given(layout: Layout, given: frozenset[Split], without: Sequence[Path]) -> None:
    if given and without:
        raise DatasetError(f"{layout.root}: {without[0].name!r} has no split, and others have one; expected all or none")


def _digests(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
