"""Known images to compare a new one with: its neighbours, and whether they say what the model says.

The trust score (Jiang et al. 2018) is how much farther the nearest other label is than the predicted one. It finds errors
that a softmax is sure of. Neighbours that the model was trained on always agree with it, since it knows them by heart; so
agreement is counted among held-out images only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

# A label is as far away as its nearest images are on average.
NEAREST = 3
AGREEING = 20
# So that equal images have a finite trust score; far below what two photographs of one thing differ by.
_LEAST_DISTANCE = 1e-6


@dataclass(frozen=True)
class Neighbour:
    """A known image, and its cosine similarity with the one that was asked about, in -1..1."""

    row: int
    similarity: float


@dataclass(frozen=True)
class Bank:
    """Known images.

    Attributes:
        directions: float32 `[M, D]`, embeddings of length 1.
        labels: `[M]`, what they are; rising, so that images of one label lie together.
        predicted: `[M]`, what the model takes them for.
        is_held_out: bool `[M]`, whether the model was not trained on them.
        ids: text `[M]`, as in `review.json`.
    """

    directions: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    is_held_out: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.str_]

    def similarities(self, directions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Cosine similarity of `[N, D]`, of length 1, with every known image: `[N, M]`."""
        return directions @ self.directions.T

    def trust(self, similarities: npt.NDArray[np.float32], predicted: int) -> float:
        """Distance to the nearest other label over the distance to the predicted one; over 1 is reassuring.

        Args:
            similarities: Of one image, `[M]`; -inf for what is not to count, as the image itself.
            predicted: Label that the model chose.

        Returns:
            The score; 1, which says nothing, where the bank has no image of the predicted label, or of no other.
        """
        distances = self._distances(similarities)
        is_own = self._present == predicted
        own, others = distances[is_own], distances[~is_own]
        if not np.isfinite(own).any() or not np.isfinite(others).any():
            return 1.0
        return max(float(np.nanmin(others)), _LEAST_DISTANCE) / max(float(own[0]), _LEAST_DISTANCE)

    def _distances(self, similarities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Mean cosine distance of the nearest three images of each label that there is, `[G]`; NaN where none counts."""
        # every label's images in a row of its own, filled up with -inf, which place -1 has; G x the most images of a label
        rows = np.append(similarities, np.float32(-np.inf))[self._places]
        nearest = np.partition(rows, max(self._places.shape[1] - NEAREST, 0), axis=1)[:, -NEAREST:].astype(np.float64)
        counted = np.isfinite(nearest)
        with np.errstate(invalid="ignore"):
            return np.asarray(1.0 - np.where(counted, nearest, 0.0).sum(axis=1) / counted.sum(axis=1))

    @cached_property
    def _present(self) -> npt.NDArray[np.int64]:
        """Each label that there are images of."""
        return np.unique(self.labels)

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        """The bank's rows by label, `[G, most images of a label]`; -1 where a label has fewer."""
        _, starts, counts = np.unique(self.labels, return_index=True, return_counts=True)
        place = np.arange(counts.max(initial=1))
        return np.where(place < counts[:, None], starts[:, None] + place, -1)

    def neighbours(self, similarities: npt.NDArray[np.float32], count: int) -> list[Neighbour]:
        """The most similar held-out images, most similar first; trained-on ones only where none was held out.

        Args:
            similarities: Of one image, `[M]`.
            count: At most so many.
        """
        rows = np.flatnonzero(self.is_held_out) if self.is_held_out.any() else np.arange(len(self.labels))
        nearest = rows[np.argsort(-similarities[rows], kind="stable")[:count]]
        return [Neighbour(int(row), float(similarities[row])) for row in nearest]

    def agreement(self, similarities: npt.NDArray[np.float32], predicted: int) -> float | None:
        """The share of the 20 most similar held-out images that are what the model says; None without such images."""
        if not self.is_held_out.any():
            return None
        found = self.neighbours(similarities, AGREEING)
        return sum(bool(self.labels[one.row] == predicted) for one in found) / len(found)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What `from_arrays` takes back; embeddings in float16, which moves no similarity by more than 1e-3."""
        return {
            "bank_directions": self.directions.astype(np.float16),
            "bank_labels": self.labels.astype(np.int32),
            "bank_predicted": self.predicted.astype(np.int32),
            "bank_is_held_out": self.is_held_out,
            "bank_ids": self.ids,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Bank:
        """Rebuild from what `arrays` gave.

        Raises:
            KeyError: If one is missing.
        """
        return cls(
            np.asarray(arrays["bank_directions"], dtype=np.float32),
            np.asarray(arrays["bank_labels"], dtype=np.int64),
            np.asarray(arrays["bank_predicted"], dtype=np.int64),
            np.asarray(arrays["bank_is_held_out"], dtype=np.bool_),
            np.asarray(arrays["bank_ids"], dtype=np.str_),
        )
