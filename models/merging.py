"""Several data sets as one: the union of their labels, one task, one draw of the splits.

Owns what becomes of splits that only some of them have, and which of them the recipe's keys about labels are for. How one of
them is read is `dataset`'s business.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from models.dataset import Dataset, Draw, look, scan
from models.errors import DatasetError
from models.layouts import walk
from models.targets import require_spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.recipe import Recipe
    from models.splits import Item

_TABLE_KEYS = ("image_column", "label_column", "label_separator")
_NO_KEYS = dict.fromkeys(("label_file", "image_column", "label_column", "label_pattern"))


def scan_all(roots: Sequence[Path], recipe: Recipe) -> Dataset:
    """Find the images of one data set or of several, what is to be learnt of them, and their splits.

    Where one has splits of its own, images of those that have none are trained on; where none has, all are drawn together.

    Args:
        roots: What `models.dataset.scan` understands, each.
        recipe: Where the labels stand, the task, and the seed. Of several, those that have no such `label_file`, or no name
            that matches `label_pattern`, are read as folders.

    Raises:
        DatasetError: If one of them cannot be read, if their tasks differ, or if nothing could be learnt from all of them.
    """
    if len(roots) == 1:
        return scan(roots[0], recipe)
    absolute = dict.fromkeys(root.absolute() for root in roots)
    found = [scan(root, _for(root, recipe), for_training=False) for root in absolute]
    merged = _merge(found, recipe.seed)
    _require_difference(merged)
    dataset = merged.together({})
    dataset.require_training()
    return dataset


def check(roots: Sequence[Path], recipe: Recipe) -> None:
    """Refuse what `scan_all` would refuse by names and tables alone; no image is opened, so it takes no time to speak of.

    Raises:
        DatasetError: As `scan_all`.
    """
    if len(roots) == 1:
        layout, targets = look(roots[0], recipe)
        targets.require_difference(layout)
        return
    found = [look(root, _for(root, recipe))[1] for root in dict.fromkeys(roots)]
    if len(tasks := {targets.task for targets in found}) > 1:
        raise DatasetError(f"the data sets are {' and '.join(sorted(tasks))} data; pass task= to say which it is")
    labels = {label for targets in found for label in targets.labels}
    if found[0].task == "single_label" and len(labels) < 2:
        raise DatasetError(f"the data sets have together only {sorted(labels)}; expected two labels")


def _for(root: Path, recipe: Recipe) -> Recipe:
    """The recipe as it holds for one of several data sets."""
    if root.is_dir():
        has_file = recipe.label_file is not None and (root / recipe.label_file).is_file()
        pattern = recipe.label_pattern
        has_pattern = pattern is not None and any(re.search(pattern, path.name) for path in walk(root)[0])
        return recipe if has_file or has_pattern else recipe.model_copy(update=_NO_KEYS)
    # What says how another table is written says nothing of this one.
    keys = {} if recipe.label_file in {None, root.name} else dict.fromkeys(_TABLE_KEYS)
    return recipe.model_copy(update={**keys, "label_file": root.name, "label_pattern": None})


def _merge(found: Sequence[Dataset], seed: int) -> Dataset:
    first = found[0]
    for other in found[1:]:
        if other.task != first.task:
            raise DatasetError(
                f"{first.root} is {first.task} data, and {other.root} is {other.task}; pass task= to say which it is"
            )
    labels = first.labels
    if first.task != "regression":
        labels = tuple(sorted({label for dataset in found for label in dataset.labels}))
    given = frozenset(split for dataset in found if dataset.draw for split in dataset.draw.given)
    items: dict[Path, Item] = {}
    for dataset in found:
        for item in dataset.relabelled(labels).items:
            before = items.setdefault(item.path, item)
            if before.target != item.target:
                raise DatasetError(f"{item.path} is in two of the data sets, with different labels; expected one label an image")
    notes = [note for dataset in found for note in dataset.notes]
    without = [dataset.root.name for dataset in found if dataset.draw and not dataset.draw.given]
    if given and without:
        notes.append(f"{', '.join(without)}: no splits of its own, beside data that has some; all of it is for training")
    return Dataset(
        root=_common(found),
        task=first.task,
        labels=labels,
        items=tuple(sorted(items.values(), key=lambda item: item.path)),
        skipped=tuple(entry for dataset in found for entry in dataset.skipped),
        draw=Draw(seed, given | {"train"} if given else given),
        notes=tuple(notes),
    )


def _common(found: Sequence[Dataset]) -> Path:
    return Path(os.path.commonpath([dataset.root for dataset in found]))


def _require_difference(merged: Dataset) -> None:
    if merged.task == "regression":
        require_spread(merged.root, [float(item.target) for item in merged.items])  # type: ignore[arg-type]
    elif len(merged.labels) < (1 if merged.task == "multi_label" else 2):
        raise DatasetError(f"the data sets below {merged.root} have together only {list(merged.labels)}; expected two labels")
