"""From logits to statements: pure numpy, used by training to score and by the service to answer.

Owns softmax with temperature, ranking, and the comparison of two outputs. Knows nothing of graphs, files or HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = npt.NDArray[np.floating]


def probabilities(logits: FloatArray, temperature: float) -> npt.NDArray[np.float64]:
    """Turn logits into calibrated probabilities: softmax(logits / temperature), Guo et al. 2017, eq. 9.

    Args:
        logits: Raw head output, `[N, K]` or `[K]`. Not modified.
        temperature: Divisor before softmax, over 0; 1 leaves it uncalibrated.

    Returns:
        float64 of the same shape; each row sums to 1 within 1e-12.

    Raises:
        ValueError: If the temperature is not positive, or a logit is not finite.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if not np.isfinite(scaled).all():
        raise ValueError("a logit is not finite (NaN or infinity); the model's output cannot be used")
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


def ranked(row: FloatArray, top_k: int) -> list[int]:
    """The indices of the `top_k` largest entries of a row `[K]`, largest first; ties keep the labels' order."""
    return [int(i) for i in np.argsort(-row, kind="stable")[:top_k]]


def rank_labels(row: FloatArray, labels: Sequence[str], top_k: int) -> list[tuple[str, float]]:
    """The `top_k` most probable labels of one row `[K]` of probabilities, with their probabilities."""
    return [(labels[i], float(row[i])) for i in ranked(row, top_k)]


def largest_difference(a: FloatArray, b: FloatArray) -> float:
    """The largest absolute difference between two arrays of one shape; infinite where one of them is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else float("inf")
