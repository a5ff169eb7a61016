"""Images that are of none of the labels, to see whether the version can tell: made up, or read from a folder.

A fifth each: noise, gradients, text, textures, and patches of the others shuffled.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from models.dataset import SUFFIXES
from models.errors import ImageError
from models.preprocess import load_image
from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.manifest import Preprocessing

COUNT = 200
# Of a folder; more would add minutes and no certainty.
_MOST_READ = 1000
_TILES = 4
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-+=()"))

UInt8Array = npt.NDArray[np.uint8]
Drawing = npt.NDArray[np.floating]


def made_up(image_size: int, seed: int, count: int = COUNT) -> UInt8Array:
    """Draw images, uint8 `[count, size, size, 3]`; the same ones for a seed."""
    rng = np.random.default_rng(seed)
    kinds: list[Callable[[int, np.random.Generator], Drawing]] = [_noise, _gradient, _text, _texture]
    drawn: list[Drawing] = []
    for index in range(count):
        kind = index % (len(kinds) + 1)
        drawn.append(_shuffled(drawn[-len(kinds) :], image_size, rng) if kind == len(kinds) else kinds[kind](image_size, rng))
    return np.stack([np.clip(image, 0, 255).astype(np.uint8) for image in drawn])


def read_unrelated(folder: Path, preprocessing: Preprocessing, image_size: int) -> UInt8Array:
    """Read the images below a folder as the service would, uint8 `[N, size, size, 3]`: at most 1,000, in the paths' order.

    Raises:
        TrainingError: If there is none.
    """
    found: list[UInt8Array] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            found.append(load_image(path.read_bytes(), preprocessing, image_size, image_size))
        except (ImageError, OSError):
            continue
        if len(found) == _MOST_READ:
            break
    if not found:
        raise TrainingError(f"--unrelated {folder}: there is no image below it that can be read")
    return np.stack(found)


def _noise(size: int, rng: np.random.Generator) -> Drawing:
    """Fine or coarse, grey or coloured."""
    cells, channels = min(size, int(rng.choice([4, 8, 16, 32, size]))), int(rng.choice([1, 3]))
    drawn = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
    coloured = Image.fromarray(np.repeat(drawn, 3 // channels, axis=2))
    return np.asarray(coloured.resize((size, size), Image.Resampling.NEAREST), dtype=np.float64)


def _gradient(size: int, rng: np.random.Generator) -> Drawing:
    """From one colour to another, along a line or away from a point."""
    x, y = _plane(size)
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        share = (x * np.cos(angle) + y * np.sin(angle) + 1) / 2
    else:
        share = np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1)) / 2
    return _between(np.clip(share, 0, 1), rng)


def _text(size: int, rng: np.random.Generator) -> Drawing:
    """Lines of letters that mean nothing."""
    ground = rng.integers(0, 256, 3)
    image = Image.new("RGB", (size, size), tuple(ground.tolist()))
    draw, height = ImageDraw.Draw(image), max(8, int(size * rng.uniform(0.08, 0.3)))
    font, ink = ImageFont.load_default(height), tuple(((ground + 128) % 256).tolist())
    for top in range(0, size, height):
        draw.text((0, top), "".join(rng.choice(_LETTERS, 24)), fill=ink, font=font)
    return np.asarray(image, dtype=np.float64)


def _texture(size: int, rng: np.random.Generator) -> Drawing:
    """Waves over each other, or stripes and checks where they are cut off."""
    x, y = _plane(size)
    waves = [
        np.sin(rng.uniform(4, 40) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
        for angle in rng.uniform(0, np.pi, int(rng.integers(1, 4)))
    ]
    height = np.prod(waves, axis=0)
    return _between((np.sign(height) if rng.random() < 0.5 else height) / 2 + 0.5, rng)


def _shuffled(images: list[Drawing], size: int, rng: np.random.Generator) -> Drawing:
    """Patches of several images, each from anywhere."""
    drawn = np.empty((size, size, 3))
    edges = np.linspace(0, size, _TILES + 1).astype(int)
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            row, column = rng.integers(0, size - (bottom - top) + 1), rng.integers(0, size - (right - left) + 1)
            source = images[rng.integers(len(images))]
            drawn[top:bottom, left:right] = source[row : row + bottom - top, column : column + right - left]
    return drawn


def _plane(size: int) -> tuple[Drawing, Drawing]:
    """The x and y of every pixel, -1 to 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    return x, y


def _between(share: Drawing, rng: np.random.Generator) -> Drawing:
    """Two colours, mixed: `[h, w]` in 0..1 to `[h, w, 3]`."""
    first, second = rng.integers(0, 256, (2, 3))
    return share[..., None] * first + (1 - share[..., None]) * second
