"""Which of probe, last weights and weight average is published: the one with the lowest validation NLL.

Never less than the probe: a fine-tune that made things worse is measured and left behind.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.decision import probabilities
from models.manifest import Metrics, SplitMetrics
from models.metrics import recall_per_label, score
from training.calibrate import calibrate
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from models.dataset import Split
    from models.manifest import Temperature
    from training.data import Images

Candidate = Literal["probe", "last", "ema"]
# Where two are equal the later one has the better prior: an average generalises better than its last point.
_PREFERENCE: tuple[Candidate, ...] = ("probe", "last", "ema")


@dataclass(frozen=True)
class Verdict:
    """What is published, how it is calibrated, and the scores of everything that was compared."""

    chosen: Candidate
    temperature: Temperature
    metrics: Metrics


def choose(
    candidates: Sequence[Candidate],
    logits: Callable[[Candidate, Split], npt.NDArray[np.float32]],
    splits: Mapping[Split, Images],
    labels: Sequence[str],
) -> Verdict:
    """Pick a candidate on validation, calibrate it, and score all of them on test.

    Args:
        candidates: What there is to choose from.
        logits: Computes `[N, K]` of a candidate on a held-out split.
        splits: The images, for their labels.
        labels: Names, for the recall of each.
    """
    computed = functools.cache(logits)
    scored: tuple[Split, ...] = ("validation", "test")
    scores = {
        split: {name: score(probabilities(computed(name, split), 1.0), splits[split].targets) for name in candidates}
        for split in scored
        if split in splits
    }
    chosen = _best(scores.get("validation"), candidates)

    def pair(split: Split) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None:
        return (computed(chosen, split), splits[split].targets) if split in splits else None

    temperature = calibrate(pair("calibration"), pair("validation"))
    unavailable: dict[str, str] = {}
    calibrated: SplitMetrics | None = None
    recall: dict[str, float] = {}
    if (test := pair("test")) is not None:
        calibrated_test = probabilities(test[0], temperature.value)
        calibrated = score(calibrated_test, test[1])
        recalls = recall_per_label(calibrated_test.argmax(axis=1), test[1], len(labels))
        recall = {label: float(value) for label, value in zip(labels, recalls, strict=True) if not math.isnan(value)}
    else:
        unavailable["test"] = "the data has no test split"
    if "validation" not in splits:
        unavailable["validation"] = "the data has no validation split"
    metrics = Metrics(
        chosen=chosen,
        validation=dict(scores.get("validation", {})),
        test=dict(scores.get("test", {})),
        calibrated=calibrated,
        raw=scores["test"][chosen] if "test" in scores else None,
        recall=recall,
        unavailable=unavailable,
    )
    return Verdict(chosen, temperature, metrics)


def report(verdict: Verdict) -> None:
    """Say on stderr what was compared, what was chosen, and how good it is."""
    metrics = verdict.metrics
    for name in _PREFERENCE:
        parts = []
        for split, by in (("validation", metrics.validation), ("test", metrics.test)):
            if name in by:
                parts.append(f"{split} accuracy {by[name].accuracy:.3f} nll {by[name].nll:.3f}")
        if parts:
            say(f"  {name:6}{' <- published' if name == verdict.chosen else '':14}{'   '.join(parts)}")
    if metrics.calibrated and metrics.raw:
        say(
            f"  temperature {verdict.temperature.value:.3f} ({verdict.temperature.status}): test nll {metrics.raw.nll:.3f} -> "
            f"{metrics.calibrated.nll:.3f}, ece {metrics.raw.ece:.3f} -> {metrics.calibrated.ece:.3f}"
        )


def _best(validation: Mapping[Candidate, SplitMetrics] | None, names: Sequence[Candidate]) -> Candidate:
    if not validation:
        # Nothing to judge by: the gentlest step beyond the probe.
        return max(names, key=_PREFERENCE.index)
    return min(reversed(_PREFERENCE), key=lambda name: validation[name].nll if name in validation else float("inf"))
