"""Temperature scaling (Guo et al. 2017): one scalar, fitted where the model was neither trained nor chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.decision import probabilities
from models.manifest import Temperature
from models.metrics import negative_log_likelihood

if TYPE_CHECKING:
    import numpy.typing as npt

LOWEST, HIGHEST = 0.25, 20.0
# Below 1 a temperature makes answers more certain. That takes some errors, to see how far it may go.
MIN_ERRORS_TO_SHARPEN = 10
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

    def loss(inverse: float) -> float:
        return negative_log_likelihood(probabilities(logits, 1 / inverse), labels)

    low, high = 1 / HIGHEST, 1 / LOWEST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > _TOLERANCE:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
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
        return _fit(*validation, reason="no calibration split; fitted on validation, which also chose the model")
    return Temperature(value=1.0, status="none", images=0, reason="no held-out images to calibrate on")


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
