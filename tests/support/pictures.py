"""Image files in memory."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0), "white": (255, 255, 255)}


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(
    colour: str = "red", format: str = "PNG", size: tuple[int, int] = (48, 40), mode: str = "RGB", **options: Any
) -> bytes:
    """One colour, in any format and mode."""
    return encode(Image.new("RGB", size, COLOURS[colour]).convert(mode), format, **options)


def side_by_side(left: str, right: str) -> bytes:
    """Half an image of each colour, as PNG; square, so that nothing is cropped."""
    image = Image.new("RGB", (40, 40), COLOURS[left])
    image.paste(COLOURS[right], (20, 0, 40, 40))
    return encode(image, "PNG")


def huge_png() -> bytes:
    """81 megapixels in a few kilobytes."""
    return encode(Image.new("1", (9000, 9000)), "PNG")


def large_jpeg() -> bytes:
    """48 megapixels, as a phone takes them."""
    return encode(Image.new("RGB", (8000, 6000), (0, 0, 255)), "JPEG", quality=50)
