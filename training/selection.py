"""Which of probe, last weights and weight average is published: the one with the lowest validation loss.

Never less than the probe: a fine-tune that made things worse is measured and left behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from models.decision import activate
from models.manifest import AnyMetrics, Metrics
from models.metrics import recall_per_label, score_task
from training.calibrate import Calibration, calibrate_task
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from models.dataset import Split
    from models.recipe import Task
    from training.data import Images

Candidate = Literal["probe", "last", "ema"]
# Where two are equal the later one has the better prior: an average generalises better than its last point.
_PREFERENCE: tuple[Candidate, ...] = ("probe", "last", "ema")


@dataclass(frozen=True)
class Verdict:
    """What is published, how it is calibrated, and the scores of everything that was compared."""

    chosen: Candidate
    calibration: Calibration
    metrics: Metrics


def choose(
    candidates: Sequence[Candidate],
    outputs: Callable[[Candidate, Split], npt.NDArray[np.float32]],
    splits: Mapping[Split, Images],
    task: Task,
    labels: Sequence[str],
) -> Verdict:
    """Pick a candidate on validation, calibrate it, and score all of them on test.

    Args:
        candidates: What there is to choose from.
        outputs: Gives `[N, K]` of a candidate on a held-out split; asked for the same more than once.
        splits: The images, for their targets.
        task: How outputs become answers.
        labels: Names, for the recall of each.
    """
    scored: tuple[Split, ...] = ("validation", "test")
    scores = {
        split: {name: score_task(task, activate(outputs(name, split), task, 1.0), splits[split].targets) for name in candidates}
        for split in scored
        if split in splits
    }
    chosen = _best(scores.get("validation"), candidates)

    def pair(split: Split) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]] | None:
        return (outputs(chosen, split), splits[split].targets) if split in splits else None

    calibration = calibrate_task(task, labels, pair("calibration"), pair("validation"))
    missing: tuple[Split, ...] = ("validation", "test")
    metrics = Metrics(
        chosen=chosen,
        validation=dict(scores.get("validation", {})),
        test=dict(scores.get("test", {})),
        calibrated=_calibrated(task, pair("test"), calibration, labels),
        raw=scores["test"][chosen] if "test" in scores else None,
        recall=_recall(task, pair("test"), labels),
        unavailable={split: f"the data has no {split} split" for split in missing if split not in splits},
    )
    return Verdict(chosen, calibration, metrics)


def report(verdict: Verdict) -> None:
    """Say on stderr what was compared, what was chosen, and how good it is."""
    metrics = verdict.metrics
    for name in _PREFERENCE:
        parts = [
            f"{split} {_spelt(by[name])}"
            for split, by in (("validation", metrics.validation), ("test", metrics.test))
            if name in by
        ]
        if parts:
            say(f"  {name:6}{' <- published' if name == verdict.chosen else '':14}{'   '.join(parts)}")
    temperature = verdict.calibration.temperature
    calibrated, raw = metrics.calibrated, metrics.raw
    if calibrated and raw and hasattr(calibrated, "ece") and hasattr(raw, "ece"):
        say(
            f"  temperature {temperature.value:.3f} ({temperature.status}): test nll {raw.loss:.3f} -> "
            f"{calibrated.loss:.3f}, ece {raw.ece:.3f} -> {calibrated.ece:.3f}"
        )
    interval = verdict.calibration.interval
    if interval is not None:
        say(f"  {interval.level:.0%} of held-out values lie within {interval.half_width:.3g} of the answer")


def _spelt(scores: AnyMetrics) -> str:
    name, value = scores.headline
    return f"{name} {value:.3f} loss {scores.loss:.3f}"


def _calibrated(
    task: Task,
    test: tuple[npt.NDArray[np.float32], npt.NDArray[Any]] | None,
    calibration: Calibration,
    labels: Sequence[str],
) -> AnyMetrics | None:
    if test is None:
        return None
    answers = activate(test[0], task, calibration.temperature.value)
    return score_task(task, answers, test[1], calibration.threshold_row(labels))


def _recall(task: Task, test: tuple[npt.NDArray[np.float32], npt.NDArray[Any]] | None, labels: Sequence[str]) -> dict[str, float]:
    if test is None or task != "single_label":
        return {}
    recalls = recall_per_label(test[0].argmax(axis=1), test[1], len(labels))
    return {label: float(value) for label, value in zip(labels, recalls, strict=True) if not math.isnan(value)}


def _best(validation: Mapping[Candidate, AnyMetrics] | None, names: Sequence[Candidate]) -> Candidate:
    if not validation:
        # Nothing to judge by: the gentlest step beyond the probe.
        return max(names, key=_PREFERENCE.index)

    def loss(name: Candidate) -> float:
        value = validation[name].loss if name in validation else math.inf
        return math.inf if math.isnan(value) else value

    return min(reversed(_PREFERENCE), key=loss)
