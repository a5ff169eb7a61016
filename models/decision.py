"""From logits to statements: pure numpy, used by training to score and by the service to answer.

Owns softmax and sigmoid with temperature, ranking, and the comparison of two outputs. Knows nothing of graphs, files or
HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.recipe import Task

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
    scaled = _scaled(logits, temperature)
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


def activate(logits: FloatArray, task: Task, temperature: float) -> npt.NDArray[np.float64]:
    """Turn logits into what the task answers: softmax or sigmoid of logits / temperature, or the number itself.

    Args:
        logits: Raw head output, `[N, K]` or `[K]`. Not modified.
        task: `single_label`: rows sum to 1. `multi_label`: each entry is a probability of its own. `regression`: the graph
            answers in the number's unit, so nothing is left to do, and the temperature is 1.
        temperature: Divisor before the activation, over 0.

    Returns:
        float64 of the same shape.

    Raises:
        ValueError: If the temperature is not positive, or a logit is not finite.
    """
    if task == "single_label":
        return probabilities(logits, temperature)
    scaled = _scaled(logits, temperature)
    if task == "regression":
        return scaled
    return sigmoid(scaled)


def sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)), of any shape."""
    # of two forms that are equal on paper, the one whose exponential cannot overflow
    exponent = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, exponent) / (1 + exponent))


def _scaled(logits: FloatArray, temperature: float) -> npt.NDArray[np.float64]:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if not np.isfinite(scaled).all():
        raise ValueError("a logit is not finite (NaN or infinity); the model's output cannot be used")
    return scaled


def in_order(thresholds: Mapping[str, float], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Thresholds by label as a row `[K]` in the order of `labels`, to compare a row of probabilities with.

    Raises:
        KeyError: If a label has none.
    """
    return np.array([thresholds[label] for label in labels], dtype=np.float64)


# From so many times as many entries on it pays to look for the largest first.
_FEW = 8


def ranked(row: FloatArray, top_k: int) -> list[int]:
    """The indices of the `top_k` largest entries of a row `[K]`, largest first; ties keep the labels' order."""
    # Of many only what can be among them is sorted.
    least = np.partition(row, -top_k)[-top_k] if top_k * _FEW <= len(row) else -np.inf
    among = np.flatnonzero(row >= least)
    order: list[int] = among[np.argsort(-row[among], kind="stable")[:top_k]].tolist()
    return order


def rank_labels(row: FloatArray, labels: Sequence[str], top_k: int) -> list[tuple[str, float]]:
    """The `top_k` most probable labels of one row `[K]` of probabilities, with their probabilities."""
    return [(labels[i], float(row[i])) for i in ranked(row, top_k)]


def largest_difference(a: FloatArray, b: FloatArray) -> float:
    """The largest absolute difference between two arrays of one shape; infinite where one of them is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else float("inf")


def unit_of_difference(outputs: FloatArray, task: Task) -> float:
    """What a difference between two outputs is measured in.

    A probability and a logit mean the same everywhere: 1. A regression's number may be in grams or in light years, so it
    is the spread of `outputs` `[N, 1]`; or a hundredth of the largest where they hardly differ, since the rounding of a
    float32 grows with its size.
    """
    if task != "regression":
        return 1.0
    values = np.asarray(outputs, dtype=np.float64)
    return float(max(np.ptp(values), np.abs(values).max() / 100))
