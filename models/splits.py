"""Who trains, who validates, who calibrates, who tests: the draw, and the copies that must not cross it.

Where the layout gives no splits, or leaves out validation or calibration, they are drawn here: seeded, stratified, with
copies of one image kept together. The order of the draw is that of sha256(seed, image), so that images that are added
later, renamed or found unreadable move hardly any other. Knows nothing of pixels: who is a copy of whom is told to it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from models.recipe import Task

Split = Literal["train", "validation", "calibration", "test"]
# From training on, ever stricter: of two copies the one in the later split is kept.
SPLITS: tuple[Split, ...] = ("train", "validation", "calibration", "test")
# The index of the one label; the indices of all that hold, ascending; or the number.
Target = int | tuple[int, ...] | float
# Shares of one folder that is split for you; what is left is for training.
HELD_OUT: dict[Split, float] = {"validation": 0.10, "calibration": 0.15, "test": 0.15}
# Below this many images of a label there is no calibration split: validation serves, and says so ("partial").
MIN_FOR_CALIBRATION = 20
# A validation folder with this many images a label gives half of them to calibration.
MIN_TO_HALVE_VALIDATION = 40
VALIDATION_FROM_TRAIN = 0.15
# Numbers are stratified by quantiles: as many as leave each this many images, and no more than ten.
IMAGES_A_QUANTILE, MOST_QUANTILES = 20, 10
# The stratum of an image without a label, which `multi_label` allows.
_NO_LABEL = -1


@dataclass(frozen=True)
class Item:
    """One image file: its path, what is to be learnt of it, its split, and the sha256 of its bytes."""

    path: Path
    target: Target
    split: Split
    digest: str


@dataclass(frozen=True)
class Draw:
    """How the splits came about: those that the layout gives, and the seed by which the others are drawn."""

    seed: int
    given: frozenset[Split]

    def source(self, item: Item) -> Split | None:
        """The split in which the layout has an item, before any draw; None where it gives none at all."""
        if not self.given:
            return None
        return item.split if item.split in self.given else self.drawn_from

    @property
    def drawn_from(self) -> Split:
        """Where the layout gives splits: the one from which those are drawn that it leaves out."""
        return "validation" if "validation" in self.given else "train"


@dataclass(frozen=True)
class Leak:
    """An image that a stricter split holds too: it must not be trained or chosen on. `kept` is the one that stays.

    Both have the split that the layout gives them.
    """

    item: Item
    kept: Item
    kind: Literal["exact", "near"]


def find_leaks(items: Iterable[Item], draw: Draw, copies: Mapping[str, str]) -> Iterator[Leak]:
    """Copies across the splits that the layout gives, less the one in the strictest split.

    Args:
        items: All images.
        draw: Which of their splits are given.
        copies: Digest to the name of its group of copies; a digest that is not there is a group of its own.
    """
    given = [replace(item, split=draw.source(item) or "train") for item in items]
    strictest: dict[str, Item] = {}
    for item in given:
        group = copies.get(item.digest, item.digest)
        if group not in strictest or SPLITS.index(item.split) > SPLITS.index(strictest[group].split):
            strictest[group] = item
    for item in given:
        kept = strictest[copies.get(item.digest, item.digest)]
        if item.split != kept.split:
            yield Leak(item, kept, "exact" if item.digest == kept.digest else "near")


def assign(items: Sequence[Item], task: Task, labels: int, draw: Draw, copies: Mapping[str, str]) -> tuple[Item, ...]:
    """Give every image its split: the layout's, or the draw's. Test images that are given are never moved.

    Args:
        items: All images; each group of copies lies in one given split.
        task: Decides what is stratified: the label, the rarest label, or quantiles of the number.
        labels: How many labels there are.
        draw: The seed, and what is given.
        copies: Digest to the name of its group of copies, which share a split.
    """

    def group(item: Item) -> str:
        return copies.get(item.digest, item.digest)

    if not draw.given:
        taken = _divide(_groups(items, task, group), HELD_OUT, draw.seed)
        return tuple(replace(item, split=taken.get(group(item), "train")) for item in items)
    source = draw.drawn_from
    pool = [item for item in items if draw.source(item) == source]
    drawn: dict[str, Split] = {}
    if source == "train":
        drawn = _divide(_groups(pool, task, group), {"validation": VALIDATION_FROM_TRAIN}, draw.seed)
        pool = [item for item in pool if group(item) in drawn]
    if "calibration" not in draw.given and _smallest_label(pool, task, labels) >= MIN_TO_HALVE_VALIDATION:
        drawn |= _divide(_groups(pool, task, group), {"calibration": 0.5}, draw.seed)

    def split(item: Item) -> Split:
        given = draw.source(item)
        return drawn.get(group(item), source) if given is None or given == source else given

    return tuple(replace(item, split=split(item)) for item in items)


@dataclass(frozen=True)
class _Group:
    """Copies of one image, by name: how many, and the rarest stratum of theirs."""

    name: str
    size: int
    stratum: int


def _groups(items: Sequence[Item], task: Task, name: Callable[[Item], str]) -> list[_Group]:
    strata = _strata(items, task)
    frequency = Counter(strata)
    sizes: Counter[str] = Counter()
    rarest: dict[str, int] = {}
    for item, stratum in zip(items, strata, strict=True):
        key = name(item)
        sizes[key] += 1
        rarest[key] = min(rarest.get(key, stratum), stratum, key=lambda one: (frequency[one], one))
    return [_Group(key, size, rarest[key]) for key, size in sizes.items()]


def _strata(items: Sequence[Item], task: Task) -> list[int]:
    """What is kept in proportion: the label, the rarest label of several, or the quantile of a number."""
    if task == "regression":
        values = np.array([item.target for item in items], dtype=np.float64)
        bins = max(1, min(MOST_QUANTILES, len(values) // IMAGES_A_QUANTILE))
        edges = np.quantile(values, np.arange(1, bins) / bins) if len(values) else values
        return [int(index) for index in np.searchsorted(edges, values, side="right")]
    held = [_held(item.target) for item in items]
    frequency = Counter(label for labels in held for label in labels)
    return [min(labels, key=lambda label: (frequency[label], label), default=_NO_LABEL) for labels in held]


def _held(target: Target) -> tuple[int, ...]:
    return target if isinstance(target, tuple) else (int(target),)


def _divide(groups: Sequence[_Group], shares: dict[Split, float], seed: int) -> dict[str, Split]:
    """Draw held-out splits stratum by stratum, group by group; what is not drawn is not in the answer."""
    strata: dict[int, list[_Group]] = defaultdict(list)
    for group in groups:
        strata[group.stratum].append(group)
    drawn: dict[str, Split] = {}
    for members in strata.values():
        waiting = sorted(members, key=lambda group: hashlib.sha256(f"{seed}:{group.name}".encode()).digest())
        for split, quota in _quotas(waiting, shares).items():
            taken = _fill(waiting, quota, most=len(members) - 1 - sum(group.name in drawn for group in members))
            drawn.update((group.name, split) for group in taken)
            waiting = [group for group in waiting if group.name not in drawn]
    return drawn


def _fill(groups: Sequence[_Group], quota: int, most: int) -> list[_Group]:
    """Take groups in turn, each that brings the images nearer to `quota`: one of half a label's images stays to train on."""
    taken: list[_Group] = []
    images = 0
    for group in groups:
        if len(taken) < most and group.size <= 2 * (quota - images):
            taken.append(group)
            images += group.size
    return taken


def _quotas(groups: Sequence[_Group], shares: dict[Split, float]) -> dict[Split, int]:
    """How many of a stratum's images each held-out split should get; of two images one is for validation."""
    images = sum(group.size for group in groups)
    quotas = {split: round(images * share) for split, share in shares.items()}
    if shares is HELD_OUT and len(groups) < MIN_FOR_CALIBRATION:
        quotas["calibration"] = 0
    if "validation" in quotas:
        quotas["validation"] = max(quotas["validation"], 1)
    return quotas


def _smallest_label(items: Sequence[Item], task: Task, labels: int) -> int:
    """Images of the label that has fewest; a regression has one label, and every image is of it."""
    if task == "regression":
        return len(items)
    counts = Counter(label for item in items for label in _held(item.target))
    return min(counts[label] for label in range(labels))
