"""Labels that may be wrong: what a model that never saw an image's label makes of the image.

Each image is judged by a linear discriminant fitted on the other four fifths of the data, on the features of the network
from before it was fine-tuned: a network that was trained with a wrong label has learnt it by heart and finds nothing. The
discriminant has a closed form, so that a hundred thousand images of a thousand labels take seconds, and it finds flipped
labels at least as well as logistic regression does (docs/report.md has both).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.decision import probabilities
from models.review import CONFIDENT
from models.review_schema import Suspect, Suspects
from training.calibrate import fit_temperature
from training.subject import rounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.dataset import Item, Split
    from training.subject import Subject

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]
FOLDS = 5
MOST_SUSPECTS = 200
# How far the covariance is drawn towards a sphere: features are many, images few.
SHRINKAGE = 0.3
_ROWS = 8192
# Logits that the temperature is fitted on: enough for one number.
_MOST_LOGITS = 4_000_000
_METHOD = (
    f"Each image was judged by a linear model fitted on the other four fifths ({FOLDS} folds), on features from before "
    "fine-tuning, and is in doubt where another label is at least as probable as is usual for images of that label (confident "
    "learning, Northcutt et al. 2021)."
)


@dataclass(frozen=True)
class _Pool:
    """Every image that may be judged: features `[N, D]`, given labels `[N]`."""

    features: npt.NDArray[np.float32]
    labels: IntArray
    items: list[Item]
    names: list[str]


def suspects(subject: Subject, names: Mapping[Split, list[str | None]]) -> tuple[Suspects | None, str | None]:
    """Look for wrong labels in every split that has embeddings.

    Returns:
        What was found, or None and the reason.
    """
    pool = _pool(subject, names)
    if pool is None:
        return None, "there are no features from before fine-tuning to look for wrong labels with"
    counts = np.bincount(pool.labels, minlength=len(subject.labels))
    enough = counts >= FOLDS
    if enough.sum() < 2:
        return None, f"looking for wrong labels takes {FOLDS} images of at least two labels"
    rows = np.flatnonzero(enough[pool.labels])
    known = np.flatnonzero(enough)
    given = np.searchsorted(known, pool.labels[rows])
    stated = out_of_fold(pool.features[rows], given, len(known))
    suggested = confident_joint(stated, given)
    p_label = stated[np.arange(len(given)), given]
    doubted = np.flatnonzero(suggested != given)
    doubted = doubted[np.argsort(p_label[doubted], kind="stable")]
    listed = tuple(
        Suspect(
            id=pool.names[rows[row]],
            path=subject.path_of(pool.items[rows[row]]),
            split=pool.items[rows[row]].split,
            label=subject.labels[known[given[row]]],
            suggested=subject.labels[known[suggested[row]]],
            p_label=rounded(p_label[row]),
            p_suggested=rounded(stated[row, suggested[row]]),
        )
        for row in doubted[:MOST_SUSPECTS]
    )
    few = int((~enough).sum())
    left_out = f" {few} labels with fewer than {FOLDS} images were left out." if few else ""
    agreed = float((stated.argmax(axis=1) == given).mean())
    found = Suspects(method=_METHOD + left_out, folds=FOLDS, images=len(rows), accuracy=agreed, found=len(doubted), listed=listed)
    return found, None


def _pool(subject: Subject, names: Mapping[Split, list[str | None]]) -> _Pool | None:
    """All images but copies: one that was in another fold with its label would vouch for it."""
    parts, labels, items, kept = [], [], [], []
    for split, out in subject.outputs.items():
        if out.embeddings is None:
            continue
        rows = [row for row, name in enumerate(names[split]) if name is not None]
        parts.append(out.embeddings[rows])
        labels.append(out.images.targets[rows])
        items += [out.images.items[row] for row in rows]
        kept += [str(names[split][row]) for row in rows]
    if not parts:
        return None
    return _Pool(np.concatenate(parts), np.concatenate(labels), items, kept)


def confident_joint(stated: FloatArray, given: IntArray) -> npt.NDArray[np.intp]:
    """The label that each image is counted under, `[N]`, by confident learning (Northcutt et al. 2021, eq. 1 and 2).

    A label is taken seriously for an image when its probability is at least what images given that label have on average,
    or 0.9 where they have more: where all is clear, half of the images are below the average, and wrong labels are among
    them. Of those that are, the most probable counts; the given label stands where none is, and on a tie.

    Args:
        stated: Out-of-fold probabilities, `[N, K]`.
        given: `[N]`; each label has an image.
    """
    totals = np.bincount(given, weights=stated[np.arange(len(given)), given], minlength=stated.shape[1])
    usual = np.minimum(totals / np.bincount(given, minlength=stated.shape[1]), CONFIDENT).astype(stated.dtype)
    counted = np.array(given, dtype=np.intp)
    for start in range(0, len(given), _ROWS):
        part = slice(start, start + _ROWS)
        own = stated[part][np.arange(len(counted[part])), counted[part]]
        serious = np.where(stated[part] >= usual, stated[part], -1.0)
        counted[part] = np.where(serious.max(axis=1) > own, serious.argmax(axis=1), counted[part])
    return counted


def out_of_fold(features: npt.NDArray[np.float32], labels: IntArray, num_labels: int) -> npt.NDArray[np.float32]:
    """Calibrated probabilities of every label, from a model that was fitted without the image, float32 `[N, K]`.

    Args:
        features: `[N, D]`.
        labels: `[N]`, each label at least five times.
        num_labels: K, at least 2.
    """
    centred = features - features.mean(axis=0)
    fold = stratified_folds(labels, num_labels)
    parts = [_moments(centred[fold == one], labels[fold == one], num_labels) for one in range(FOLDS)]
    logits = np.empty((len(labels), num_labels), dtype=np.float32)
    for one in range(FOLDS):
        weight, bias = _discriminant([part for index, part in enumerate(parts) if index != one])
        logits[fold == one] = centred[fold == one] @ weight.T + bias
    return _calibrated(logits, labels)


def stratified_folds(labels: IntArray, num_labels: int) -> npt.NDArray[np.intp]:
    """The fold of each image, `[N]` in 0..4: the images of every label are dealt out, in an order that is drawn."""
    rng = np.random.default_rng(0)
    fold = np.empty(len(labels), dtype=np.intp)
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.searchsorted(labels[order], np.arange(1, num_labels))):
        fold[rng.permutation(rows)] = (np.arange(len(rows)) + rng.integers(FOLDS)) % FOLDS
    return fold


_Moments = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _moments(features: npt.NDArray[np.float32], labels: IntArray, num_labels: int) -> _Moments:
    """Of one fold: images of each label `[K]`, sums `[K, D]`, and sums of products `[D, D]`; those of folds add up."""
    counts = np.bincount(labels, minlength=num_labels).astype(np.float64)
    sums = np.zeros((num_labels, features.shape[1]))
    products = np.zeros((features.shape[1], features.shape[1]))
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums[present] = np.add.reduceat(features[order].astype(np.float64), starts, axis=0)
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS]
        products += rows.T @ rows
    return counts, sums, products


def _discriminant(parts: list[_Moments]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights `[K, D]` and biases `[K]` of Gaussians with one covariance: log of the share of the label, and of its density."""
    counts, sums, products = (sum(values[1:], start=values[0]) for values in zip(*parts, strict=True))
    means = sums / counts[:, None]
    covariance = (products - means.T @ sums) / max(counts.sum() - len(counts), 1)
    size = len(covariance)
    # Features that never vary would make it singular.
    sphere = max(float(np.trace(covariance)) / size, 1e-12) * np.eye(size)
    weight = np.linalg.solve((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere, means.T).T
    bias = np.log(counts / counts.sum()) - (weight * means).sum(axis=1) / 2
    return weight.astype(np.float32), bias.astype(np.float32)


def _calibrated(logits: npt.NDArray[np.float32], labels: IntArray) -> npt.NDArray[np.float32]:
    """Softmax with the temperature that fits best, in place: a discriminant on few images is far too sure of itself."""
    logits /= max(float(logits.std()), 1e-12)
    shown = np.random.default_rng(0).permutation(len(labels))[: max(_MOST_LOGITS // logits.shape[1], 1)]
    temperature = fit_temperature(logits[shown], labels[shown])
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        logits[rows] = probabilities(logits[rows], temperature)
    return logits
