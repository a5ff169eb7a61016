"""From one image's outputs to what may be said of it: how sure, how that is known, and what else it could be.

The one place where the parts meet: temperature, p_correct, familiarity, prediction set, evidence, decision. Pure numpy; the
service calls it for each image, training for the images of the test split, so that what is published is what is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from models.confidence.correctness import Correctness
from models.confidence.familiarity import unit_length, verdict
from models.decision import activate

if TYPE_CHECKING:
    from models.confidence.evidence import Evidence
    from models.confidence.familiarity import Verdict
    from models.confidence.schema import Confidence
    from models.recipe import Task

FloatArray = npt.NDArray[np.float64]
Action = Literal["accept", "review", "reject"]
Level = Literal["high", "medium", "low", "unknown"]
Reason = Literal[
    "UNFAMILIAR",
    "BELOW_AUTO_ACCEPT",
    "SET_SIZE_GT_1",
    "CLOSE_RUNNER_UP",
    "NEIGHBORS_DISAGREE",
    "KNOWN_CONFUSION",
    "WEAK_CLASS",
    "UNCALIBRATED_MODEL",
]
# What p_correct is called. Of answers with 0.9 and more, at least nine in ten are right.
MEDIUM, HIGH = 0.7, 0.9
CLOSE_MARGIN = 0.2
WEAK_PRECISION = 0.7
DISAGREEING = 0.5


@dataclass(frozen=True)
class Trust:
    """What every answer carries: cheap enough for `/classify`.

    Attributes:
        p_correct: The probability that the answer is right; None for an image that is like nothing the model was shown,
            since it was fitted on such images alone.
        p_familiar: How often an image like the data is as strange, in (0, 1]; None where that is not known.
        familiarity: Its name.
        trust_score: See `bank`; None without a bank, and where nobody asked and p_correct does not need it.
        action: accept: right as often as the target says. reject: not one of the labels. review: let a person look.
    """

    p_correct: float | None
    p_familiar: float | None
    familiarity: Verdict | None
    trust_score: float | None
    action: Action


class Judge:
    """One version's evidence, ready to be asked. Immutable; safe from several threads."""

    def __init__(self, task: Task, confidence: Confidence, evidence: Evidence) -> None:
        """Take what was read from an artifact."""
        self.task: Task = task
        self.confidence = confidence
        self.evidence = evidence
        card = confidence.correctness
        self._correctness = Correctness(*card.coefficients) if card is not None and card.coefficients is not None else None
        acceptance = confidence.acceptance
        self._threshold = acceptance.threshold if acceptance is not None else None

    @property
    def needs_embedding(self) -> bool:
        """Whether `trust` looks at embeddings at all."""
        return self.evidence.familiarity is not None or self._correctness is not None

    def probabilities(self, logits: npt.NDArray[np.floating]) -> FloatArray:
        """Calibrated probabilities (or values) `[N, K]` of logits `[N, K]`.

        Raises:
            ValueError: If a logit is not finite.
        """
        return activate(logits, self.task, self.confidence.temperature.value)

    def similarities(self, embeddings: npt.NDArray[np.floating] | None) -> npt.NDArray[np.float32] | None:
        """Cosine similarity with every known image, `[N, M]`, of `[N, D]`; None where there is nothing to compare."""
        return self._similarities(None if embeddings is None else unit_length(embeddings))

    def _similarities(self, directions: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
        bank = self.evidence.bank
        if bank is None or directions is None or self.task != "single_label":
            return None
        return bank.similarities(directions)

    def trust(
        self,
        probabilities: FloatArray,
        embeddings: npt.NDArray[np.floating] | None,
        similar: npt.NDArray[np.float32] | None = None,
    ) -> list[Trust]:
        """Judge a batch.

        Args:
            probabilities: Calibrated, `[N, K]`.
            embeddings: `[N, D]`; None where there are none.
            similar: Their `similarities`, from whoever has them already; None to compute them where p_correct needs them,
                since comparing with every known image takes longer than all the rest.
        """
        count = len(probabilities)
        directions = None if embeddings is None else unit_length(embeddings)
        strange = self._p_familiar(directions, count)
        if similar is None and self._correctness is not None:
            similar = self._similarities(directions)
        scores = self._trust_scores(probabilities, similar)
        p_max = probabilities.max(axis=1)
        right = p_max if self._correctness is None or scores is None else self._correctness.p_correct(p_max, scores)
        return [
            self._judge(
                float(right[row]) if self.task == "single_label" else None,
                None if strange is None else strange[row],
                None if scores is None else float(scores[row]),
            )
            for row in range(count)
        ]

    def _judge(self, p_correct: float | None, p_familiar: float | None, trust_score: float | None) -> Trust:
        named = None if p_familiar is None else verdict(p_familiar)
        action: Action = "review"
        if named == "unknown":
            return Trust(None, p_familiar, named, trust_score, "reject")
        if named == "familiar" and p_correct is not None and self._threshold is not None and p_correct >= self._threshold:
            action = "accept"
        return Trust(p_correct, p_familiar, named, trust_score, action)

    def _p_familiar(self, directions: npt.NDArray[np.float32] | None, count: int) -> list[float] | None:
        familiarity = self.evidence.familiarity
        if familiarity is None or directions is None:
            return None
        return [familiarity.p_value(distance) for distance in familiarity.distance_of(directions)[:count]]

    def _trust_scores(self, probabilities: FloatArray, similar: npt.NDArray[np.float32] | None) -> FloatArray | None:
        bank = self.evidence.bank
        if bank is None or similar is None:
            return None
        return np.array([bank.trust(row, int(best)) for row, best in zip(similar, probabilities.argmax(axis=1), strict=True)])


def level(trust: Trust) -> Level:
    """A word for p_correct."""
    if trust.p_correct is None or trust.familiarity == "unknown":
        return "unknown"
    return "high" if trust.p_correct >= HIGH else "medium" if trust.p_correct >= MEDIUM else "low"
