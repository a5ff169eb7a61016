"""What makes an output a statement of confidence, fitted where the model was neither trained nor chosen.

A temperature (Guo et al. 2017) for probabilities, with several labels an image a threshold for each too, and for a number
an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.confidence.conformal import bound, round_up
from models.confidence.schema import Interval, Temperature
from models.decision import activate, in_order, probabilities
from models.metrics import DEFAULT_THRESHOLD, binary_cross_entropy, negative_log_likelihood

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.recipe import Task

# Logits and targets of one split.
HeldOut = tuple[npt.NDArray[np.floating], npt.NDArray[Any]]
LOWEST, HIGHEST = 0.25, 20.0
# Below 1 a temperature makes answers more certain. That takes some errors, to see how far it may go.
MIN_ERRORS_TO_SHARPEN = 10
# Of images with a label, and of images without it: fewer say too little of where to part them.
MIN_IMAGES_FOR_THRESHOLD = 10
INTERVAL_LEVEL = 0.9
_NO_SPLIT = "no held-out images to calibrate on"
_BY_VALIDATION = "no calibration split; fitted on validation, which also chose the model"
_GOLDEN = (np.sqrt(5) - 1) / 2
_TOLERANCE = 1e-6


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """The temperature with the lowest NLL, between 0.25 and 20.

    The NLL is convex in 1 / temperature, so a golden-section search on it finds the one minimum; a model that is never
    wrong would drive the temperature to 0, and is stopped at the lower end.

    Args:
        logits: `[N, K]`, of the calibration split.
        labels: `[N]`.
    """
    return _golden_section(lambda temperature: negative_log_likelihood(probabilities(logits, temperature), labels))


def _golden_section(loss: Callable[[float], float]) -> float:
    """The temperature with the lowest loss, where the loss is convex in 1 / temperature."""
    low, high = 1 / HIGHEST, 1 / LOWEST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(1 / left), loss(1 / right)
    while high - low > _TOLERANCE:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(1 / left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(1 / right)
    return 2 / (low + high)


def calibrate(
    calibration: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]] | None,
    validation: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]] | None,
) -> Temperature:
    """Fit on the calibration split; on validation where there is none (`partial`); never on test.

    Args:
        calibration: Logits and labels, or None.
        validation: The same.
    """
    if calibration is not None:
        return _fit(*calibration, reason=None)
    if validation is not None:
        return _fit(*validation, reason=_BY_VALIDATION)
    return Temperature(value=1.0, status="none", images=0, reason=_NO_SPLIT)


def _fit(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], reason: str | None) -> Temperature:
    """Fit, but claim no more certainty than the images can bear out: with hardly an error the NLL only wants more."""
    value = fit_temperature(logits, labels)
    errors = int((logits.argmax(axis=1) != labels).sum())
    missing = logits.shape[1] - len(np.unique(labels))
    if value < 1 and errors < MIN_ERRORS_TO_SHARPEN:
        value = 1.0
        reason = f"{errors} of {len(labels)} held-out images are wrong, too few to raise confidence on; left as it is"
    elif missing and reason is None:
        reason = f"{missing} of {logits.shape[1]} labels have no calibration image"
    return Temperature(value=value, status="partial" if reason else "ok", images=len(labels), reason=reason)


@dataclass(frozen=True)
class Calibration:
    """What `confidence.json` says: a temperature; thresholds with `multi_label`; an interval, if one is known, of a value."""

    temperature: Temperature
    thresholds: dict[str, float] | None
    interval: Interval | None

    def threshold_row(self, labels: Sequence[str]) -> npt.NDArray[np.float64] | None:
        """The thresholds `[K]` in the order of `labels`, as `score_task` takes them; None where the task has none."""
        return None if self.thresholds is None else in_order(self.thresholds, labels)


def calibrate_task(task: Task, labels: Sequence[str], calibration: HeldOut | None, validation: HeldOut | None) -> Calibration:
    """Fit on the calibration split; on validation where there is none (`partial`); never on test.

    Args:
        task: What the logits are.
        labels: Names, in the order of the logits.
        calibration: Logits `[N, K]` and targets as `score_task` takes them, or None.
        validation: The same.
    """
    if task == "single_label":
        return Calibration(calibrate(calibration, validation), None, None)
    held_out = calibration if calibration is not None else validation
    reason = _BY_VALIDATION if calibration is None else None
    if task == "regression":
        return _calibrate_values(held_out, reason)
    if held_out is None:
        nothing = Temperature(value=1.0, status="none", images=0, reason=_NO_SPLIT)
        return Calibration(nothing, dict.fromkeys(labels, DEFAULT_THRESHOLD), None)
    return _calibrate_labels(labels, *held_out, reason)


def _calibrate_labels(
    labels: Sequence[str], logits: npt.NDArray[np.floating], targets: npt.NDArray[Any], reason: str | None
) -> Calibration:
    """One temperature for all labels, by the binary cross-entropy, then a threshold for each label."""
    value = _golden_section(lambda temperature: binary_cross_entropy(activate(logits, "multi_label", temperature), targets))
    reasons = [reason] if reason else []
    errors = int(((logits > 0) != (targets > 0)).sum())
    if value < 1 and errors < MIN_ERRORS_TO_SHARPEN:
        value = 1.0
        reasons.append(f"{errors} of {targets.size} decisions are wrong, too few to raise confidence on; left as it is")
    calibrated = activate(logits, "multi_label", value)
    found = {label: best_threshold(calibrated[:, k], targets[:, k]) for k, label in enumerate(labels)}
    unknown = [label for label, threshold in found.items() if threshold is None]
    if unknown:
        reasons.append(
            f"{len(unknown)} of {len(labels)} labels keep the threshold {DEFAULT_THRESHOLD}: fewer than "
            f"{MIN_IMAGES_FOR_THRESHOLD} held-out images have them, or lack them"
        )
    thresholds = {label: DEFAULT_THRESHOLD if threshold is None else threshold for label, threshold in found.items()}
    status = "partial" if reasons else "ok"
    temperature = Temperature(value=value, status=status, images=len(targets), reason="; ".join(reasons) or None)
    return Calibration(temperature, thresholds, None)


def best_threshold(probability: npt.NDArray[np.float64], target: npt.NDArray[Any]) -> float | None:
    """The threshold with the highest F1 on these images; of equally good ones the nearest to 0.5.

    It lies midway between two probabilities that occurred, so that a third one between them is not decided by chance.

    Args:
        probability: `[N]`, 0..1.
        target: `[N]`, whether the image has the label.

    Returns:
        The threshold, or None where fewer than 10 images have the label, or lack it.
    """
    has = target > 0
    positives = int(has.sum())
    if min(positives, len(has) - positives) < MIN_IMAGES_FOR_THRESHOLD:
        return None
    order = np.argsort(-probability, kind="stable")
    descending = probability[order]
    below = np.append(descending[1:], 0.0)
    # equal probabilities cannot be parted
    cuts = np.append(descending[:-1] > descending[1:], True)
    # selecting the first n images: F1 = 2 TP / (selected + positives)
    f1 = 2 * has[order].cumsum() / (np.arange(1, len(order) + 1) + positives)
    middle = (descending + below) / 2
    # two neighbouring floats have no middle
    thresholds = np.where(middle > below, middle, descending)
    best = thresholds[cuts & (f1 >= f1[cuts].max())]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def _calibrate_values(held_out: HeldOut | None, reason: str | None) -> Calibration:
    """An interval, if there are images enough for one; a value has no temperature."""
    if held_out is None:
        return Calibration(Temperature(value=1.0, status="none", images=0, reason=_NO_SPLIT), None, None)
    values, targets = held_out
    residuals = np.abs(values[:, 0].astype(np.float64) - targets[:, 0])
    half_width = conformal_half_width(residuals, INTERVAL_LEVEL)
    images = len(residuals)
    if half_width is None:
        few = (
            f"{images} held-out images are too few for an interval that covers {INTERVAL_LEVEL:.0%}; "
            f"it takes {fewest_images(INTERVAL_LEVEL)}"
        )
        return Calibration(Temperature(value=1.0, status="none", images=images, reason=few), None, None)
    interval = Interval(level=INTERVAL_LEVEL, half_width=half_width, images=images, method="split_conformal", reason=reason)
    status = "partial" if reason else "ok"
    return Calibration(Temperature(value=1.0, status=status, images=images, reason=reason), None, interval)


def conformal_half_width(residuals: npt.NDArray[np.float64], level: float) -> float | None:
    """The ceil((n + 1) level)-th smallest residual: split conformal prediction (Vovk 2012; Lei et al. 2018, Algorithm 2).

    An image like the n ones has a residual of at most that with probability `level` or more, whatever the model is.

    Args:
        residuals: Absolute errors on held-out images, `[N]`.
        level: Share to cover, 0..1.

    Returns:
        The half width, or None where n is less than `fewest_images`.
    """
    half_width = bound(np.sort(residuals), level)
    return half_width if math.isfinite(half_width) else None


def fewest_images(level: float) -> int:
    """The least n with ceil((n + 1) level) <= n, which is ceil(level / (1 - level)); with fewer no width is enough."""
    return round_up(level / (1 - level))
