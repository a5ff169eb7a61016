"""Fit what images of the data look like to the published network; `models.confidence.familiarity` has what it means."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.familiarity import RANK, UNUSUAL, Familiarity, unit_length
from training.confidence.lacking import Lacking

if TYPE_CHECKING:
    from models.confidence.conformal import FloatArray

# With fewer no image could be called unusual: the least p-value is 1 / (n + 1).
FEWEST_IMAGES = math.ceil(1 / UNUSUAL)
# Variances of directions of length 1 below this are rounding.
_TINY = 1e-12
# Of the largest variance: less is rounding.
_RELATIVE = 1e-8
# Of the least variance that is kept: with few images nothing may be left over to measure the rest by.
_LEAST_REST = 1e-3
# Offsets that are held at once.
_MOST_NUMBERS = 4_000_000


def fit_familiarity(
    training: npt.NDArray[np.float32], groups: npt.NDArray[np.integer], calibration: npt.NDArray[np.float32]
) -> Familiarity:
    """Centres and spread from training images, distances from calibration images, which must be none of those.

    Args:
        training: Embeddings, `[N, D]`.
        groups: The label of each, `[N]`; all equal where labels do not part the images.
        calibration: Embeddings, `[M, D]`.

    Raises:
        Lacking: If calibration images are too few, or images of one label do not differ.
    """
    if len(calibration) < FEWEST_IMAGES:
        raise Lacking(f"{len(calibration)} calibration images are too few to call one unusual; it takes {FEWEST_IMAGES}")
    directions = unit_length(training).astype(np.float64)
    present, group = np.unique(groups, return_inverse=True)
    belongs = (group[:, None] == np.arange(len(present))).astype(np.float64)
    centres = belongs.T @ directions / belongs.sum(axis=0)[:, None]
    axes, variances, rest = _spread(directions - centres[group], len(directions) - len(present))
    drawn = Familiarity(centres, axes, variances, rest, np.empty(0))
    # Distances are those that will be computed from what is stored.
    stored = Familiarity.from_arrays(drawn.arrays())
    return replace(stored, distances=np.sort(distances(stored, calibration)))


def _spread(offsets: FloatArray, degrees: int) -> tuple[FloatArray, FloatArray, float]:
    """Axes `[r, D]` and variances `[r]`, largest first, and the variance along each other direction.

    Half of the directions in which there is any variance are kept at most, so that the others show what is usual there: with
    fewer training images than dimensions it would be nothing, and every new image would be infinitely far away.
    """
    covariance = offsets.T @ offsets / max(degrees, 1)
    found, vectors = np.linalg.eigh(covariance)
    rank, rest = cut(found, degrees)
    return vectors.T[::-1][:rank], found[::-1][:rank], rest


def cut(found: FloatArray, degrees: int) -> tuple[int, float]:
    """How many directions are kept one by one, and the variance along each other one.

    Args:
        found: Variances along all directions, `[D]`, rising.
        degrees: Training images less labels.

    Raises:
        Lacking: If there is no variance to speak of.
    """
    if degrees < 1:
        raise Lacking("every label has one training image, which shows nothing of how images of one label differ")
    if found[-1] < _TINY:
        raise Lacking("the network gives all training images of a label the same embedding, so none is stranger than another")
    varying = min(int((found > _RELATIVE * found[-1]).sum()), degrees)
    rank = max(1, min(RANK, varying // 2))
    left = np.maximum(found[: len(found) - rank], 0.0)
    return rank, max(float(left.mean()) if len(left) else 0.0, _LEAST_REST * float(found[-rank]))


def distances(familiarity: Familiarity, embeddings: npt.NDArray[np.float32]) -> FloatArray:
    """Of any number of images `[N, D]`, a few at a time: `[N]`."""
    step = max(1, _MOST_NUMBERS // (len(familiarity.centres) * len(familiarity.axes)))
    parts = [familiarity.distance(embeddings[start : start + step]) for start in range(0, len(embeddings), step)]
    return np.concatenate(parts)


def p_left_out(familiarity: Familiarity, found: FloatArray) -> FloatArray:
    """Of calibration images by their distances, `[N]` in (0, 1]: each among the others, as if it were new."""
    known = familiarity.distances
    return np.maximum(len(known) - np.searchsorted(known, found, side="left"), 1) / len(known)


def p_values_of(familiarity: Familiarity, found: FloatArray) -> FloatArray:
    """Of new images by their distances, `[N]` in (0, 1]."""
    return np.array([familiarity.p_value(distance) for distance in found])


def p_values(familiarity: Familiarity, embeddings: npt.NDArray[np.float32]) -> FloatArray:
    """Of any number of images `[N, D]`: `[N]` in (0, 1]."""
    return p_values_of(familiarity, distances(familiarity, embeddings))
