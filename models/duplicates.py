"""Which images are nearly the same: one photograph encoded again, resized, or made a little brighter.

Compares thumbnails of decoded pixels. Candidates come from sorting by random projections (no image is compared with all
others), and each is then measured. How near is too near is calibrated on the data: trousers photographed one by one are
alike without being copies, so copies must be nearer by far than unrelated images of the same data set are. Mirrored,
turned and differently cut copies are not found. Knows nothing of files, labels or splits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.preprocess import UInt8Array

THUMBNAIL_PX = 16
# Distances are root mean square differences of two thumbnails after brightness and contrast are taken out, as a share of
# the contrast. Copies of photographs lie below 0.10, most below 0.03; unrelated ones rarely below 0.3.
MOST_DISTANCE, LEAST_DISTANCE = 0.10, 0.03
# Copies must be this much nearer than unrelated images are, for which the twentieth nearest stands, since nearer ones may
# be copies themselves. In Fashion-MNIST (70,000 images) that is 0.32 away, in photographs of all kinds 0.9.
SHARE_OF_USUAL, UNRELATED = 0.15, 20
# Images with less contrast than this, in grey levels, have nothing to be told apart by.
LEAST_CONTRAST = 4.0
# How much brighter, in grey levels, and how much higher in contrast a copy may be.
MOST_BRIGHTER, MOST_CONTRAST_RATIO = 40.0, 1.4
_SAMPLE = 400
_PASSES, _BITS, _WINDOW = 10, 32, 8
# The projections that a first estimate of a distance is made from, and how far it may be wrong.
_ESTIMATE, _SLACK = 32, 1.8
_CHUNK = 8192

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def thumbnail(pixels: UInt8Array) -> UInt8Array:
    """Shrink uint8 `[H, W, 3]` to `[16, 16, 3]`: plain averages, so that how a file was encoded matters little.

    Both sides are at least 16 pixels, and at most 4096.
    """
    (height, more), (width, wider) = (divmod(side, THUMBNAIL_PX) for side in pixels.shape[:2])
    if more or wider:
        return np.asarray(Image.fromarray(pixels).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX), dtype=np.uint8)
    # Sums of rows, then of columns: three times as fast as Pillow's resize, which counts for small images.
    rows = np.einsum("ars->as", pixels.reshape(THUMBNAIL_PX, height, -1), dtype=np.uint16)
    blocks = np.einsum("abcd->abd", rows.reshape(THUMBNAIL_PX, THUMBNAIL_PX, width, 3), dtype=np.uint32)
    return np.asarray(blocks // (height * width), dtype=np.uint8)


def group_copies(names: Sequence[str], thumbnails: UInt8Array) -> dict[str, str]:
    """Group images that are nearly the same.

    Args:
        names: What each image is called; unique (the hash of its file).
        thumbnails: uint8 `[N, 16, 16, 3]`, in the same order.

    Returns:
        The name of every image that has a copy, to the first name of its group, in alphabetical order.
    """
    parent = dict(zip(names, names, strict=True))

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in find_pairs(thumbnails):
        first, second = sorted((root(names[one]), root(names[other])))
        parent[second] = first
    found = {name: root(name) for name in names}
    copied = {first for name, first in found.items() if name != first}
    return {name: first for name, first in found.items() if first in copied}


def find_pairs(thumbnails: UInt8Array) -> list[tuple[int, int]]:
    """Pairs of indices of nearly equal images, each once; of many copies not every pair, but enough to connect them."""
    shapes = thumbnails.reshape(len(thumbnails), THUMBNAIL_PX**2, 3).astype(np.float32)
    means = np.einsum("npc->nc", shapes) / np.float32(shapes.shape[1])
    shapes -= means[:, None, :]
    units = shapes.reshape(len(thumbnails), 3 * THUMBNAIL_PX**2)
    lengths = np.sqrt(np.einsum("nd,nd->n", units, units))
    contrast = lengths / np.float32(np.sqrt(units.shape[1]))
    usable = np.flatnonzero(contrast >= LEAST_CONTRAST)
    if len(usable) < 2:
        return []
    units, means, contrast = units[usable] / lengths[usable, None], means[usable], contrast[usable]
    most = min(MOST_DISTANCE, max(LEAST_DISTANCE, SHARE_OF_USUAL * usual_distance(units)))
    pairs = _candidates(units, most)
    near = (
        (_distances(units, pairs) <= most)
        & (np.abs(means[pairs[:, 0]] - means[pairs[:, 1]]).max(axis=1) <= MOST_BRIGHTER)
        & (np.abs(np.log(contrast[pairs[:, 0]] / contrast[pairs[:, 1]])) <= np.log(MOST_CONTRAST_RATIO))
    )
    return [(int(one), int(other)) for one, other in usable[pairs[near]]]


def usual_distance(units: Floats) -> float:
    """How far unrelated images are: the distance of the twentieth nearest, the median over a sample.

    Args:
        units: float32 `[N, D]`, rows of length 1.
    """
    sample = units[np.unique(np.linspace(0, len(units) - 1, _SAMPLE).astype(np.int64))]
    # The nearest of all is the image itself.
    nearest = np.zeros((len(sample), UNRELATED + 1), dtype=np.float32)
    for start in range(0, len(units), _CHUNK):
        alike = np.concatenate([nearest, sample @ units[start : start + _CHUNK].T], axis=1)
        nearest = np.partition(alike, -UNRELATED - 1, axis=1)[:, -UNRELATED - 1 :]
    return float(np.median(_from_cosine(nearest.min(axis=1))))


def _from_cosine(alike: Floats) -> Floats:
    """What is left of one unit vector when the other is taken out of it."""
    return np.where(alike > 0, np.sqrt(np.clip(1 - alike**2, 0, 1)), 1).astype(np.float32)


def _distances(units: Floats, pairs: Indices) -> Floats:
    parts = [
        np.einsum("nd,nd->n", units[part[:, 0]], units[part[:, 1]]) for part in np.split(pairs, range(_CHUNK, len(pairs), _CHUNK))
    ]
    return _from_cosine(np.concatenate(parts))


def _candidates(units: Floats, most: float) -> Indices:
    """Pairs that may be nearer than `most`, int64 `[M, 2]`, in N log N: neighbours in several orders of random bits.

    The bits are the signs of random projections (Charikar 2002), around the data's mean so that they differ. Near images
    agree in the first bits, so sorting by them brings them together; in one of the orders, almost surely. Two by two pixels
    averaged are enough to find them by, and distances only shrink by it.
    """
    coarse = units.reshape(-1, THUMBNAIL_PX // 2, 2, THUMBNAIL_PX // 2, 2, 3)
    coarse = coarse[:, :, 0] + coarse[:, :, 1]
    centred = ((coarse[:, :, :, 0] + coarse[:, :, :, 1]) / 2).reshape(len(units), -1)
    centred -= centred.mean(axis=0)
    rng = np.random.default_rng(0)
    sketch = centred @ _directions(rng, centred.shape[1], _ESTIMATE) / np.float32(np.sqrt(_ESTIMATE))
    found: list[Indices] = [np.empty(0, dtype=np.int64)]
    for _ in range(_PASSES):
        bits = np.packbits(centred @ _directions(rng, centred.shape[1], _BITS) > 0, axis=1)
        order = np.argsort(bits.view(">u4").ravel(), kind="stable")
        ordered = sketch[order]
        for step in range(1, min(_WINDOW, len(order) - 1) + 1):
            gaps = ordered[step:] - ordered[:-step]
            near = np.flatnonzero(np.einsum("nd,nd->n", gaps, gaps) <= (_SLACK * most) ** 2)
            ends = np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1)
            found.append(ends[:, 0] * len(units) + ends[:, 1])
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // len(units), codes % len(units)], axis=1)


def _directions(rng: np.random.Generator, size: int, count: int) -> Floats:
    return rng.standard_normal((size, count), dtype=np.float32)
