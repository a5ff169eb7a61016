"""How strange images of a label look to familiarity that does not know it, one label after another.

The nearest thing to images of new labels that the data has. The network itself did learn that label. Fitting anew for every
label would take a second each, so the leading directions are looked for once, within a space that has room for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.confidence.familiarity import RANK, Familiarity, unit_length
from models.confidence.schema import LeftOut
from training.confidence.familiarity import cut
from training.confidence.lacking import Lacking
from training.confidence.separation import auroc

if TYPE_CHECKING:
    import numpy.typing as npt

    from training.confidence.answers import Answers

# With more of either it would take longer than it tells.
MOST_LABELS, MOST_IMAGES = 20, 2_000
# Dimensions of that space.
_ROOM = 4 * RANK


def leave_out(training: Answers, test: Answers, labels: tuple[str, ...], seed: int) -> tuple[LeftOut, ...]:
    """Of at most 20 labels, from all along the list; those that have too few images to say anything are left out.

    Args:
        training: With one label an image; what familiarity is fitted on.
        test: What it is asked about, a fair sample where there is much.
        labels: Names.
        seed: Of what is drawn.
    """
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), MOST_LABELS)).astype(int))
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(test))[:MOST_IMAGES])
    targets, embeddings = test.targets[rows], test.embeddings[rows]
    spread = _Spread(training, rng)
    found = []
    for index in chosen.tolist():
        is_own, fitted = targets == index, spread.without(index)
        if fitted is not None and is_own.any() and not is_own.all():
            far = fitted.distance(embeddings)
            found.append(LeftOut(label=labels[index], auroc=auroc(far[is_own], far[~is_own])))
    return tuple(found)


class _Spread:
    """Training images around the centre of their label, summed up so that one label can be taken out again."""

    def __init__(self, training: Answers, rng: np.random.Generator) -> None:
        directions = unit_length(training.embeddings)
        self._present, group = np.unique(training.targets, return_inverse=True)
        self._counts = np.bincount(group)
        self._centres = np.stack([directions[group == place].mean(axis=0) for place in range(len(self._present))])
        offsets = directions - self._centres[group]
        self._dimensions = offsets.shape[1]
        # one step of subspace iteration (Halko et al. 2011, algorithm 4.3), [D, R]
        drawn = rng.normal(size=(self._dimensions, min(_ROOM, self._dimensions))).astype(np.float32)
        self._basis = np.linalg.qr(offsets.T @ (offsets @ (offsets.T @ (offsets @ drawn))))[0]
        inside = offsets @ self._basis
        self._squares = np.stack([inside[group == place].T @ inside[group == place] for place in range(len(self._present))])
        self._energy = np.bincount(group, np.square(offsets).sum(axis=1))

    def without(self, label: int) -> Familiarity | None:
        """What would have been fitted if there were no image of a label; None where nothing would be left to fit."""
        kept: npt.NDArray[np.bool_] = self._present != label
        degrees = int(self._counts[kept].sum()) - int(kept.sum())
        values, vectors = np.linalg.eigh(self._squares[kept].sum(axis=0).astype(np.float64) / max(degrees, 1))
        others = self._dimensions - len(values)
        beyond = max(float(self._energy[kept].sum()) / max(degrees, 1) - float(values.sum()), 0.0) / max(others, 1)
        try:
            rank, rest = cut(np.concatenate([np.full(others, beyond), values]), degrees)
        except Lacking:
            return None
        axes = (self._basis @ vectors[:, ::-1][:, :rank]).T
        return Familiarity(self._centres[kept].astype(np.float64), axes, values[::-1][:rank], rest, np.empty(0))
