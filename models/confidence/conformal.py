"""Prediction sets that hold the true label as often as they say (conformal prediction, Vovk et al. 2005; Sadinle et al. 2019).

An image's score for a label is 1 - p(label). A label is in the set unless its score is larger than that of nearly all
calibration images of that label; so each label is covered, and not only the average over all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PredictionSet:
    """Labels (as indices, the most probable first) among which the true one is with probability `level`.

    `pooled` are those of them that were judged by the scores of all labels, since their own images are too few.
    """

    level: float
    labels: tuple[int, ...]
    pooled: tuple[int, ...]


@dataclass(frozen=True)
class Conformal:
    """Calibration images' scores, 1 - p(true label), rising: of each label, and of all."""

    of_label: tuple[FloatArray, ...]
    of_all: FloatArray

    @classmethod
    def fit(cls, probabilities: FloatArray, labels: npt.NDArray[np.integer]) -> Conformal:
        """Take the scores of the calibration split.

        Args:
            probabilities: Calibrated, `[N, K]`; of images that the model was neither trained nor chosen on.
            labels: `[N]`.
        """
        scores = 1.0 - probabilities[np.arange(len(labels)), labels]
        of_label = tuple(np.sort(scores[labels == label]) for label in range(probabilities.shape[1]))
        return cls(of_label, np.sort(scores))

    def p_value(self, row: FloatArray, label: int) -> float | None:
        """How unusual the image would be as one of a label, in 0..1: the share of its images with no smaller score.

        None for a label without images.

        Args:
            row: Calibrated probabilities of one image, `[K]`.
            label: Index.
        """
        known = self.of_label[label]
        return p_value(known, 1.0 - float(row[label])) if len(known) else None

    def prediction_set(self, row: FloatArray, level: float) -> PredictionSet:
        """The labels that cannot be ruled out; the most probable one is always among them, which only adds coverage.

        Args:
            row: Calibrated probabilities of one image, `[K]`.
            level: How often the true label is to be in such a set, in (0, 1).
        """
        order = [int(label) for label in np.argsort(-row, kind="stable")]
        pooled = {label for label in order if is_too_few(len(self.of_label[label]), level)}
        kept = [
            label
            for place, label in enumerate(order)
            if place == 0 or is_within(self.of_all if label in pooled else self.of_label[label], 1.0 - float(row[label]), level)
        ]
        return PredictionSet(level, tuple(kept), tuple(label for label in kept if label in pooled))


def p_value(known: FloatArray, score: float) -> float:
    """The share of `known` and the new one itself that is no smaller than it: (1 + #{s >= score}) / (n + 1).

    Args:
        known: Rising, `[n]`.
        score: Of the new image.
    """
    return float((1 + len(known) - np.searchsorted(known, score, side="left")) / (len(known) + 1))


def bound(known: FloatArray, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of `known`, up to which a score is like them; infinite with too few of them.

    Args:
        known: Rising, `[n]`.
        level: In (0, 1).
    """
    rank = round_up((len(known) + 1) * level)
    return float("inf") if rank > len(known) else float(known[rank - 1])


def is_within(known: FloatArray, score: float, level: float) -> bool:
    """Whether `score` is up to their `bound`."""
    return score <= bound(known, level)


def is_too_few(count: int, level: float) -> bool:
    """Whether so many scores leave no bound at all: fewer than `fewest`."""
    return round_up((count + 1) * level) > count


def fewest(level: float) -> int:
    """How many scores it takes for a bound."""
    return round_up(level / (1 - level))


def round_up(number: float) -> int:
    """Round up, to at least 1; 0.9 is no exact float, so what is a hair over a whole number is that number."""
    return max(1, math.ceil(number - 1e-9))


def coverage(sets: Sequence[PredictionSet], labels: npt.NDArray[np.integer]) -> float:
    """The share of images whose label is in their set; both `[N]`, N at least 1."""
    return sum(int(label) in found.labels for found, label in zip(sets, labels, strict=True)) / len(sets)
