"""What is interpreted: the chosen model's answers on every split, and the names that images go by.

Shared by the interpretation of each task. Knows nothing of what the answers mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.review import ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.dataset import Item, Split
    from models.recipe import Task
    from training.data import Images

# In the order in which they are trusted: nothing was fitted on test.
_TRUSTED: tuple[Split, ...] = ("test", "validation", "calibration")
HELD_OUT: tuple[Split, ...] = ("validation", "calibration", "test")
# 64 bits: enough for any folder; more are taken where two images still agree.
_ID_DIGITS = 16
LIST_LENGTH = 12
MOST_LISTED = 36_000


@dataclass(frozen=True)
class Outputs:
    """The chosen model on one split.

    Attributes:
        images: What it was shown.
        logits: float32 `[N, K]`, raw; with regression `[N, 1]`, in the number's unit.
        embeddings: float32 `[N, D]` of the network before it was fine-tuned; None where there are none.
    """

    images: Images
    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Strange:
    """How often an image like the data is as strange, in (0, 1]: of held-out images by id, the strangest first.

    `p_familiar` is None where that is not known, and `reason` says why.
    """

    p_familiar: Mapping[str, float] | None
    reason: str | None = None


NOT_ASKED = Strange(None, "it was not asked which images are strange")


@dataclass(frozen=True)
class Subject:
    """A trained model, its answers, and what was found in its data.

    Attributes:
        task: What the answers are.
        labels: In the order of the logits.
        outputs: By split.
        temperature: Divisor of the logits.
        root: The data set's folder, which paths are given from.
        findings: What the scan of the data found, a sentence each.
        thresholds: With multi_label, the probability from which on each label is selected; else None.
        unit: With regression, what the number counts, if that was said; else None.
        strange: With one label an image: which images are unlike the data.
    """

    task: Task
    labels: tuple[str, ...]
    outputs: Mapping[Split, Outputs]
    temperature: float
    root: Path
    findings: tuple[str, ...] = ()
    thresholds: Mapping[str, float] | None = None
    unit: str | None = None
    strange: Strange = NOT_ASKED

    def held_out(self) -> tuple[Split, ...]:
        """The splits that the model was not trained on."""
        return tuple(split for split in HELD_OUT if split in self.outputs)

    def judged_on(self) -> Split | None:
        """The split that tables and plots are of: test, or the next best; None where nothing was held out."""
        return next((split for split in _TRUSTED if split in self.outputs), None)

    def unavailable(self) -> dict[str, str]:
        """Why tables or lists are empty, where they are."""
        if not self.held_out():
            return {"held_out": "no image was held out from training, so nothing can be said of images that are new to it"}
        judged_on = self.judged_on()
        if judged_on == "test":
            return {}
        return {"test": f"the data has no test split; tables and plots are of {judged_on}, which helped to make the model"}

    def path_of(self, item: Item) -> str:
        """An image's path within the data set."""
        return item.path.relative_to(self.root).as_posix()


def name_images(outputs: Mapping[Split, Outputs]) -> dict[Split, list[str | None]]:
    """An id for every image of every split, `sha256:` and the first digits of its file's hash; each stands once.

    A copy of another image with the same label has none, so that no list shows one picture twice; of such copies the held
    out one keeps its name. A copy with another label has one of its own, since the two contradict each other: `-2` is added.
    """
    digits = _digits({item.digest for out in outputs.values() for item in out.images.items})
    said: dict[str, list[object]] = {}

    def name(item: Item) -> str | None:
        targets = said.setdefault(item.digest, [])
        if item.target in targets:
            return None
        targets.append(item.target)
        return f"{ID_PREFIX}{item.digest[:digits]}" + (f"-{len(targets)}" if len(targets) > 1 else "")

    order = [*HELD_OUT, *(split for split in outputs if split not in HELD_OUT)]
    return {split: [name(item) for item in outputs[split].images.items] for split in order if split in outputs}


def _digits(digests: set[str]) -> int:
    """As many as it takes to tell all files apart."""
    digits = _ID_DIGITS
    while len({digest[:digits] for digest in digests}) < len(digests):
        digits += 1
    return digits


def list_length(labels: int, lists_a_label: int) -> int:
    """How many images a list holds: 12; less with very many labels, so that no more than 36,000 entries are listed."""
    return max(1, min(LIST_LENGTH, MOST_LISTED // (lists_a_label * labels)))


def of_each_group(groups: npt.NDArray[np.integer], rank: npt.NDArray[np.floating], count: int) -> list[npt.NDArray[np.intp]]:
    """The rows of each of `count` groups, ascending by `rank`; ties in the order of the rows.

    Args:
        groups: `[N]`, the group of each row, in 0..count - 1.
        rank: `[N]`.
        count: How many groups there are.
    """
    order = np.lexsort((rank, groups))
    return np.split(order, np.searchsorted(groups[order], np.arange(1, count)))


def rounded(value: float) -> float:
    """Six digits that count: what is kept of a number that a file lists by the thousand."""
    return float(f"{value:.6g}")
