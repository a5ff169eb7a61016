"""How far a share that was counted on a few images may be from the share of all: 95 % intervals, pure numpy."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.conformal import round_up
from models.metrics import ECE_BINS

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray = npt.NDArray[np.float64]
LEVEL = 0.95
# The normal quantile of 0.975.
_Z = 1.959963984540054
_SHARE_TOLERANCE = 1e-9


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


def clopper_pearson(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval (Clopper and Pearson 1934) of a share of `count` of `total`: never too short, unlike Wilson's.

    Args:
        count: 0..total.
        total: At least 1.
        level: Two-sided, in (0, 1).

    Returns:
        Lower and upper end in 0..1.
    """
    tail = (1 - level) / 2
    # P(X >= count) rises with the share, and P(X <= count) falls; each end is where one of them is the tail.
    low = 0.0 if count == 0 else _bisect(lambda share: 1 - binomial_cdf(count - 1, total, share) < tail)
    high = 1.0 if count == total else _bisect(lambda share: binomial_cdf(count, total, share) > tail)
    return low, high


def is_surely_over(count: int, total: int, share: float) -> bool:
    """Whether a share of `count` of `total` is over `share` with 95 % confidence: the one-sided exact lower bound is."""
    return count > 0 and 1 - binomial_cdf(count - 1, total, share) < 1 - LEVEL


def binomial_cdf(count: int, total: int, share: float) -> float:
    """P(X <= count) of a binomial with `total` draws."""
    if share <= 0 or share >= 1:
        return float(share <= 0 or count >= total)
    k = np.arange(count + 1)
    log_choose = _log_factorial(total) - _log_factorial(k) - _log_factorial(total - k)
    return float(min(1.0, np.exp(log_choose + k * np.log(share) + (total - k) * np.log1p(-share)).sum()))


def covered_by_chance(known: int, asked: int, level: float, confidence: float = 0.99) -> tuple[float, float]:
    """Between which shares the coverage of a correct conformal predictor lies on `asked` images, given `known` scores.

    The number that are covered is beta-binomial (Vovk 2012): both the scores and the new images are drawn. A binomial
    interval, as if the scores were all there are, calls a correct predictor wrong one time in seven.

    Args:
        known: Calibration scores, at least 1.
        asked: New images, at least 1.
        level: The coverage that is promised, in (0, 1).
        confidence: Of the interval, in (0, 1).
    """
    low, high = between(beta_binomial(known, asked, level), confidence)
    return low / asked, high / asked


def beta_binomial(known: int, asked: int, level: float) -> FloatArray:
    """How probable it is that so many of `asked` images are covered, `[asked + 1]`; see `covered_by_chance`."""
    return beta_binomial_of_rank(min(round_up((known + 1) * level), known), known, asked)


def beta_binomial_of_rank(rank: int, known: int, asked: int) -> FloatArray:
    """How probable it is that so many of `asked` numbers are at most the `rank`-th smallest of `known` ones, `[asked + 1]`."""
    a, b = rank, known + 1 - rank
    k = np.arange(asked + 1)
    log_p = (
        _log_factorial(asked) - _log_factorial(k) - _log_factorial(asked - k)
        + _log_factorial(a + k - 1) + _log_factorial(b + asked - k - 1) - _log_factorial(a + b + asked - 1)
        - _log_factorial(a - 1) - _log_factorial(b - 1) + _log_factorial(a + b - 1)
    )  # fmt: skip
    return np.exp(log_p)


def between(probable: FloatArray, confidence: float) -> tuple[int, int]:
    """Between which counts, both included, one lies with at least this confidence, as much on either side.

    Args:
        probable: How probable each count is, `[n + 1]`.
        confidence: In (0, 1).
    """
    below, tail = np.cumsum(probable), (1 - confidence) / 2
    return int(np.searchsorted(below, tail)), min(int(np.searchsorted(below, 1 - tail)), len(probable) - 1)


def _bisect(is_below: Callable[[float], bool]) -> float:
    """The share in 0..1 up to which `is_below` holds."""
    low, high = 0.0, 1.0
    while high - low > _SHARE_TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def _log_factorial(number: npt.ArrayLike) -> FloatArray:
    """Ln n! of each."""
    given = np.asarray(number)
    return np.asarray(_log_factorials(1 << int(given.max(initial=0)).bit_length())[given])


@lru_cache(maxsize=32)
def _log_factorials(size: int) -> FloatArray:
    """Ln n! for n in 0..size."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])
