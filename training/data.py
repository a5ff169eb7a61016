"""Every image decoded once, into one uint8 array, by the function that the service uses.

Owns reading pixels, and where they are kept: in memory, or on disk where that is too small. What a file that does not
decode means for the data set is decided here: it is left out, counted and named. So are near copies, which only pixels
show: the splits are settled here, after one reading of every file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.dataset import SPLITS, Dataset, Item, Skipped, Split
from models.duplicates import group_copies, thumbnail
from models.errors import DatasetError, ImageError
from models.preprocess import load_image
from models.scan_report import ScanReport, describe_dataset
from training.memory import available_bytes
from training.progress import progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.holdout import Holdout
    from models.manifest import Preprocessing
    from models.recipe import Task

# Enough to judge by; reading the header of every file of a large folder would cost minutes.
_SIZE_SAMPLE = 200
SMALL_IMAGE_SIZE = 96
# The rest is for the network, its gradients, and everybody else.
SHARE_FOR_PIXELS = 0.5

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """The decoded images of one split: uint8 `[N, H, W, 3]`, what is to be learnt of them, and the files they came from.

    Targets are label indices, int64 `[N]`, with task `single_label`; float32 `[N, K]` of 0 and 1 with `multi_label`;
    and float32 `[N, 1]`, in the number's own unit, with `regression`. Pixels may be a memory-mapped file.
    """

    pixels: UInt8Array
    targets: npt.NDArray[Any]
    items: tuple[Item, ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.items)


class Decoded(NamedTuple):
    """A data set as it is trained on, its pixels, and what was found on the way."""

    dataset: Dataset
    splits: dict[Split, Images]
    report: ScanReport
    # Of each image that has near copies, by digest, what they have in common.
    copies: dict[str, str]


def decode_all(
    dataset: Dataset, preprocessing: Preprocessing, image_size: int, work_root: Path, holdout: Holdout | None = None
) -> Decoded:
    """Decode every image of the data set at `image_size` squared, once.

    Args:
        dataset: As scanned.
        preprocessing: The artifact's own.
        image_size: Pixels a side.
        work_root: Where pixels go that do not fit in memory.
        holdout: Images that must not be learnt from.

    Returns:
        The data set without the files that did not decode (they are in its `skipped`) and with near copies in one split and
        held-out images in none but test, the images of each split, and a report.

    Raises:
        DatasetError: If something is left with no image to train on, or the pixels fit neither in memory nor on disk.
    """
    pixels = _reserve((len(dataset.items), image_size, image_size, 3), work_root)

    def read(row: int) -> UInt8Array | Skipped:
        path = dataset.items[row].path
        try:
            pixels[row] = load_image(path.read_bytes(), preprocessing, image_size, image_size)
        except (ImageError, OSError) as err:
            return Skipped(path, str(err))
        return thumbnail(pixels[row])

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(progress(pool.map(read, range(len(pixels))), "reading images", len(pixels)))
    unreadable = [result for result in results if isinstance(result, Skipped)]
    copies, kinds = _copies(dataset, results, holdout)
    settled = dataset.without(unreadable).together(copies).withhold(kinds)
    settled.require_training()
    return Decoded(settled, _split(settled, dataset, pixels), describe_dataset(settled, unreadable, copies), copies)


def _copies(
    dataset: Dataset, results: Sequence[UInt8Array | Skipped], holdout: Holdout | None
) -> tuple[dict[str, str], dict[str, Literal["exact", "near"]]]:
    """Near copies among the images that decode, and how each is like a held-out one; of equal bytes one is looked at."""
    thumbnails = {
        item.digest: result for item, result in zip(dataset.items, results, strict=True) if not isinstance(result, Skipped)
    }
    ours = set(thumbnails)
    held: frozenset[str] = frozenset()
    if holdout is not None:
        held = holdout.digests()
        for image, small in zip(holdout.index.images, holdout.thumbnails(), strict=True):
            thumbnails.setdefault(image.digest, small)
    names = sorted(thumbnails)
    copies = group_copies(names, np.stack([thumbnails[name] for name in names])) if names else {}
    touched = {copies[digest] for digest in held if digest in copies}
    kinds: dict[str, Literal["exact", "near"]] = {name: "near" for name in ours if copies.get(name) in touched}
    kinds |= dict.fromkeys(ours & held, "exact")
    return {name: group for name, group in copies.items() if name in ours}, kinds


def _split(settled: Dataset, scanned: Dataset, pixels: UInt8Array) -> dict[Split, Images]:
    """Bring the rows into the order of the splits, where they lie: a second copy might not fit."""
    rows = {item.path: row for row, item in enumerate(scanned.items)}
    ordered = [item for split in SPLITS for item in settled.of(split)]
    _arrange(pixels, [rows[item.path] for item in ordered])
    splits: dict[Split, Images] = {}
    start = 0
    for split in SPLITS:
        if items := tuple(settled.of(split)):
            targets = _targets(items, settled.task, len(settled.labels))
            splits[split] = Images(pixels[start : start + len(items)], targets, items)
            start += len(items)
    return splits


def _arrange(pixels: UInt8Array, order: Sequence[int]) -> None:
    """Move rows in place, so that row k holds what was row `order[k]`; rows that are not in `order` end up behind."""
    chosen = set(order)
    sources = [*order, *(row for row in range(len(pixels)) if row not in chosen)]
    done = [row == source for row, source in enumerate(sources)]
    for start in range(len(sources)):
        if done[start]:
            continue
        held = pixels[start].copy()
        row = start
        while sources[row] != start:
            pixels[row] = pixels[sources[row]]
            done[row] = True
            row = sources[row]
        pixels[row] = held
        done[row] = True


def _targets(items: Sequence[Item], task: Task, labels: int) -> npt.NDArray[Any]:
    if task == "regression":
        return np.array([[item.target] for item in items], dtype=np.float32)
    if task == "single_label":
        return np.array([item.target for item in items], dtype=np.int64)
    targets = np.zeros((len(items), labels), dtype=np.float32)
    for row, item in enumerate(items):
        targets[row, list(item.target)] = 1  # type: ignore[arg-type]
    return targets


def _reserve(shape: tuple[int, ...], work_root: Path) -> UInt8Array:
    """Room for pixels: memory, or where half of what is free is too little, a file that is gone when it is let go of.

    Raises:
        DatasetError: If there is not enough room on disk either.
    """
    needed = int(np.prod(shape, dtype=np.int64))
    # torchrun's processes on one machine each hold all of the pixels.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    allowed = int(available_bytes() * SHARE_FOR_PIXELS / processes)
    if needed <= allowed:
        return np.empty(shape, dtype=np.uint8)
    work_root.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(work_root).free // processes):
        raise DatasetError(
            f"the decoded images take {needed} bytes; {allowed} may be used in memory, and {work_root} has {free} free on disk. "
            "Pass a smaller image_size, or use fewer images"
        )
    say(f"the decoded images take {needed / 1e9:.1f} GB; {allowed / 1e9:.1f} may be used in memory, so they go to {work_root}")
    descriptor, name = tempfile.mkstemp(prefix=".pixels-", dir=work_root)
    try:
        # Reserved now: a disk that fills up later would end the process without a word.
        os.posix_fallocate(descriptor, 0, needed)
        return np.memmap(name, dtype=np.uint8, mode="r+", shape=shape)
    finally:
        os.close(descriptor)
        # The mapping keeps the file's contents; nothing is left behind, however the process ends.
        Path(name).unlink()


def default_image_size(items: Sequence[Item], backbone_size: int, seed: int) -> int:
    """The backbone's size; 96 where the median short side is under half of it, since upscaling buys nothing."""
    chosen = np.random.default_rng(seed).permutation(len(items))[:_SIZE_SAMPLE]
    sides = [side for index in chosen if (side := _short_side(items[int(index)])) is not None]
    return SMALL_IMAGE_SIZE if sides and np.median(sides) < backbone_size / 2 else backbone_size


def _short_side(item: Item) -> int | None:
    try:
        with Image.open(item.path) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError):
        return None
