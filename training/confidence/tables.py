"""What was counted: on test, how often answers were right and what was taken for what; on calibration, what is usual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.evidence import PERCENTILES
from models.confidence.schema import Counted, ExpectedAccuracy, KnownConfusion
from models.intervals import clopper_pearson
from models.metrics import confusion_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.confidence.conformal import FloatArray

    IntArray = npt.NDArray[np.integer]

ACCURACY_BINS = 10
REFERENCE_BINS = 20
# Once may be chance.
FEWEST_CONFUSED = 2


def counted(count: int, of: int) -> Counted | None:
    """A share with its exact interval; None of nothing."""
    if of == 0:
        return None
    low, high = clopper_pearson(count, of)
    return Counted(value=count / of, low=low, high=high, count=count, of=of)


def expected_accuracy(p_max: FloatArray, correct: npt.NDArray[np.bool_]) -> tuple[ExpectedAccuracy, ...]:
    """How often answers were right, by how probable they were said to be; both `[N]`, of test images."""
    bins = []
    for index in range(ACCURACY_BINS):
        low, high = index / ACCURACY_BINS, (index + 1) / ACCURACY_BINS
        within = (p_max > low) & (p_max <= high)
        bins.append(ExpectedAccuracy(low=low, high=high, right=counted(int(correct[within].sum()), int(within.sum()))))
    return tuple(bins)


def precision(predicted: IntArray, actual: IntArray, labels: Sequence[str]) -> dict[str, Counted]:
    """How often each label was right, of those that test images were taken for; both `[N]`."""
    found = {
        label: counted(int((actual[predicted == index] == index).sum()), int((predicted == index).sum()))
        for index, label in enumerate(labels)
    }
    return {label: share for label, share in found.items() if share is not None}


def known_confusions(predicted: IntArray, actual: IntArray, labels: Sequence[str]) -> tuple[KnownConfusion, ...]:
    """For each label the one that test images most often were instead, if it happened twice; both `[N]`."""
    matrix = confusion_matrix(predicted, actual, len(labels))
    totals = matrix.sum(axis=0)
    wrong = matrix - np.diag(matrix.diagonal())
    return tuple(
        KnownConfusion(
            actual=labels[worst],
            predicted=labels[index],
            count=int(wrong[worst, index]),
            share_of_predicted=float(wrong[worst, index] / totals[index]),
        )
        for index, worst in enumerate(wrong.argmax(axis=0))
        if wrong[worst, index] >= FEWEST_CONFUSED
    )


def percentiles(p_max: FloatArray, predicted: IntArray, correct: npt.NDArray[np.bool_], labels: int) -> FloatArray:
    """Quantiles, 0 % to 100 %, of how sure right answers were, by label `[K, 101]`; NaN where a label has none."""
    found = np.full((labels, PERCENTILES), np.nan)
    for label in range(labels):
        usual = p_max[(predicted == label) & correct]
        if len(usual):
            found[label] = np.quantile(usual, np.linspace(0, 1, PERCENTILES))
    return found


def histogram(shares: FloatArray) -> tuple[float, ...]:
    """Shares of `[N]` numbers in 0..1 in equal bins; nothing of nothing."""
    if not len(shares):
        return ()
    counts, _ = np.histogram(shares, bins=REFERENCE_BINS, range=(0, 1))
    return tuple((counts / len(shares)).tolist())
