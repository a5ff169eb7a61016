"""Pictures that tell a wrong turn, a wrong crop and a wrong colour from the right one, and cameras that turn them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tests.support.pictures import encode

ORIENTATION = 0x0112


def plain(colour: Any = (200, 100, 50), width: int = 20, height: int = 20, mode: str = "RGB") -> Image.Image:
    """One colour all over."""
    return Image.new(mode, (width, height), colour)


def quarters(width: int, height: int) -> Image.Image:
    """Red, green, blue and grey corners that fade into one another: no turn and no mirror looks like another."""
    corners = np.array([[(230, 20, 20), (20, 200, 20)], [(20, 20, 220), (128, 128, 128)]], dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Independent pixels, which compress badly."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def oriented(upright: Image.Image, orientation: int, kind: str = "JPEG", **options: Any) -> bytes:
    """`upright` as a camera stores it under an EXIF orientation: which side the first row and the first column are.

    Written from the table in EXIF 2.32, section 4.6.4, and not with Pillow's own turns, which the code under test uses.
    """
    pixels = np.asarray(upright)
    across = pixels.swapaxes(0, 1)
    stored = {
        1: pixels,  # first row is the top, first column is the left
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: across,  # left, top
        6: across[::-1],  # right, top
        7: across[::-1, ::-1],  # right, bottom
        8: across[:, ::-1],  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
