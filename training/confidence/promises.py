"""Tests of what a version promises, on images that neither made nor calibrated it. Each gives None where it does not apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.confidence.conformal import coverage, is_too_few, round_up
from models.confidence.familiarity import UNKNOWN, UNUSUAL
from models.confidence.schema import SelfTest
from models.intervals import beta_binomial_of_rank, largest_chance_ece
from models.metrics import binary_cross_entropy, expected_calibration_error, negative_log_likelihood
from training.confidence.coverage import CONFIDENCE, LEVELS, Held, held_by_label, held_scores, joined
from training.confidence.familiarity import distances, p_values
from training.confidence.separation import auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from models.confidence.conformal import FloatArray
    from models.confidence.judge import Judge, Trust
    from training.confidence.answers import Answers

ACCEPTED, UNRELATED = "accepted answers", "unrelated images"
LARGEST_ECE = 0.02
LEAST_AUROC = 0.9
_NLL_TOLERANCE = 1e-4
_MOST_LISTED = 4
# Numbers in rows of probabilities that sets are made of one by one.
_MOST_NUMBERS = 100_000


@dataclass(frozen=True)
class Tried:
    """A version's evidence, and what it makes of the test split.

    Attributes:
        judge: The evidence as it will be read back.
        labels: In the order of the logits.
        test: The images.
        probabilities: Calibrated, `[N, K]`.
        trust: Of each image.
        unrelated: Probabilities and embeddings of images that are of none of the labels.
    """

    judge: Judge
    labels: tuple[str, ...]
    test: Answers
    probabilities: FloatArray
    trust: list[Trust]
    unrelated: tuple[FloatArray, npt.NDArray[np.float32]]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """With one label an image: which answers are right, `[N]`."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.test.targets)


@dataclass(frozen=True)
class Calibrated:
    """Calibration on one split, before and after temperature; see `review_schema.Scores`."""

    ece: float
    ece_by_chance: float
    nll: float
    nll_raw: float

    @classmethod
    def measure(cls, raw: FloatArray, calibrated: FloatArray, targets: npt.NDArray[np.integer]) -> Calibrated:
        """Of probabilities `[N, K]` and labels `[N]`."""
        return cls(
            expected_calibration_error(calibrated, targets),
            largest_chance_ece(calibrated.max(axis=1)),
            negative_log_likelihood(calibrated, targets),
            negative_log_likelihood(raw, targets),
        )

    @property
    def contradiction(self) -> str | None:
        """What the images say against the temperature, if anything."""
        if self.ece > max(LARGEST_ECE, self.ece_by_chance):
            return (
                f"on test, what it states and how often it is right are {self.ece:.3f} apart, "
                f"and chance explains {self.ece_by_chance:.3f}"
            )
        if self.nll > self.nll_raw + _NLL_TOLERANCE:
            return f"on test, the temperature makes the NLL worse ({self.nll_raw:.3f} to {self.nll:.3f})"
        return None


def calibration(measured: Calibrated) -> SelfTest:
    """Whether probabilities are as often right as they say."""
    most = max(LARGEST_ECE, measured.ece_by_chance)
    return SelfTest(
        name="calibration",
        passed=measured.contradiction is None,
        found=f"ECE {measured.ece:.3f}, NLL {measured.nll:.3f}",
        expected=f"ECE at most {most:.3f}, NLL at most {measured.nll_raw:.3f}, as without the temperature",
    )


def covered(tried: Tried) -> SelfTest | None:
    """Whether prediction sets, or with a number intervals, hold the truth as often as they say."""
    held = [(level, held) for level in LEVELS if (held := _all_held(tried, level)) is not None]
    if not held:
        return None
    found = "; ".join(f"{level:.2f}: {one.share:.3f}{_sets(tried, level)}" for level, one in held)
    return SelfTest(
        name="coverage",
        passed=all(one.is_kept() for _, one in held),
        found=found,
        expected="; ".join(f"{level:.2f}: {_range(one.bounds())}" for level, one in held),
    )


def _all_held(tried: Tried, level: float) -> Held | None:
    evidence, test = tried.judge.evidence, tried.test
    if evidence.residuals is not None and not is_too_few(len(evidence.residuals), level):
        return held_scores("all", evidence.residuals, np.abs(tried.probabilities - test.targets)[:, 0], level)
    if evidence.conformal is None:
        return None
    parts = held_by_label(evidence.conformal, tried.probabilities, test.targets, tried.labels, level)
    if parts:
        return joined("all", parts)
    scores = 1.0 - tried.probabilities[np.arange(len(test)), test.targets]
    known = evidence.conformal.of_all
    return None if is_too_few(len(known), level) else held_scores("all", known, scores, level)


