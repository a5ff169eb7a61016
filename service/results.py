"""What is said of one image, in the words of `/classify`: the same over HTTP and in the lines of bulk scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.predictor import Estimate

if TYPE_CHECKING:
    from service.errors import Problem
    from service.predictor import Answer, Range

# Enough to compare with, and no digit that another processor would answer differently: of a probability after the point, of
# a number, which may be of any size, from its first on.
_DIGITS = 6


def result_of(answer: Answer, *, has_trust: bool) -> dict[str, Any]:
    """What was answered, by the model's task; `has_trust` says how far to believe it."""
    trust = {"action": answer.trust.action, "familiarity": answer.trust.familiarity} if has_trust else {}
    if isinstance(answer, Estimate):
        return {"value": _shorten(answer.value), "unit": answer.unit, "interval": _interval(answer.interval)} | trust
    predictions = [{"label": label, "probability": round(p, _DIGITS)} for label, p in answer.labels]
    selected = {} if answer.selected is None else {"selected": answer.selected}
    return {"predictions": predictions} | selected | trust


def failure_of(problem: Problem) -> dict[str, Any]:
    """Why there is no answer."""
    return {"error": {"code": problem.code, "detail": problem.detail, "status": problem.status}}


def _interval(known: Range | None) -> dict[str, float] | None:
    return None if known is None else {"level": known.level, "low": _shorten(known.low), "high": _shorten(known.high)}


def _shorten(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
