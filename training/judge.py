"""What a model says of each image of one split, against what is so: arrays of `[N]`, from which scores and lists are made.

With one label an image. Works through the images a few thousand at a time, so that a thousand labels of a hundred thousand
images take no more memory than the logits do.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.intervals import f1_interval, largest_chance_ece, wilson
from models.metrics import ECE_BINS
from models.review_schema import Bin, Estimate, LabelScores, Rate, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_ROWS = 4096
# -ln 1e-12, where `metrics.negative_log_likelihood` floors a probability: one miss must not be the whole mean.
_LARGEST_LOSS = -np.log(1e-12)


@dataclass(frozen=True)
class Judged:
    """One split or several: label indices, calibrated probabilities, losses in nats; each `[N]`.

    `margin` is the largest probability less the second; `loss` is -ln p_actual; `raw_*` are before temperature.
    """

    actual: IntArray
    predicted: IntArray
    p_predicted: FloatArray
    p_actual: FloatArray
    margin: FloatArray
    loss: FloatArray
    raw_p_predicted: FloatArray
    raw_loss: FloatArray

    def __len__(self) -> int:
        """How many images."""
        return len(self.actual)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which images are right, `[N]`."""
        return self.actual == self.predicted

    @classmethod
    def joined(cls, parts: Sequence[Judged]) -> Judged:
        """Several splits, one after another; at least one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def judge(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], temperature: float) -> Judged:
    """Compare logits with labels.

    Args:
        logits: `[N, K]`, raw; N at least 1, K at least 2.
        targets: `[N]`, label indices.
        temperature: Divisor of the logits, over 0.

    Raises:
        ValueError: If a logit is not finite.
    """
    starts = range(0, len(targets), _ROWS)
    return Judged.joined([_judge(logits[i : i + _ROWS], targets[i : i + _ROWS], temperature) for i in starts])


def _judge(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], temperature: float) -> Judged:
    raw = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(raw).all():
        raise ValueError("a logit is not finite (NaN or infinity); the model's output cannot be judged")
    actual = np.asarray(targets, dtype=np.int64)
    raw_top, _, raw_loss = _softmax(raw, actual)
    top, second, loss = _softmax(raw / temperature, actual)
    return Judged(
        actual=actual,
        predicted=raw.argmax(axis=1),
        p_predicted=top,
        p_actual=np.exp(-loss),
        margin=top - second,
        loss=loss,
        raw_p_predicted=raw_top,
        raw_loss=raw_loss,
    )


def _softmax(logits: FloatArray, actual: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The largest and the second probability and the loss, `[N]` each, without the other K - 2."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    second = np.partition(shifted, -2, axis=1)[:, -2]
    # Of a difference of two nearly equal logarithms rounding may leave less than 0.
    loss = np.maximum(np.log(total) - shifted[np.arange(len(actual)), actual], 0.0)
    return 1 / total, np.exp(second) / total, loss


def rate(count: int, of: int) -> Rate | None:
    """A counted share with its interval; None of nothing."""
    if of == 0:
        return None
    low, high = wilson(count, of)
    return Rate(value=count / of, low=float(low), high=float(high), count=count, of=of)


def scores(judged: Judged) -> Scores:
    """How good on one split."""
    right = rate(int(judged.correct.sum()), len(judged))
    assert right is not None  # noqa: S101 - a split has an image
    nll = float(np.minimum(judged.loss, _LARGEST_LOSS).mean())
    return Scores(
        images=len(judged),
        accuracy=right,
        error_rate=(right.of - right.count) / right.of,
        nll=nll,
        nll_raw=float(np.minimum(judged.raw_loss, _LARGEST_LOSS).mean()),
        typical_p_actual=float(np.exp(-nll)),
        ece=_calibration_error(bins(judged.p_predicted, judged.correct)),
        ece_raw=_calibration_error(bins(judged.raw_p_predicted, judged.correct)),
        ece_by_chance=largest_chance_ece(judged.p_predicted),
    )


def bins(stated: FloatArray, correct: npt.NDArray[np.bool_], count: int = ECE_BINS) -> tuple[Bin, ...]:
    """Stated probability against observed accuracy, in the bins of `metrics.expected_calibration_error`.

    Args:
        stated: The largest probability of each image, `[N]`.
        correct: `[N]`.
        count: How many equal bins over (0, 1].
    """
    index = np.clip(np.ceil(stated * count).astype(int) - 1, 0, count - 1)
    images = np.bincount(index, minlength=count)
    total, right = np.bincount(index, weights=stated, minlength=count), np.bincount(index, weights=correct, minlength=count)
    return tuple(
        Bin(
            low=i / count,
            high=(i + 1) / count,
            images=int(images[i]),
            stated=min(total[i] / images[i], 1.0) if images[i] else None,
            right=rate(int(right[i]), int(images[i])),
        )
        for i in range(count)
    )


def _calibration_error(found: Sequence[Bin]) -> float:
    """Guo et al. 2017, eq. 3."""
    total = sum(one.images for one in found)
    return sum(one.images * abs(one.stated - one.right.value) for one in found if one.stated is not None and one.right) / total


def label_scores(matrix: npt.NDArray[np.int64], labels: Sequence[str]) -> tuple[LabelScores, ...]:
    """Precision, recall and F1 of each label, with intervals.

    Args:
        matrix: Confusion counts `[K, K]`: rows actual, columns predicted.
        labels: In that order.
    """
    hits, actual, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    return tuple(one_label(label, hit, has, said) for label, hit, has, said in zip(labels, hits, actual, predicted, strict=True))


def one_label(label: str, hits: int, actual: int, predicted: int) -> LabelScores:
    """Precision, recall and F1 of one label, from its counts."""
    hits, actual, predicted = int(hits), int(actual), int(predicted)
    involved = actual + predicted - hits
    f1 = None
    # Of a label that no image has, F1 would be 0 whatever the model does.
    if actual:
        low, high = f1_interval(hits, involved)
        f1 = Estimate(value=2 * hits / (actual + predicted), low=float(low), high=float(high))
    return LabelScores(
        label=label, actual=actual, predicted=predicted, precision=rate(hits, predicted), recall=rate(hits, actual), f1=f1
    )
