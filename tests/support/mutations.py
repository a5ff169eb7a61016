"""Image files of every kind that is read, and what becomes of one when bytes of it are changed, lost, doubled or swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tests.support.images import noise, oriented, quarters
from tests.support.pictures import encode, picture

if TYPE_CHECKING:
    from collections.abc import Iterator

# Numbers that lengths and sizes overflow at.
_ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def originals() -> list[bytes]:
    """Small files, so that what is changed is rarely a pixel alone."""
    frames = [noise(20, 20, seed) for seed in range(3)]
    grey16 = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160)
    return [
        *(encode(quarters(40, 30), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF")),
        encode(quarters(40, 30), "JPEG", progressive=True),
        picture("blue", "JPEG", mode="CMYK"),
        picture("blue", mode="P"),
        picture("blue", mode="RGBA"),
        picture("blue", mode="LA"),
        encode(grey16, "PNG"),
        encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        oriented(quarters(40, 30), 6),
        oriented(quarters(40, 30), 8, "PNG"),
    ]


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """`count` files, each an original with one to four changes."""
    rng, files = np.random.default_rng(seed), originals()
    for number in range(count):
        data = bytearray(files[number % len(files)])
        for _ in range(int(rng.integers(1, 5))):
            data = _change(data, files, rng)
        yield bytes(data)


def _change(data: bytearray, files: list[bytes], rng: np.random.Generator) -> bytearray:
    if not data:
        return data
    # Headers are where it hurts.
    bound = len(data) if rng.random() < 0.5 else min(len(data), 64)
    start = int(rng.integers(0, bound))
    end = min(len(data), start + int(rng.integers(1, 16)))
    match rng.integers(0, 7):
        case 0:
            data[start] ^= 1 << int(rng.integers(0, 8))
        case 1:
            data[start:end] = rng.bytes(end - start)
        case 2:
            width = int(rng.choice([1, 2, 4]))
            number = int(rng.choice(_ODD)) & ((1 << 8 * width) - 1)
            data[start : start + width] = number.to_bytes(width, "big" if rng.random() < 0.5 else "little")
        case 3:
            del data[start:end]
        case 4:
            data[start:start] = data[start:end]
        case 5:
            del data[start:]
        case _:
            other = files[int(rng.integers(0, len(files)))]
            data[start:] = other[min(start, len(other)) :]
    return data
