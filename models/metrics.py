"""Scores of probabilities against labels, and of values against numbers: numpy in, floats out.

Shared by training, the gate and the service's estimates, so that a number means the same everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.manifest import MultiLabelMetrics, RegressionMetrics, SplitMetrics

if TYPE_CHECKING:
    from models.manifest import AnyMetrics
    from models.recipe import Task

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]
ECE_BINS = 15
# From this probability on a label is selected, where nobody chose a threshold.
DEFAULT_THRESHOLD = 0.5
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
    return _binned_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def _binned_gap(stated: FloatArray, happened: npt.NDArray[Any], bins: int) -> float:
    """How far what was stated, `[N]` in 0..1, is from how often it happened, `[N]` of 0 and 1; averaged over the bins."""
    index = np.clip(np.ceil(stated * bins).astype(int) - 1, 0, bins - 1)
    gap = np.abs(np.bincount(index, weights=stated, minlength=bins) - np.bincount(index, weights=happened, minlength=bins))
    # sum over bins of (n_b / N) * |mean stated - mean happened|, where n_b cancels
    return float(gap.sum() / len(stated))


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


def score_task(task: Task, outputs: FloatArray, targets: npt.NDArray[Any], thresholds: FloatArray | None = None) -> AnyMetrics:
    """Score one model on one split that has at least one image, by its task.

    Args:
        task: What the outputs are.
        outputs: As `decision.activate` gives them: probabilities `[N, K]`; with regression values `[N, 1]`, in the unit.
        targets: Label indices `[N]`; with multi_label `[N, K]` of 0 and 1; with regression `[N, 1]`, in the unit.
        thresholds: With multi_label, `[K]` in the labels' order; None is 0.5 for each.

    Raises:
        ValueError: If outputs and targets are not of one shape: numpy would stretch one of them over the other.
    """
    if task == "single_label":
        return score(outputs, targets)
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs are {outputs.shape} and targets {targets.shape}; {task} expects one shape")
    if task == "regression":
        return _score_values(outputs[:, 0].astype(np.float64), targets[:, 0].astype(np.float64))
    selected = outputs >= (DEFAULT_THRESHOLD if thresholds is None else np.asarray(thresholds, dtype=np.float64))
    return _score_labels(outputs, targets > 0, selected)


def binary_cross_entropy(probabilities: FloatArray, targets: npt.NDArray[Any]) -> float:
    """Mean of -ln p(what is so) over images and labels, in nats; floored as the NLL is.

    Args:
        probabilities: Of each label being there, `[N, K]`.
        targets: Whether it is, `[N, K]`.
    """
    true = np.where(targets, probabilities, 1 - probabilities)
    return float(-np.log(np.maximum(true, _TINY)).mean())


def average_precision(probabilities: FloatArray, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Average precision of each label, `[K]`; NaN where no image has it.

    The sum over thresholds of (recall gained) x (precision there), without interpolation, as scikit-learn defines it. What
    is equally probable is taken in at once, so that the order of the images does not count.

    Args:
        probabilities: `[N, K]`; only their order within a label counts.
        targets: `[N, K]`.
    """
    return np.array([_average_precision(p, t) for p, t in zip(probabilities.T, targets.T, strict=True)])


def _average_precision(probability: FloatArray, target: npt.NDArray[Any]) -> float:
    order = np.argsort(-probability, kind="stable")
    hits = target[order].astype(bool).cumsum()
    if hits[-1] == 0:
        return float("nan")
    last_of_equals = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    found = hits[last_of_equals]
    gained = np.diff(found, prepend=0) / hits[-1]
    # a sum of shares that make one may be a hair over it
    return min(1.0, float((gained * found / (last_of_equals + 1)).sum()))


def f1_per_label(selected: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN) of each label, `[K]`, for booleans `[N, K]`; NaN where no image has the label."""
    has, said = targets.astype(bool), selected.astype(bool)
    positives = has.sum(axis=0)
    f1 = 2 * (has & said).sum(axis=0) / np.maximum(positives + said.sum(axis=0), 1)
    return np.where(positives > 0, f1, np.nan)


def _score_labels(probabilities: FloatArray, targets: npt.NDArray[Any], selected: npt.NDArray[Any]) -> MultiLabelMetrics:
    return MultiLabelMetrics(
        images=len(targets),
        mean_average_precision=_mean_of_known(average_precision(probabilities, targets)),
        macro_f1=_mean_of_known(f1_per_label(selected, targets)),
        exact_match=float((selected == targets).all(axis=1).mean()),
        nll=binary_cross_entropy(probabilities, targets),
        ece=_binned_gap(probabilities.ravel(), targets.ravel(), ECE_BINS),
    )


def _mean_of_known(values: npt.NDArray[np.float64]) -> float:
    """The mean over the labels that some image has; 0 where there is no such label, and nothing could be found."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _score_values(values: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> RegressionMetrics:
    """R2 = 1 - sum of squared errors / sum of squares about the mean.

    Where all targets are equal there is nothing to explain: R2 is then 1 if every value is exactly right, else 0.
    """
    errors = values - targets
    squared = float((errors**2).sum())
    if (targets == targets[0]).all():
        r2 = 1.0 if squared == 0 else 0.0
    else:
        r2 = 1 - squared / float(((targets - targets.mean()) ** 2).sum())
    return RegressionMetrics(
        images=len(targets), mae=float(np.abs(errors).mean()), rmse=float(np.sqrt((errors**2).mean())), r2=r2
    )
