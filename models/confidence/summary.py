"""One or two sentences for a person who has never heard of calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.confidence.explanation import Predicted, PredictedSet, Sureness
    from models.confidence.judge import Trust
    from models.confidence.schema import KnownConfusion

_MOST_NAMED = 3


def summarise(
    prediction: Predicted, sureness: Sureness, found: PredictedSet | None, trust: Trust, confusion: KnownConfusion | None
) -> str:
    """Say what it is, how sure that is, and what else it could be."""
    if trust.familiarity == "unknown":
        return (
            f"This looks like none of the images that the model knows; it would call it {prediction.label}, "
            "and that should not be relied on."
        )
    parts = [_claim(prediction, sureness)]
    if trust.familiarity == "unusual":
        parts.append("It looks unusual to the model.")
    others = [label for label in found.labels if label != prediction.label] if found is not None else []
    if others:
        named = " or ".join(others[:_MOST_NAMED]) if len(others) <= _MOST_NAMED else f"{len(others)} other labels"
        parts.append(f"Could also be {named}.")
    if confusion is not None and (not others or confusion.actual in others):
        parts.append(f"Of {confusion.predicted} answers {_percent(confusion.share_of_predicted)} were {confusion.actual}.")
    return " ".join(parts)


def _claim(prediction: Predicted, sureness: Sureness) -> str:
    claim = f"{_percent(prediction.probability)} {prediction.label}"
    if sureness.p_correct is None:
        return f"{claim}."
    if sureness.p_correct_method == "calibrated_probability":
        return f"{claim}, so far from certain." if sureness.level == "low" else f"{claim}."
    return f"{claim}; answers like this one are right {_percent(sureness.p_correct)} of the time."


def _percent(share: float) -> str:
    return "over 99 %" if share > 0.995 else "under 1 %" if share < 0.005 else f"{share:.0%}".replace("%", " %")
