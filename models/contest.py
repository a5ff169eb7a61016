"""Two versions, or one and knowing nothing, on the same held-out images: what can be compared of them, side by side.

A side has its answers, the truth in its own terms, and a loss for each image. Where nothing is in production the other side
is what knows no image: the shares of the labels, or the middle of the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.metrics import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.confidence.schema import Interval, Temperature
    from models.recipe import Task

# What an image shows, in words: its label, all of its labels, or its number.
Spelt = str | tuple[str, ...] | float
_TINY = 1e-12

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One version, as it was measured.

    Attributes:
        version: Its number.
        task: What it answers.
        labels: In the order of its outputs.
        unit: Of a regression's number, or None.
        outputs: Its calibrated answers to the held-out images, `[N, K]`; None where it gives none.
        temperature: What is known of its calibration.
        thresholds: With multi_label, from which probability on each label is selected.
        interval: With regression, how far from the answer the truth lies.
        golden: Why it does not reproduce its golden outputs; None where it does.
        parity: Why nothing proves that its graph computes what was trained; None where that is proven.
        p95_ms: The 95th percentile of the time that one image takes, in ms; None where that was not measured.
    """

    version: int
    task: Task
    labels: tuple[str, ...]
    unit: str | None
    outputs: FloatArray | None
    temperature: Temperature
    thresholds: Mapping[str, float] | None
    interval: Interval | None
    golden: str | None
    parity: str | None
    p95_ms: float | None


@dataclass(frozen=True)
class Side:
    """One side of a contest.

    Attributes:
        outputs: `[N, K]`; with multi_label K are the shared labels, else all of its own.
        targets: As `metrics.score_task` takes them, in this side's labels.
        thresholds: With multi_label, `[K]`; else None.
    """

    outputs: FloatArray
    targets: npt.NDArray[Any]
    thresholds: FloatArray | None

    def hits(self) -> npt.NDArray[np.bool_]:
        """Whether each image's most probable label is right, `[N]`; with one label an image."""
        return np.asarray(self.outputs.argmax(axis=1) == self.targets)

    def selected(self) -> npt.NDArray[np.bool_]:
        """Which labels are selected, `[N, K]`; with several labels an image."""
        return np.asarray(self.outputs >= (DEFAULT_THRESHOLD if self.thresholds is None else self.thresholds))

    def losses(self, task: Task) -> FloatArray:
        """The loss of each image, `[N]`: -ln p of what is so, or how far the number is off."""
        if task == "regression":
            return np.asarray(np.abs(self.outputs - self.targets)[:, 0])
        if task == "single_label":
            true = self.outputs[np.arange(len(self.targets)), self.targets]
            return np.asarray(-np.log(np.maximum(true, _TINY)))
        true = np.where(self.targets > 0, self.outputs, 1 - self.outputs)
        return np.asarray(-np.log(np.maximum(true, _TINY)).mean(axis=1))


@dataclass(frozen=True)
class Contest:
    """The two sides on the images that both can know, and the labels that they share."""

    task: Task
    shared: tuple[str, ...]
    candidate: Side
    other: Side
    measured: Measured
    production: Measured | None

    @property
    def images(self) -> int:
        """How many images are compared."""
        return len(self.candidate.targets)

    @property
    def opponent(self) -> str:
        """What the candidate is compared with, in words."""
        if self.production is not None:
            return f"of version {self.production.version}"
        return "of always saying the median" if self.task == "regression" else "of knowing only how frequent each label is"

    def positives(self) -> npt.NDArray[np.bool_]:
        """Which images have which shared label, `[N, shared]`; with labels."""
        if self.task == "multi_label":
            return np.asarray(self.candidate.targets > 0)
        place = np.array([self.measured.labels.index(label) for label in self.shared])
        return np.asarray(self.candidate.targets[:, None] == place)


def make_contest(candidate: Measured, production: Measured | None, truth: Sequence[Spelt]) -> Contest | None:
    """Put two versions side by side, on the images whose labels both know; None where there is no such image.

    Raises:
        ValueError: If one of them has no outputs.
    """
    known = set(candidate.labels) if production is None else set(candidate.labels) & set(production.labels)
    shared = tuple(label for label in candidate.labels if label in known)
    rows = [row for row, target in enumerate(truth) if _is_known(target, known)]
    if not rows:
        return None
    targets = [truth[row] for row in rows]
    ours = _side(candidate, targets, rows, shared)
    theirs = _unknowing(ours, candidate.task) if production is None else _side(production, targets, rows, shared)
    return Contest(candidate.task, shared, ours, theirs, candidate, production)


def _is_known(target: Spelt, known: set[str]) -> bool:
    if isinstance(target, tuple):
        return set(target) <= known
    return isinstance(target, float) or target in known


def _side(measured: Measured, targets: Sequence[Spelt], rows: Sequence[int], shared: tuple[str, ...]) -> Side:
    if measured.outputs is None:
        raise ValueError(f"version {measured.version} has no outputs to compare")
    outputs = np.asarray(measured.outputs, dtype=np.float64)[np.array(rows)]
    if measured.task == "regression":
        return Side(outputs, np.array([[float(target)] for target in targets]), None)  # type: ignore[arg-type]
    if measured.task == "single_label":
        place = {label: index for index, label in enumerate(measured.labels)}
        return Side(outputs, np.array([place[str(target)] for target in targets]), None)
    columns = [measured.labels.index(label) for label in shared]
    held = np.array([[float(label in target) for label in shared] for target in targets])  # type: ignore[operator]
    given = measured.thresholds
    row = None if given is None else np.array([given[label] for label in shared])
    return Side(outputs[:, columns], held, row)


def _unknowing(side: Side, task: Task) -> Side:
    """What answers the same to every image, as well as that can be done."""
    if task == "regression":
        return Side(np.full_like(side.outputs, np.median(side.targets)), side.targets, None)
    if task == "multi_label":
        return Side(np.tile(side.targets.mean(axis=0), (len(side.targets), 1)), side.targets, None)
    shares = np.bincount(side.targets, minlength=side.outputs.shape[1]) / len(side.targets)
    return Side(np.tile(shares, (len(side.targets), 1)), side.targets, None)
