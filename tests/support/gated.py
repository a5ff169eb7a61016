"""Versions as the gate sees them: made-up answers to held-out images, as good or as bad as a test needs them."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.confidence.schema import Interval, Temperature
from models.contest import Measured

LABELS = ("bee", "cat", "dog")
FITTED = Temperature(value=1.0, status="ok", images=200, reason=None)


def measured(version: int, outputs: np.ndarray | None, **changes: Any) -> Measured:
    """A sound version with one label an image; `changes` replace fields."""
    fields: dict[str, Any] = {
        "version": version,
        "task": "single_label",
        "labels": LABELS,
        "unit": None,
        "outputs": outputs,
        "temperature": FITTED,
        "thresholds": None,
        "interval": None,
        "golden": None,
        "parity": None,
        "p95_ms": 10.0,
    }
    return Measured(**(fields | changes))


def truth(count: int, labels: tuple[str, ...] = LABELS) -> list[str]:
    """Each label in turn."""
    return [labels[row % len(labels)] for row in range(count)]


def answers(targets: list[str], wrong: list[int], sure: float = 0.9, labels: tuple[str, ...] = LABELS) -> np.ndarray:
    """Probabilities `[N, K]`: `sure` for the right label, and in the rows that are `wrong` for the next one."""
    outputs = np.full((len(targets), len(labels)), (1 - sure) / (len(labels) - 1))
    for row, target in enumerate(targets):
        outputs[row, (labels.index(target) + (row in wrong)) % len(labels)] = sure
    return outputs


def number(version: int, outputs: np.ndarray, half_width: float | None = 2.0, **changes: Any) -> Measured:
    """A version that answers a number."""
    interval = None
    if half_width is not None:
        interval = Interval(level=0.9, half_width=half_width, images=100, method="split_conformal", reason=None)
    return measured(version, outputs[:, None], **{"task": "regression", "labels": ("angle",), "interval": interval, **changes})