def _sets(tried: Tried, level: float) -> str:
    """What is served: sets with the most probable label in each."""
    conformal = tried.judge.evidence.conformal
    if conformal is None:
        return ""
    step = -(-tried.probabilities.size // _MOST_NUMBERS)
    sets = [conformal.prediction_set(row, level) for row in tried.probabilities[::step]]
    size = float(np.mean([len(one.labels) for one in sets]))
    return f" ({coverage(sets, tried.test.targets[::step]):.3f} with the first label always in; {size:.2f} labels on average)"


def covered_labels(tried: Tried) -> SelfTest | None:
    """The same label by label: the chance of a false alarm is that of all labels together."""
    conformal = tried.judge.evidence.conformal
    if conformal is None:
        return None
    confidence = 1 - (1 - CONFIDENCE) / len(tried.labels)
    held = [
        (level, one)
        for level in LEVELS
        for one in held_by_label(conformal, tried.probabilities, tried.test.targets, tried.labels, level)
    ]
    if not held:
        return None
    broken = [(level, one) for level, one in held if not one.is_kept(confidence)]
    by_level = [[pair for pair in held if pair[0] == level] for level in LEVELS]
    shown = broken or [min(pairs, key=lambda pair: pair[1].share) for pairs in by_level if pairs]
    return SelfTest(
        name="coverage of each label",
        passed=not broken,
        found=("outside: " if broken else "worst: ") + _listed(shown),
        expected="; ".join(f"{one.kind} at {level:.2f}: {_range(one.bounds(confidence))}" for level, one in shown[:_MOST_LISTED]),
    )


def _listed(held: Sequence[tuple[float, Held]]) -> str:
    text = "; ".join(f"{one.kind} at {level:.2f}: {one.share:.3f} of {one.of}" for level, one in held[:_MOST_LISTED])
    return text + (f"; {len(held) - _MOST_LISTED} more" if len(held) > _MOST_LISTED else "")


def false_alarms(tried: Tried) -> SelfTest | None:
    """Whether test images are called unusual or unknown as seldom as they should be."""
    familiarity = tried.judge.evidence.familiarity
    if familiarity is None:
        return None
    p, known = p_values(familiarity, tried.test.embeddings), len(familiarity.distances)
    held = []
    for rate in (UNUSUAL, UNKNOWN):
        # A p-value below the rate has fewer than (n + 1) rate - 1 known distances at or above it.
        rank = known + 2 - round_up((known + 1) * rate)
        if rank <= known:
            alarms = int((p < rate).sum())
            probable = beta_binomial_of_rank(rank, known, len(p))
            # of as many images as chance lets it spare, the others are alarms
            held.append(Held(f"{rate:.2f}", alarms, len(p), alarms, probable[::-1]))
    if not held:
        return None
    return SelfTest(
        name="false alarms",
        passed=all(one.is_kept() for one in held),
        found="; ".join(f"{one.kind}: {one.share:.3f}" for one in held),
        expected="; ".join(f"{one.kind}: {_range(one.bounds())}" for one in held),
    )


def unrelated(tried: Tried) -> SelfTest | None:
    """Whether images that are of none of the labels look stranger than test images, and whether a softmax would have said so."""
    familiarity = tried.judge.evidence.familiarity
    if familiarity is None:
        return None
    probabilities, embeddings = tried.unrelated
    found = auroc(distances(familiarity, embeddings), distances(familiarity, tried.test.embeddings))
    told, passed, expected = "", found >= LEAST_AUROC, f"AUROC at least {LEAST_AUROC:.2f}"
    if tried.judge.task != "regression":
        plain = auroc(tried.probabilities.max(axis=1), probabilities.max(axis=1))
        told, passed = f" (the largest probability alone: {plain:.3f})", passed and found >= plain
        expected += ", and that of the largest probability"
    return SelfTest(
        name=UNRELATED,
        passed=passed,
        found=f"AUROC {found:.3f} against {len(embeddings)} images{told}",
        expected=expected,
    )


def p_correct(tried: Tried) -> SelfTest | None:
    """Whether p_correct, where it is used, is as good on test as it was where it was chosen."""
    card = tried.judge.confidence.correctness
    if card is None or card.coefficients is None:
        return None
    known = np.array([one.p_correct is not None for one in tried.trust])
    stated = np.array([one.p_correct for one in tried.trust if one.p_correct is not None])
    if not len(stated):
        return None
    right, p_max = tried.correct[known], tried.probabilities.max(axis=1)[known]
    loss, plain = binary_cross_entropy(stated, right), binary_cross_entropy(p_max, right)
    gap = _losses(stated, right) - _losses(p_max, right)
    slack = 2 * float(gap.std() / np.sqrt(len(gap))) + _NLL_TOLERANCE
    return SelfTest(
        name="p_correct",
        passed=loss <= plain + slack,
        found=f"log-loss {loss:.3f}",
        expected=f"at most {plain + slack:.3f}: {plain:.3f} as the probability alone, and two standard errors",
    )


def _losses(stated: FloatArray, right: npt.NDArray[np.bool_]) -> FloatArray:
    return -np.log(np.maximum(np.where(right, stated, 1 - stated), 1e-12))


def accepted(tried: Tried) -> SelfTest | None:
    """Whether answers that nobody would look at are right as often as the target says."""
    acceptance = tried.judge.confidence.acceptance
    if acceptance is None or acceptance.on_test is None:
        return None
    target, found = acceptance.target, acceptance.on_test
    least = target - 2 * float(np.sqrt(target * (1 - target) / found.of))
    return SelfTest(
        name=ACCEPTED,
        passed=found.value >= least,
        found=f"{found.value:.3f} of {found.of} right",
        expected=f"at least {least:.3f}: {target:.2f}, less two standard errors",
    )


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"
