"""How probable it is that the answer is right: a logistic regression on what the softmax says and what known images say.

    p_correct = sigmoid(a logit(p_max) + b log(trust) + c)

Used only where it beats the calibrated probability itself, on images that it was not fitted on (Jaeger et al. 2023 found
that to be the exception in general); else p_correct is that probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.decision import sigmoid

FloatArray = npt.NDArray[np.float64]
# p = 1 has no finite logit.
_TINY = 1e-7
# A nearly perfect model parts right from wrong with any steepness; this keeps the coefficients where the data has them.
_PENALTY = 1e-2
_STEPS = 50
_ENOUGH = 1e-9


@dataclass(frozen=True)
class Correctness:
    """The three coefficients: of logit(p_max), of log(trust), and the constant."""

    of_probability: float
    of_trust: float
    constant: float

    def p_correct(self, p_max: npt.ArrayLike, trust: npt.ArrayLike) -> FloatArray:
        """The probability that an answer is right, of the shape given.

        Args:
            p_max: Its calibrated probability.
            trust: Its trust score, over 0.
        """
        features = _features(p_max, trust)
        return sigmoid(features @ np.array([self.of_probability, self.of_trust]) + self.constant)


def fit(p_max: FloatArray, trust: FloatArray, correct: npt.NDArray[np.bool_]) -> Correctness:
    """Fit by Newton's method on the penalised log-loss, which has one minimum.

    Args:
        p_max: `[N]`.
        trust: `[N]`.
        correct: `[N]`, with some right and some wrong.
    """
    design = np.column_stack([_features(p_max, trust), np.ones(len(correct))])
    penalty = np.diag([_PENALTY, _PENALTY, 0.0])
    weights = np.zeros(3)
    for _ in range(_STEPS):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - correct) + penalty @ weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + penalty + 1e-9 * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < _ENOUGH:
            break
    return Correctness(*(float(weight) for weight in weights))


def _features(p_max: npt.ArrayLike, trust: npt.ArrayLike) -> FloatArray:
    p = np.clip(np.asarray(p_max, dtype=np.float64), _TINY, 1 - _TINY)
    return np.stack([np.log(p) - np.log1p(-p), np.log(np.asarray(trust, dtype=np.float64))], axis=-1)
