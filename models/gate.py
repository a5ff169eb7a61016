"""The gate: may a candidate go into production? A pure decision, from what two versions answered to the same images.

Owns which checks there are and what the verdict hangs on (docs/decisions/0007). What is compared, and how, is
`gate_checks`'s; measuring is `training.gate`'s. Knows nothing of files, graphs or clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.contest import make_contest
from models.gate_checks import (
    check_calibration,
    check_latency,
    check_new_labels,
    check_recall,
    check_scores,
    check_sound,
    check_status,
    failed,
)
from models.gate_report import Check, GateReport

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from models.contest import Measured, Spelt

_NAMED = 5


def decide(
    name: str,
    candidate: Measured,
    production: Measured | None,
    truth: Sequence[Spelt],
    holdout_sha256: str | None,
    at: datetime,
) -> GateReport:
    """Judge a candidate.

    Args:
        name: The model's.
        candidate: What it answered.
        production: What the version in production answered to the same images; None where there is none.
        truth: What each image shows: a label, several, or a number. Empty where there is no held-out set.
        holdout_sha256: Which held-out set it was, or None.
        at: Now.
    """
    checks = [*check_sound(candidate), *_against(candidate, production, truth, has_holdout=holdout_sha256 is not None)]
    checks += check_latency(candidate, production)
    reasons = tuple(check.sentence for check in checks if check.is_required and not check.passed)
    return GateReport(
        schema_version=1,
        name=name,
        candidate=candidate.version,
        production=None if production is None else production.version,
        verdict="reject" if reasons else "promote",
        at=at,
        holdout_sha256=holdout_sha256,
        images=len(truth),
        checks=tuple(checks),
        reasons=reasons,
    )


def _against(candidate: Measured, production: Measured | None, truth: Sequence[Spelt], *, has_holdout: bool) -> list[Check]:
    """Every comparison, or the one reason why there can be none."""
    if not has_holdout:
        return [
            failed(
                "held_out",
                "There is no held-out set to judge by: the first version's data had no test split. Give the name one, or look at "
                "the candidate and promote it by hand",
            )
        ]
    if (odd := _incomparable(candidate, production, truth)) is not None:
        return [odd]
    silent = next((one for one in (candidate, production) if one is not None and one.outputs is None), None)
    if silent is not None:
        return [failed("answers", f"Version {silent.version} gives no answers that could be compared")]
    contest = make_contest(candidate, production, truth)
    if contest is None:
        return [failed("held_out", "No held-out image is of a label that both versions know; replace the held-out set")]
    return [
        *check_scores(contest),
        *check_recall(contest),
        *check_status(candidate, production),
        *check_calibration(contest),
        *check_new_labels(contest, truth),
    ]


def _incomparable(candidate: Measured, production: Measured | None, truth: Sequence[Spelt]) -> Check | None:
    """A candidate that answers another question is for a person to decide on, whatever its scores."""
    if production is not None:
        if candidate.task != production.task:
            said = f"The candidate answers {candidate.task}, and production {production.task}"
            return failed("labels", f"{said}: who asks it would not understand the answer. Promote it by hand")
        if candidate.unit != production.unit:
            said = f"The candidate's unit is {candidate.unit}, and production's {production.unit}"
            return failed("labels", f"{said}: who asks it would misread the answer. Promote it by hand")
    known = () if candidate.task == "regression" else candidate.labels
    expected = _labels_of(truth) if production is None else production.labels
    gone = [] if candidate.task == "regression" else [label for label in expected if label not in known]
    if gone:
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        return failed(
            "labels",
            f"The candidate does not know {', '.join(gone[:_NAMED])}{more}: who counts on a label would never see it again. "
            "Promote it by hand, if labels were removed or renamed on purpose",
        )
    return None


def _labels_of(truth: Sequence[Spelt]) -> list[str]:
    labels: set[str] = set()
    for target in truth:
        labels |= {target} if isinstance(target, str) else set(target) if isinstance(target, tuple) else set()
    return sorted(labels)
