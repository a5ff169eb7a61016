"""How strange images of a label look to familiarity that does not know it, one label after another.

The nearest thing to images of new labels that the data has. It flatters: the network learnt that label, and the spread within
labels was measured with it; only its centre is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.confidence.schema import LeftOut
from training.confidence.separation import auroc

if TYPE_CHECKING:
    from models.confidence.conformal import FloatArray
    from models.confidence.familiarity import Familiarity
    from training.confidence.promises import Tried

# Distances that are held at once.
_MOST_NUMBERS = 4_000_000


def leave_out(tried: Tried) -> tuple[LeftOut, ...] | None:
    """Of every label with test images, and with others to tell them from; None where labels do not part the images."""
    familiarity = tried.judge.evidence.familiarity
    if familiarity is None or tried.judge.task != "single_label" or not 1 < len(tried.labels) == len(familiarity.centres):
        return None
    nearest, first, second = _two_nearest(familiarity, tried)
    found = []
    for index, label in enumerate(tried.labels):
        is_own = tried.test.targets == index
        if is_own.any() and not is_own.all():
            # without that label's centre the second nearest is the nearest
            far = np.where(nearest == index, second, first)
            found.append(LeftOut(label=label, auroc=auroc(far[is_own], far[~is_own])))
    return tuple(found)


def _two_nearest(familiarity: Familiarity, tried: Tried) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The nearest centre of each test image, and the distances to that and to the second nearest, `[N]` each."""
    embeddings, step = tried.test.embeddings, max(1, _MOST_NUMBERS // (len(familiarity.centres) * len(familiarity.axes)))
    parts = []
    for start in range(0, len(embeddings), step):
        to_each = familiarity.distance_to_each(embeddings[start : start + step])
        rows = np.arange(len(to_each))
        order = np.argpartition(to_each, 1, axis=1)[:, :2]
        parts.append(np.stack([order[:, 0], to_each[rows, order[:, 0]], to_each[rows, order[:, 1]]]))
    nearest, first, second = np.concatenate(parts, axis=1)
    return nearest, first, second
