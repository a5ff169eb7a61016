"""Which held-out images look strangest to the network that is about to be published: known only once it is exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.confidence.familiarity import distances, p_left_out, p_values_of
from training.subject import Strange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.confidence.familiarity import Familiarity
    from models.dataset import Split
    from training.confidence.answers import Answers

# Validation images are asked about nowhere else, and would take as long as test once more.
_RANKED: tuple[Split, ...] = ("calibration", "test")


def find_strange(familiarity: Familiarity | None, answers: Mapping[Split, Answers], reason: str) -> Strange:
    """Rank calibration images, each among the others, and test images by how strange they are; of equals the farther first.

    Args:
        familiarity: What strange is; None where that is not known.
        answers: By split, one of the two at least; one that is not there has no image in the ranking.
        reason: Why it is not known.
    """
    if familiarity is None:
        return Strange(None, reason)
    asked = {split: answers[split] for split in _RANKED if split in answers}
    far = {split: distances(familiarity, one.embeddings) for split, one in asked.items()}
    p = np.concatenate([(p_left_out if split == "calibration" else p_values_of)(familiarity, far[split]) for split in asked])
    ids = np.concatenate([one.ids for one in asked.values()])
    order = np.lexsort((-np.concatenate(list(far.values())), p))
    # a copy has no name, and is listed under that of the first
    return Strange({str(ids[row]): float(p[row]) for row in order if ids[row]})
