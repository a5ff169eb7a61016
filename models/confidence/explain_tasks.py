"""What may be said of an image by models that do not choose one label: several labels, or a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.confidence.case import Case, rounded
from models.confidence.conformal import bound, is_too_few
from models.confidence.explanation import Decision, LabelVerdict, MultiLabelExplanation, RegressionExplanation, ValueRange
from models.decision import in_order, ranked

if TYPE_CHECKING:
    from models.confidence.judge import Reason, Trust

CLOSE_TO_THRESHOLD = 0.1


def explain_multi_label(case: Case) -> MultiLabelExplanation:
    """Each label by itself, against its threshold."""
    thresholds = in_order(case.judge.confidence.thresholds or {}, case.labels)
    order = ranked(case.row, len(case.row))
    verdicts = [
        LabelVerdict(
            label=case.labels[index],
            probability=rounded(float(case.row[index])),
            threshold=rounded(float(thresholds[index])),
            selected=bool(case.row[index] >= thresholds[index]),
            margin=rounded(float(case.row[index] - thresholds[index])),
        )
        for index in order
    ]
    close = any(abs(one.margin) < CLOSE_TO_THRESHOLD for one in verdicts)
    selected = tuple(one.label for one in verdicts if one.selected)
    reasons = _few_reasons(case, ("CLOSE_RUNNER_UP", close))
    said = f"Shows {', '.join(selected)}." if selected else "Shows none of the labels."
    near = [one.label for one in verdicts if abs(one.margin) < CLOSE_TO_THRESHOLD]
    more = f" Close to the threshold, either way: {', '.join(near)}." if near else ""
    return MultiLabelExplanation(
        predictions=tuple(verdicts[: case.ask.top_k]),
        selected=selected,
        familiarity=case.familiar(),
        heatmap=case.heatmap(order[0] if case.ask.versus is None else case.ask.versus),
        decision=Decision(action=case.trust.action, reasons=reasons),
        summary=_strange(case.trust) + said + more,
        unavailable=case.unavailable(),
    )


def explain_regression(case: Case, unit: str | None) -> RegressionExplanation:
    """The number, and between which numbers the truth lies."""
    value = float(case.row[0])
    interval = _interval(case, value)
    number = f"{value:.4g}" + (f" {unit}" if unit else "")
    between = ""
    if interval is not None:
        share = f"{interval.confidence_level:.4g}"
        between = (
            f" It lies between {interval.low:.4g} and {interval.high:.4g} for a share {share} of images like the known ones."
        )
    return RegressionExplanation(
        value=rounded(value),
        unit=unit,
        interval=interval,
        familiarity=case.familiar(),
        heatmap=case.heatmap(0),
        decision=Decision(action=case.trust.action, reasons=_few_reasons(case)),
        summary=_strange(case.trust) + f"About {number}." + between,
        unavailable=case.unavailable() | ({} if interval is not None else _no_interval(case)),
    )


def _interval(case: Case, value: float) -> ValueRange | None:
    """The split conformal interval at the level that was asked for; None where that takes more residuals."""
    residuals, asked = case.judge.evidence.residuals, case.ask.confidence_level
    if residuals is None or is_too_few(len(residuals), asked):
        return None
    half_width = bound(residuals, asked)
    return ValueRange(
        confidence_level=asked, low=rounded(value - half_width), high=rounded(value + half_width), method="split_conformal"
    )


def _no_interval(case: Case) -> dict[str, str]:
    residuals = case.judge.evidence.residuals
    if residuals is not None:
        return {"interval": case.too_high(len(residuals))}
    why = case.judge.confidence.temperature.reason
    return {} if why is None else {"interval": why}


def _few_reasons(case: Case, *more: tuple[Reason, bool]) -> tuple[Reason, ...]:
    tests: list[tuple[Reason, bool]] = [
        ("UNFAMILIAR", case.trust.familiarity in {"unusual", "unknown"}),
        *more,
        ("UNCALIBRATED_MODEL", case.judge.confidence.temperature.status == "none"),
    ]
    return tuple(reason for reason, holds in tests if holds)


def _strange(trust: Trust) -> str:
    if trust.familiarity == "unknown":
        return "This looks like none of the images that the model knows. "
    return "This looks unusual to the model. " if trust.familiarity == "unusual" else ""
