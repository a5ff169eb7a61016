"""What is to be learnt: from what a layout says of each image to labels and targets of one task.

Decides the task where the recipe leaves it open, and says so. Owns the separators between several labels, what counts as
a number, and what becomes of a file that is named twice.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import DatasetError
from models.layouts import Row, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from models.layouts import Layout
    from models.recipe import Recipe, Task
    from models.splits import Split, Target

# Whole numbers with more values than this are taken for numbers; with fewer, for names of labels.
MOST_NUMBERED_LABELS = 20
# Tried in turn where task=multi_label is asked for; a space comes last, since labels may have some.
SEPARATORS = ("|", ";", ",", " ")
# Of a regression's numbers, as a share of the largest: a float32 has seven digits, and three of them are for the answer.
_LEAST_SPREAD = 1e-4
_MOST_NUMBER = 1e30
# How a cell says that there is nothing in it.
_MISSING = frozenset({"", "nan", "na", "null", "none"})
# As people write numbers. 007 is a name.
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Labelled:
    """An image with its target, and the split that the layout gives it."""

    path: Path
    target: Target
    split: Split | None


@dataclass(frozen=True)
class Targets:
    """One task's labels (in alphabetical order; a regression's is the name of its number) and images."""

    task: Task
    labels: tuple[str, ...]
    images: tuple[Labelled, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]

    def require_difference(self, layout: Layout) -> None:
        """Refuse what nothing can be learnt from.

        Raises:
            DatasetError: If there are not two labels, or the numbers do not differ, or by too little to be told apart.
        """
        if self.task == "regression":
            require_spread(layout.root, [float(image.target) for image in self.images])  # type: ignore[arg-type]
            return
        least = 1 if self.task == "multi_label" else 2
        if len(self.labels) >= least:
            return
        if layout.column is None and self.task == "single_label":
            names = f"one label ({self.labels[0]!r})" if self.labels else "no label folders"
            hint = "" if self.labels else "; label_pattern takes labels from file names, label_file from a CSV"
            raise DatasetError(f"{layout.root} has {names}; expected at least two folders of images, one for each label{hint}")
        names = f"only the label {self.labels[0]!r}" if self.labels else "no labels"
        raise DatasetError(f"{layout.root} has {names}; expected at least {least}")


def require_spread(root: Path, values: list[float]) -> None:
    """Refuse numbers that nothing can be learnt from.

    Raises:
        DatasetError: If they do not differ, or by too little to be told apart.
    """
    if len(set(values)) < 2:
        found = f"only the value {values[0]}" if values else "no values"
        raise DatasetError(f"{root} has {found} to learn; expected numbers that differ")
    low, high = min(values), max(values)
    if high - low < _LEAST_SPREAD * max(abs(low), abs(high)):
        raise DatasetError(
            f"{root} has numbers from {low} to {high}, which differ too little for their size to be answered in fp32; "
            "subtract a constant from all of them"
        )


def read_targets(layout: Layout, recipe: Recipe) -> Targets:
    """Turn words into targets of the recipe's task, or of the one that they suggest.

    Raises:
        DatasetError: If a file is named twice with different labels, a number is none, or a label cannot be read on a line.
    """
    task, notes = _task(layout, recipe)
    rows = layout.rows
    skipped: list[Skipped] = []
    if task != "multi_label":
        skipped = [Skipped(row.path, f"{row.where} has no label") for row in rows if not _is_labelled(row, task)]
        rows = tuple(row for row in rows if _is_labelled(row, task))
    elif not layout.columns:
        separator, more = _separator(layout, recipe)
        notes += more
        rows = tuple(Row(row.path, _parted(row.labels[0], separator), row.split, row.where) for row in rows)
    merged = _merged(rows, task)
    if task == "regression":
        labels: tuple[str, ...] = (layout.column or "value",)
        images = tuple(Labelled(row.path, float(row.labels[0]), row.split) for row in merged)
    else:
        labels = layout.columns or tuple({label for row in merged for label in row.labels})
        labels = tuple(sorted(labels))
        _require_readable(layout, labels)
        index = {label: position for position, label in enumerate(labels)}
        held = [tuple(sorted({index[label] for label in row.labels})) for row in merged]
        images = tuple(
            Labelled(row.path, some if task == "multi_label" else some[0], row.split)
            for row, some in zip(merged, held, strict=True)
        )
    gone = {row.path for row in merged}
    return Targets(task, labels, images, tuple(entry for entry in skipped if entry.path not in gone), notes)


def _require_readable(layout: Layout, labels: tuple[str, ...]) -> None:
    for label in labels:
        if any(unicodedata.category(character) == "Cc" for character in label):
            raise DatasetError(f"{layout.root}: the label {label!r} has a line break or another control character; rename it")


def _task(layout: Layout, recipe: Recipe) -> tuple[Task, tuple[str, ...]]:
    """The task, and a sentence where it was found by looking at the labels."""
    if recipe.task is not None:
        return recipe.task, ()
    if recipe.label_separator is not None:
        return "multi_label", ()
    # Folders and names that are numbers are names of labels more often than not.
    rows = {row.labels[0]: row for row in layout.rows if row.labels[0].lower() not in _MISSING} if layout.column else {}
    odd = [row for value, row in rows.items() if not _is_number(value)]
    values = rows.keys()
    if odd and len(odd) * 20 < len(values):
        raise DatasetError(
            f"{layout.column!r} holds numbers, but {odd[0].where} has {odd[0].labels[0]!r}; mend it, or pass task=single_label"
        )
    if odd or not values:
        return "single_label", ()
    whole = all(float(value).is_integer() for value in values)
    what = f"{layout.column!r} holds {len(values)} different {'whole ' if whole else ''}numbers"
    if whole and len(values) <= MOST_NUMBERED_LABELS:
        return "single_label", (f"{what}, taken for labels; task=regression takes them for numbers",)
    return "regression", (f"{what}: the task is regression; task=single_label takes them for labels",)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) < _MOST_NUMBER


def _is_labelled(row: Row, task: Task) -> bool:
    """Whether there is anything to learn.

    Raises:
        DatasetError: If a regression's value is no number.
    """
    text = row.labels[0]
    if text == "" or (task == "regression" and text.lower() in _MISSING):
        return False
    if task == "regression":
        try:
            finite = abs(float(text)) < _MOST_NUMBER
        except ValueError:
            finite = False
        if not finite:
            raise DatasetError(
                f"{row.where} has {text!r}; with task=regression a number is expected, below {_MOST_NUMBER:g} in size"
            )
    return True


def _separator(layout: Layout, recipe: Recipe) -> tuple[str | None, tuple[str, ...]]:
    """What stands between the labels of one image; a folder's name and a file's are not searched for it."""
    if recipe.label_separator is not None or layout.column is None:
        return recipe.label_separator, ()
    texts = {row.labels[0] for row in layout.rows}
    found = next((one for one in SEPARATORS if any(one in text for text in texts)), None)
    said = f"labels stand apart by {found!r}" if found else "no image has several labels"
    return found, (f"in {layout.column!r} {said}; label_separator says otherwise",)


def _parted(text: str, separator: str | None) -> tuple[str, ...]:
    parts = [text] if separator is None else text.split(separator)
    return tuple(part.strip() for part in parts if part.strip())


def _merged(rows: Iterable[Row], task: Task) -> list[Row]:
    """One row a file. Several labels are united; one label, or number, must be the same in each row.

    Raises:
        DatasetError: If a file is named twice and the rows contradict each other.
    """
    merged: dict[Path, Row] = {}
    for row in rows:
        first = merged.setdefault(row.path, row)
        if row.split != first.split:
            raise DatasetError(f"{first.where} and {row.where} name {row.path.name!r} in {first.split} and {row.split}")
        if task == "multi_label":
            merged[row.path] = Row(row.path, (*first.labels, *row.labels), row.split, first.where)
        elif row.labels != first.labels:
            raise DatasetError(
                f"{first.where} and {row.where} call {row.path.name!r} {first.labels[0]!r} and {row.labels[0]!r}; expected one "
                "row an image" + (" (task=multi_label unites them)" if task == "single_label" else "")
            )
    return list(merged.values())
