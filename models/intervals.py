"""How far a share that was counted on a few images may be from the share of all: 95 % intervals, pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.metrics import ECE_BINS

FloatArray = npt.NDArray[np.float64]
LEVEL = 0.95
# The normal quantile of 0.975.
_Z = 1.959963984540054


def wilson(counts: npt.ArrayLike, totals: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval (Wilson 1927) of `counts` out of `totals`, at 95 %.

    Unlike the textbook's p +- 1.96 s it stays within 0..1 and has a width where everything, or nothing, was right.

    Args:
        counts: `[...]`, at most the totals.
        totals: `[...]`, the same shape.

    Returns:
        Lower and upper ends in 0..1, of that shape; NaN where the total is 0.
    """
    k, n = np.asarray(counts, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = k / n
        centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        # Rounding would leave 1 - 1e-17 where it is 1.
        low, high = np.where(k == 0, 0.0, centre - half), np.where(k == n, 1.0, centre + half)
    unknown = n == 0
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def f1_interval(hits: npt.ArrayLike, involved: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The interval of F1 = 2 TP / (2 TP + FP + FN), at 95 %, without resampling.

    Given how many images involve a label at all, TP + FP + FN, the hits among them are binomial, so J = TP / (TP + FP + FN)
    has Wilson's interval; and F1 = 2 J / (1 + J) rises with J, so it carries the ends over.

    Args:
        hits: TP, `[...]`.
        involved: TP + FP + FN, the same shape.
    """
    low, high = wilson(hits, involved)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def largest_chance_ece(confidence: npt.NDArray[np.floating], draws: int = 500, seed: int = 0) -> float:
    """The calibration error that a perfectly calibrated model shows on so few images, at most: its 95 % quantile.

    Outcomes are drawn with the stated probabilities again and again (consistency resampling, Broecker and Smith 2007), and
    the error of each draw is taken over the bins of `metrics.expected_calibration_error`.

    Args:
        confidence: The largest probability of each image, `[N]`, N at least 1.
        draws: How often.
        seed: Of the draws.
    """
    stated = np.asarray(confidence, dtype=np.float64)
    index = np.clip(np.ceil(stated * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    expected = np.bincount(index, weights=stated, minlength=ECE_BINS)
    rng = np.random.default_rng(seed)
    errors = [
        np.abs(np.bincount(index, weights=rng.random(len(stated)) < stated, minlength=ECE_BINS) - expected).sum() / len(stated)
        for _ in range(draws)
    ]
    return float(np.quantile(errors, LEVEL))
