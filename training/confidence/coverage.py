"""Whether what is promised of new images held on the test split, and what chance makes of so few images.

Coverage is counted of the rule itself, before the most probable label is put into every set: that adds coverage wherever the
model is right more often than was asked for, and no interval could be given for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.conformal import bound, is_too_few
from models.intervals import beta_binomial, between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.confidence.conformal import Conformal, FloatArray

LEVELS = (0.8, 0.9, 0.95)
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Held:
    """A promise to images of one kind: how many there were, how many it held for, and how probable each number was.

    Attributes:
        kind: What they have in common.
        count: It held for so many.
        of: How many test images.
        fewest: It surely held for so many; the others were exactly at the bound, where equal scores are within by courtesy.
        probable: If the promise is right, how probable each count is, `[of + 1]`.
    """

    kind: str
    count: int
    of: int
    fewest: int
    probable: FloatArray

    def bounds(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Between which shares it should hold."""
        low, high = between(self.probable, confidence)
        return low / self.of, high / self.of

    def is_kept(self, confidence: float = CONFIDENCE) -> bool:
        """Whether the count is among the probable ones, or would be if ties were decided otherwise."""
        low, high = between(self.probable, confidence)
        return low <= self.count and self.fewest <= high

    @property
    def share(self) -> float:
        """How often it held."""
        return self.count / self.of


def joined(kind: str, parts: Sequence[Held]) -> Held:
    """Several together: counts of independent kinds add up, and what is probable of them is convolved."""
    probable = reduce(np.convolve, (part.probable for part in parts))
    count, of, fewest = (sum(getattr(part, name) for part in parts) for name in ("count", "of", "fewest"))
    return Held(kind, count, of, fewest, probable)


def held_scores(kind: str, known: FloatArray, scores: FloatArray, level: float) -> Held:
    """How many new scores are within the bound that known scores, rising, set at a level."""
    most = bound(known, level)
    count, fewest = int((scores <= most).sum()), int((scores < most).sum())
    return Held(kind, count, len(scores), fewest, beta_binomial(len(known), len(scores), level))


def held_by_label(
    conformal: Conformal, probabilities: FloatArray, targets: npt.NDArray[np.integer], labels: Sequence[str], level: float
) -> list[Held]:
    """For every label that test has images of, and calibration enough of to promise it something.

    Args:
        conformal: Calibration scores.
        probabilities: Calibrated, of test images, `[N, K]`.
        targets: `[N]`.
        labels: Names.
        level: In (0, 1).
    """
    scores = 1.0 - probabilities[np.arange(len(targets)), targets]
    return [
        held_scores(label, conformal.of_label[index], scores[targets == index], level)
        for index, label in enumerate(labels)
        if not is_too_few(len(conformal.of_label[index]), level) and (targets == index).any()
    ]
