"""Put together what may be said of one image (`explanation`), from a version's evidence (`judge`).

The same image and the same version give the same answer, to the digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from models.confidence.case import Ask, Case, Seen, rounded
from models.confidence.conformal import is_too_few
from models.confidence.explain_tasks import explain_multi_label, explain_regression
from models.confidence.explanation import (
    Alternative,
    Decision,
    EvidenceShown,
    NeighbourImage,
    Predicted,
    PredictedSet,
    SingleLabelExplanation,
    Sureness,
)
from models.confidence.judge import CLOSE_MARGIN, DISAGREEING, WEAK_PRECISION, level
from models.confidence.summary import summarise
from models.decision import probabilities, ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.confidence.explanation import Explanation
    from models.confidence.judge import Judge, Reason
    from models.confidence.schema import Counted, ExpectedAccuracy, KnownConfusion

FloatArray = npt.NDArray[np.float64]


def explain(judge: Judge, labels: Sequence[str], unit: str | None, seen: Seen, ask: Ask) -> Explanation:
    """Say what is known of one image.

    Args:
        judge: The version's evidence.
        labels: In the order of the logits.
        unit: With regression, what the number counts.
        seen: The image and its outputs.
        ask: What is asked for.

    Raises:
        ValueError: If a logit is not finite.
    """
    rows = judge.probabilities(seen.logits[None])
    similar = judge.similarities(seen.embedding[None])
    trust = judge.trust(rows, seen.embedding[None], similar)[0]
    case = Case(judge, labels, seen, ask, rows[0], trust)
    if judge.task == "multi_label":
        return explain_multi_label(case)
    if judge.task == "regression":
        return explain_regression(case, unit)
    return _single_label(case, None if similar is None else similar[0])


def _single_label(case: Case, similar: npt.NDArray[np.float32] | None) -> SingleLabelExplanation:
    judge, row, trust, labels = case.judge, case.row, case.trust, case.labels
    order = ranked(row, len(row))
    first, second = order[0], order[1]
    raw = probabilities(case.seen.logits, 1.0)
    bank = judge.evidence.bank
    agreement = None if bank is None or similar is None else bank.agreement(similar, first)
    predicted_set = _set(case)
    confusion = next((one for one in judge.confidence.known_confusions if one.predicted == labels[first]), None)
    margin = float(row[first] - row[second])
    reasons = _reasons(case, first, margin, 1 if predicted_set is None else predicted_set.size, agreement, confusion)
    sureness = Sureness(
        level=level(trust),
        p_correct=None if trust.p_correct is None else rounded(trust.p_correct),
        p_correct_method=_method(case),
        expected_accuracy=_expected(judge.confidence.expected_accuracy, float(row[first])),
        margin=rounded(margin),
        normalized_entropy=rounded(_entropy(row)),
        percentile_for_label=_percentile(judge.evidence.percentiles, first, float(row[first])),
    )
    prediction = Predicted(
        label=labels[first], index=first, probability=rounded(float(row[first])), raw_softmax=rounded(float(raw[first]))
    )
    decision = Decision(action=trust.action, reasons=reasons)
    return SingleLabelExplanation(
        prediction=prediction,
        alternatives=tuple(
            Alternative(
                label=labels[index],
                index=index,
                probability=rounded(float(row[index])),
                raw_softmax=rounded(float(raw[index])),
                p_value=_p_value(case, index),
            )
            for index in order[1 : case.ask.top_k]
        ),
        confidence=sureness,
        prediction_set=predicted_set,
        familiarity=case.familiar(),
        evidence=EvidenceShown(
            heatmap=case.heatmap(first),
            versus=case.versus(first),
            neighbors=_neighbours(case, similar),
            neighbor_agreement=None if agreement is None else rounded(agreement),
            trust_score=None if trust.trust_score is None else rounded(trust.trust_score),
        ),
        known_confusion=confusion,
        decision=decision,
        summary=summarise(prediction, sureness, predicted_set, trust, confusion),
        unavailable=case.unavailable(first) | _no_set(case),
    )


def _reasons(
    case: Case, first: int, margin: float, size: int, agreement: float | None, confusion: KnownConfusion | None
) -> tuple[Reason, ...]:
    """Why not to accept it, in a fixed order."""
    confidence, trust = case.judge.confidence, case.trust
    precision = confidence.precision.get(case.labels[first])
    threshold = confidence.acceptance.threshold if confidence.acceptance is not None else None
    tests: list[tuple[Reason, bool]] = [
        ("UNFAMILIAR", trust.familiarity in {"unusual", "unknown"}),
        ("BELOW_AUTO_ACCEPT", threshold is None or trust.p_correct is None or trust.p_correct < threshold),
        ("SET_SIZE_GT_1", size > 1),
        ("CLOSE_RUNNER_UP", margin < CLOSE_MARGIN),
        ("NEIGHBORS_DISAGREE", agreement is not None and agreement < DISAGREEING),
        ("KNOWN_CONFUSION", confusion is not None),
        ("WEAK_CLASS", precision is not None and precision.low < WEAK_PRECISION),
        ("UNCALIBRATED_MODEL", confidence.temperature.status == "none"),
    ]
    return tuple(reason for reason, holds in tests if holds)


def _method(case: Case) -> Literal["logit_p+log_trust", "calibrated_probability"] | None:
    if case.trust.p_correct is None:
        return None
    card = case.judge.confidence.correctness
    return "calibrated_probability" if card is None or card.coefficients is None else "logit_p+log_trust"


def _set(case: Case) -> PredictedSet | None:
    conformal = case.judge.evidence.conformal
    if conformal is None:
        return None
    found = conformal.prediction_set(case.row, case.ask.confidence_level)
    return PredictedSet(
        confidence_level=case.ask.confidence_level,
        labels=tuple(case.labels[index] for index in found.labels),
        size=len(found.labels),
        method="class_conditional_lac",
        pooled=tuple(case.labels[index] for index in found.pooled),
    )


def _p_value(case: Case, label: int) -> float | None:
    conformal = case.judge.evidence.conformal
    found = None if conformal is None else conformal.p_value(case.row, label)
    return None if found is None else rounded(found)


def _no_set(case: Case) -> dict[str, str]:
    """Why a set holds every label, where its level is too high for all calibration images together."""
    conformal = case.judge.evidence.conformal
    if conformal is None or not is_too_few(len(conformal.of_all), case.ask.confidence_level):
        return {}
    return {"prediction_set": f"no label can be ruled out: {case.too_high(len(conformal.of_all))}"}


def _neighbours(case: Case, similar: npt.NDArray[np.float32] | None) -> tuple[NeighbourImage, ...]:
    bank = case.judge.evidence.bank
    if bank is None or similar is None:
        return ()
    return tuple(
        NeighbourImage(
            id=str(bank.ids[one.row]),
            label=case.labels[bank.labels[one.row]],
            split="calibration" if bank.is_held_out[one.row] else "train",
            predicted=case.labels[bank.predicted[one.row]],
            # Rounding may leave a hair over 1 between equal images.
            similarity=rounded(min(max(one.similarity, -1.0), 1.0)),
        )
        for one in bank.neighbours(similar, case.ask.neighbors)
    )


def _expected(bins: Sequence[ExpectedAccuracy], p_max: float) -> Counted | None:
    return next((one.right for one in bins if one.low < p_max <= one.high), None)


def _percentile(percentiles: FloatArray | None, label: int, p_max: float) -> float | None:
    if percentiles is None or np.isnan(percentiles[label, 0]):
        return None
    return rounded(float((percentiles[label] < p_max).mean()))


def _entropy(row: FloatArray) -> float:
    """-sum p ln p / ln K."""
    present = row[row > 0]
    return float(min(1.0, max(0.0, -(present * np.log(present)).sum() / np.log(len(row)))))
