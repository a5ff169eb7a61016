"""Fit p_correct, and use it only where it beats the calibrated probability on images that it was not fitted on."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.correctness import fit
from models.confidence.schema import CorrectnessCard
from models.metrics import binary_cross_entropy
from training.confidence.lacking import Lacking
from training.confidence.separation import auroc
from training.suspects import FOLDS, stratified_folds

if TYPE_CHECKING:
    from models.confidence.conformal import FloatArray

    BoolArray = npt.NDArray[np.bool_]

# Right answers, and wrong ones: two for each fold at least.
FEWEST_OF_A_KIND = 2 * FOLDS


def fit_correctness(p_max: FloatArray, trust: FloatArray, correct: BoolArray) -> CorrectnessCard:
    """Compare by five-fold cross-fitting; coefficients are of all images, and null where it does not win twice.

    Args:
        p_max: Calibrated probabilities of what was answered, `[N]`, on calibration images.
        trust: Their trust scores, `[N]`, each without the image itself.
        correct: Whether the answers are right, `[N]`.

    Raises:
        Lacking: If too few are right, or too few are wrong.
    """
    fewer = min(int(correct.sum()), int((~correct).sum()))
    if fewer < FEWEST_OF_A_KIND:
        which = "wrong" if correct.mean() > 1 / 2 else "right"
        raise Lacking(
            f"{fewer} of {len(correct)} calibration answers are {which}, too few to learn which ones are; "
            "p_correct is the calibrated probability"
        )
    fold = stratified_folds(correct.astype(np.intp), 2)
    crossed = np.empty(len(correct))
    for one in range(FOLDS):
        out = fold == one
        crossed[out] = fit(p_max[~out], trust[~out], correct[~out]).p_correct(p_max[out], trust[out])
    log_loss, plain_loss = binary_cross_entropy(crossed, correct), binary_cross_entropy(p_max, correct)
    apart, plainly_apart = auroc(crossed[correct], crossed[~correct]), auroc(p_max[correct], p_max[~correct])
    wins = log_loss < plain_loss and apart > plainly_apart
    return CorrectnessCard(
        coefficients=astuple(fit(p_max, trust, correct)) if wins else None,
        images=len(correct),
        log_loss=log_loss,
        log_loss_of_probability=plain_loss,
        auroc=apart,
        auroc_of_probability=plainly_apart,
    )
