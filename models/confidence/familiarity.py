"""Is this image like the ones that the model learnt from? A softmax cannot say: it has to name one of its labels.

The distance of an image's embedding to the nearest label's centre is measured in the directions in which images of one
label differ (Mahalanobis distance; Lee et al. 2018) after scaling embeddings to length 1 (Mueller and Hein 2025), and turned
into a p-value by the distances of calibration images (Bates et al. 2023): of images like those, 5 % have one below 0.05.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from models.confidence.conformal import p_value

if TYPE_CHECKING:
    from collections.abc import Mapping

FloatArray = npt.NDArray[np.float64]
Verdict = Literal["familiar", "unusual", "unknown"]
# How often an image like the calibration images is called that, or worse.
UNUSUAL, UNKNOWN = 0.05, 0.01
# With fewer distances no p-value is that small: the least is 1 / (n + 1).
FEWEST_FOR_UNKNOWN = 100
# Directions that are kept one by one; the others share one variance. Any number from 16 to 512 does as well.
RANK = 64
_TINY = 1e-12


@dataclass(frozen=True)
class Familiarity:
    """Centres and spread of the training images' embeddings, and how far calibration images are from them.

    Attributes:
        centres: `[G, D]`, of each label's images; a single one where labels do not part the images.
        axes: `[r, D]`, orthonormal: the directions in which images of one label differ most.
        variances: `[r]`, along them.
        rest: The variance along each of the other directions.
        distances: `[n]`, rising: of calibration images, which were in none of the above.
    """

    centres: FloatArray
    axes: FloatArray
    variances: FloatArray
    rest: float
    distances: FloatArray

    def distance(self, embeddings: npt.NDArray[np.floating]) -> FloatArray:
        """Squared distance to the nearest centre, in variances, `[N]`.

        Args:
            embeddings: `[N, D]`.
        """
        return self.distance_of(unit_length(embeddings))

    def distance_of(self, directions: npt.NDArray[np.float32]) -> FloatArray:
        """The same of embeddings that have length 1 already."""
        points = directions.astype(np.float64)
        along = points @ self.axes.T
        whole, inside, scaled = self._whole.squared_distances(points), self._inside, self._scaled
        # What is not along the axes; rounding may make it less than nothing.
        beyond = np.maximum(whole - inside.squared_distances(along), 0.0)
        far = np.maximum(scaled.squared_distances(along / self._deviations), 0.0)
        return np.asarray((far + beyond / self.rest).min(axis=1))

    @cached_property
    def _whole(self) -> _Centres:
        return _Centres(self.centres)

    @cached_property
    def _inside(self) -> _Centres:
        return _Centres(self.centres @ self.axes.T)

    @cached_property
    def _scaled(self) -> _Centres:
        return _Centres(self._inside.points / self._deviations)

    @cached_property
    def _deviations(self) -> FloatArray:
        return np.sqrt(self.variances)

    def p_value(self, distance: float) -> float:
        """How often an image like the calibration images is as far away, in (0, 1]."""
        return p_value(self.distances, distance)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What `from_arrays` takes back; in float32, but for what a p-value is compared with."""
        return {
            "centres": self.centres.astype(np.float32),
            "axes": self.axes.astype(np.float32),
            "variances": self.variances.astype(np.float32),
            "rest": np.array([self.rest]),
            "distances": self.distances,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Familiarity:
        """Rebuild from what `arrays` gave.

        Raises:
            KeyError: If one is missing.
        """
        centres, axes, variances, rest, distances = (
            np.asarray(arrays[name], dtype=np.float64) for name in ("centres", "axes", "variances", "rest", "distances")
        )
        return cls(centres, axes, variances, float(rest[0]), distances)


def verdict(p_value: float) -> Verdict:
    """Name a p-value."""
    return "unknown" if p_value < UNKNOWN else "unusual" if p_value < UNUSUAL else "familiar"


def unit_length(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Embeddings `[N, D]` scaled to length 1; one of nothing but zeros stays as it is."""
    given = np.asarray(embeddings, dtype=np.float32)
    return np.asarray(given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), _TINY))


class _Centres:
    """Points `[G, D]` that many others are compared with; their lengths are worked out once."""

    def __init__(self, points: FloatArray) -> None:
        self.points = points
        self._squares = np.square(points).sum(axis=1)

    def squared_distances(self, others: FloatArray) -> FloatArray:
        """|x - y|^2 of all pairs, `[N, G]`, by a product of matrices; rounding may leave a hair less than 0."""
        squares = np.einsum("nd,nd->n", others, others)[:, None] + self._squares
        return np.asarray(squares - 2 * others @ self.points.T)
