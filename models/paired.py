"""Is one model surely better than another, on the same images? Tests that pair the two image by image.

If two models were equally good, nothing would change if their answers to an image changed hands. So all swaps of answers are
equally probable, and how often a swap does at least as well is the probability that chance alone explains what was seen
(Fisher 1935; for scores that are no means, approximate randomisation, Noreen 1989). For right and wrong answers that is
McNemar's exact test (McNemar 1947). Pairing matters: most images are easy or hard for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from models.intervals import binomial_cdf

if TYPE_CHECKING:
    from collections.abc import Callable

DRAWS, SCORE_DRAWS = 2000, 500
# Signs in memory at once.
_SIGNS = 4_000_000
# Sums in another order differ in the last digits; such a draw is a tie, and ties count for chance.
_ROUNDING = 1e-9

FloatArray = npt.NDArray[np.floating]


class Chance(NamedTuple):
    """How probable it is that two equally good models differ at least as much, in either direction."""

    better: float
    worse: float


def by_hits(hits: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> Chance:
    """McNemar's exact test of right answers `[N]` against another model's.

    Images that both get right, or both wrong, say nothing.
    """
    gained, lost = int((hits & ~others).sum()), int((others & ~hits).sum())
    return Chance(_at_least(gained, gained + lost), _at_least(lost, gained + lost))


def by_losses(losses: FloatArray, others: FloatArray, draws: int = DRAWS, seed: int = 0) -> Chance:
    """The swap test of a loss for each image `[N]`, lower is better, against another model's.

    Args:
        losses: What is judged.
        others: What it is compared with.
        draws: How many swaps of all that there are are tried.
        seed: Of the draws.
    """
    gains = np.asarray(others, dtype=np.float64) - np.asarray(losses, dtype=np.float64)
    seen, slack = gains.sum(), _ROUNDING * np.abs(gains).sum()
    rng = np.random.default_rng(seed)
    sums: list[npt.NDArray[np.float64]] = []
    chunk = max(1, _SIGNS // max(1, len(gains)))
    for start in range(0, draws, chunk):
        signs = rng.integers(0, 2, (min(chunk, draws - start), len(gains)), dtype=np.int8) * 2.0 - 1
        sums.append(signs @ gains)
    return _chance(np.concatenate(sums), seen, slack)


def by_score(
    score: Callable[[FloatArray], float], outputs: FloatArray, others: FloatArray, draws: int = SCORE_DRAWS, seed: int = 0
) -> Chance:
    """The swap test of a score of all answers together, higher is better, against another model's.

    Args:
        score: From answers `[N, K]` to a number.
        outputs: What is judged, `[N, K]`.
        others: What it is compared with, of the same shape.
        draws: How many swaps are tried.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    seen = score(outputs) - score(others)
    found = np.zeros(draws)
    for draw in range(draws):
        is_swapped = rng.integers(0, 2, len(outputs), dtype=np.int8).astype(bool)[:, None]
        found[draw] = score(np.where(is_swapped, others, outputs)) - score(np.where(is_swapped, outputs, others))
    return _chance(found, seen, _ROUNDING)


def _at_least(count: int, total: int) -> float:
    return 1.0 if count == 0 else max(0.0, 1 - binomial_cdf(count - 1, total, 0.5))


def _chance(drawn: npt.NDArray[np.float64], seen: float, slack: float) -> Chance:
    """What was seen is one of the swaps, so that no probability is 0 (Phipson and Smyth 2010)."""
    total = len(drawn) + 1
    return Chance(
        (1 + int((drawn >= seen - slack).sum())) / total,
        (1 + int((drawn <= seen + slack).sum())) / total,
    )
