"""From which p_correct on an answer may go without anybody looking at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.judge import MEDIUM
from models.intervals import is_surely_over

if TYPE_CHECKING:
    from models.confidence.conformal import FloatArray

TARGET = 0.95


def find_threshold(p_correct: FloatArray, correct: npt.NDArray[np.bool_], target: float = TARGET) -> float | None:
    """The smallest p_correct at and above which answers are right as often as `target`, by the exact bound; None without one.

    It is never below 0.7: where nearly all answers are right, the average would let through some that are likely wrong.

    Args:
        p_correct: Of calibration images, `[N]`.
        correct: Whether they are right, `[N]`.
        target: Share, in (0, 1).
    """
    if not len(p_correct):
        return None
    order = np.argsort(-p_correct, kind="stable")
    falling = p_correct[order]
    right = correct[order].cumsum()
    # Equal ones are accepted together or not at all.
    last_of_equals = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    for place in last_of_equals[::-1].tolist():
        if falling[place] < MEDIUM:
            continue
        count = place + 1
        # The exact bound is dear, and below the target's own share it is surely below the target.
        if right[place] > target * count and is_surely_over(int(right[place]), count, target):
            return float(falling[place])
    return None
