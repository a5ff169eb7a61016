"""Outputs of a model whose every answer is made up, over images that exist only as pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.dataset import Item
from training.data import Images
from training.subject import Outputs, Strange, Subject, name_images

if TYPE_CHECKING:
    from models.dataset import Split

ROOT = Path("/data/photos")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def images_of(split: Split, targets: np.ndarray, side: int = 8, *, names: dict[int, str] | None = None) -> Images:
    """Noise, one image a target; each file has bytes of its own. `names` replaces the file names of some rows."""
    pixels = np.random.default_rng(len(targets)).integers(0, 256, (len(targets), side, side, 3), dtype=np.uint8)
    items = []
    for row, target in enumerate(targets):
        name = (names or {}).get(row, f"{row:04}.png")
        meant: Any = tuple(np.flatnonzero(target).tolist()) if np.ndim(target) and len(target) > 1 else np.ravel(target)[0].item()
        items.append(Item(ROOT / split / name, meant, split, digest(f"{split}{row}")))
    return Images(pixels, targets, tuple(items))


def guesses(labels: int, count: int, seed: int, *, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Targets `[N]`, and logits `[N, K]` that are right more often the higher `skill` is; every label has an image."""
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(labels), rng.integers(0, labels, count - labels)])
    logits = rng.normal(size=(count, labels)) * 2
    logits[np.arange(count), targets] += skill
    return targets, logits.astype(np.float32)


def made_up(count: int = 4, sizes: dict[str, int] | None = None, seed: int = 0, /, **changes: Any) -> Subject:
    """A subject of `count` labels and `sizes` images a split, with features that tell them apart; `changes` replace fields."""
    outputs: dict[Any, Outputs] = {}
    for number, (split, size) in enumerate((sizes or {"train": 60, "validation": 30, "calibration": 30, "test": 80}).items()):
        targets, logits = guesses(count, size, seed + number)
        features = np.eye(count, 16)[targets] * 3 + np.random.default_rng(seed + number).normal(size=(size, 16))
        outputs[split] = Outputs(images_of(split, targets), logits, features.astype(np.float32))  # type: ignore[arg-type]
    fields: dict[str, Any] = {
        "task": "single_label",
        "labels": tuple(f"label {index}" for index in range(count)),
        "outputs": outputs,
        "temperature": 1.3,
        "root": ROOT,
        "strange": strange(outputs),
    }
    return Subject(**(fields | changes))


def strange(outputs: dict[Any, Outputs]) -> Strange:
    """Calibration and test images in an order that has nothing to do with how sure the model is of them."""
    names = name_images(outputs)
    ids = [name for split in ("calibration", "test") if split in names for name in names[split] if name is not None]
    drawn = np.random.default_rng(len(ids)).permutation(ids).tolist()
    return Strange({name: (place + 1) / (len(drawn) + 1) for place, name in enumerate(drawn)})
