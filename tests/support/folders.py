"""Folders of images to train on, small enough to learn in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tests.support.pictures import COLOURS

if TYPE_CHECKING:
    from pathlib import Path


def write_colours(
    folder: Path, counts: dict[str, int], labels: tuple[str, ...] = ("red", "green", "blue"), seed: int = 0
) -> Path:
    """Noisy single-colour PNGs of 40x40: `counts` images a label below each split folder ("" for none)."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label in labels:
            target = folder / split / label
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = rng.integers(-60, 60, (40, 40, 3))
                pixels = np.clip(np.array(COLOURS[label]) * 0.6 + 40 + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(target / f"{number:03}.png")
    return folder
