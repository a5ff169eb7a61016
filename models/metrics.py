"""Scores of probabilities against labels: numpy in, floats out.

Shared by training, the gate and the service's estimates, so that a number means the same everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.manifest import SplitMetrics

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]
ECE_BINS = 15
_TINY = 1e-12


def negative_log_likelihood(probabilities: FloatArray, labels: IntArray) -> float:
    """Mean of -ln p(true label), in nats; probabilities are floored at 1e-12 so that one miss is not infinite."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, _TINY)).mean())


def expected_calibration_error(probabilities: FloatArray, labels: IntArray, bins: int = ECE_BINS) -> float:
    """Gap between confidence and accuracy, averaged over equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        labels: `[N]`.
        bins: Number of bins over (0, 1], each open on the left.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.abs(np.bincount(index, weights=confidence, minlength=bins) - np.bincount(index, weights=correct, minlength=bins))
    # sum over bins of (n_b / N) * |mean confidence - accuracy|, where n_b cancels
    return float(gap[count > 0].sum() / len(labels))


def confusion_matrix(predicted: IntArray, labels: IntArray, num_labels: int) -> npt.NDArray[np.int64]:
    """Counts `[K, K]`: rows are the actual label, columns the predicted one."""
    flat = np.asarray(labels, dtype=np.int64) * num_labels + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=num_labels * num_labels).reshape(num_labels, num_labels)


def recall_per_label(predicted: IntArray, labels: IntArray, num_labels: int) -> npt.NDArray[np.float64]:
    """Share of each label's images that are predicted as it, `[K]`; NaN where a label has no image."""
    matrix = confusion_matrix(predicted, labels, num_labels)
    totals = matrix.sum(axis=1)
    return np.where(totals > 0, matrix.diagonal() / np.maximum(totals, 1), np.nan)


def score(probabilities: FloatArray, labels: IntArray) -> SplitMetrics:
    """Score one model on one split that has at least one image.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        labels: `[N]`, indices of the true labels.
    """
    predicted = probabilities.argmax(axis=1)
    return SplitMetrics(
        images=len(labels),
        accuracy=float((predicted == labels).mean()),
        macro_recall=float(np.nanmean(recall_per_label(predicted, labels, probabilities.shape[1]))),
        nll=negative_log_likelihood(probabilities, labels),
        ece=expected_calibration_error(probabilities, labels),
    )
