"""Choose the known images that a new one is compared with, and score calibration images as if each were new."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.confidence.bank import Bank
from models.confidence.familiarity import unit_length
from training.confidence.answers import MOST_OF_A_LABEL, draw_of_each, fair_share
from training.confidence.lacking import Lacking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.confidence.conformal import FloatArray
    from training.confidence.answers import Answers

# A search through so many takes 2 ms, without an index.
MOST_IMAGES = 5000
_BATCH = 256


def make_bank(training: Answers, calibration: Answers, labels: int, seed: int) -> tuple[Bank, npt.NDArray[np.intp]]:
    """Calibration images, half of the bank at most, and training images, both thinned evenly over the labels.

    Args:
        training: With one label an image.
        calibration: Likewise; held out.
        labels: How many.
        seed: Of what is drawn.

    Returns:
        The bank as it will be read back, and the row of each calibration image in it, `[N]`; -1 for what was left out.

    Raises:
        Lacking: If there are so many labels that not each has a place.
    """
    rng = np.random.default_rng(seed)
    held_out = _thin(calibration, labels, MOST_IMAGES // 2, rng)
    chosen = _joined([(calibration, held_out), (training, _thin(training, labels, MOST_IMAGES - len(held_out), rng))])
    if not len(chosen.labels):
        raise Lacking(f"of {labels} labels not each has a place among {MOST_IMAGES} known images")
    order = np.argsort(chosen.labels, kind="stable")
    bank = Bank(*(getattr(chosen, part.name)[order] for part in fields(Bank)))
    place = np.full(len(calibration), -1, dtype=np.intp)
    place[held_out] = np.argsort(order, kind="stable")[: len(held_out)]
    return Bank.from_arrays(bank.arrays()), place


def _thin(answers: Answers, labels: int, room: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    most = fair_share(np.bincount(answers.targets, minlength=labels), room, MOST_OF_A_LABEL)
    return draw_of_each(answers.targets, most, rng)


def _joined(parts: Sequence[tuple[Answers, npt.NDArray[np.intp]]]) -> Bank:
    return Bank(
        directions=np.concatenate([unit_length(answers.embeddings[rows]) for answers, rows in parts]),
        labels=np.concatenate([answers.targets[rows] for answers, rows in parts]),
        predicted=np.concatenate([answers.logits[rows].argmax(axis=1) for answers, rows in parts]),
        is_held_out=np.concatenate([np.full(len(rows), place == 0) for place, (_, rows) in enumerate(parts)]),
        ids=np.concatenate([answers.ids[rows] for answers, rows in parts]),
    )


def trust_left_out(bank: Bank, place: npt.NDArray[np.intp], calibration: Answers) -> FloatArray:
    """Trust scores of calibration images, `[N]`, each without itself among the known ones.

    Args:
        bank: Known images.
        place: Each image's own row in the bank, `[N]`; -1 for none.
        calibration: The images.
    """
    predicted, scores = calibration.logits.argmax(axis=1), []
    for start in range(0, len(calibration), _BATCH):
        part = slice(start, start + _BATCH)
        similar = bank.similarities(unit_length(calibration.embeddings[part]))
        own = place[part]
        known = np.flatnonzero(own >= 0)
        similar[known, own[known]] = -np.inf
        scores += [bank.trust(row, int(label)) for row, label in zip(similar, predicted[part], strict=True)]
    return np.array(scores, dtype=np.float64)
