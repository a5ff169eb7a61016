"""A heatmap laid over the image that the model saw, as a PNG: red speaks for the label, blue against it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

_FOR, _AGAINST = np.array([214.0, 39.0, 40.0]), np.array([31.0, 119.0, 180.0])
_STRONGEST = 0.65
_TINY = 1e-12


def overlay_png(heatmap: npt.NDArray[np.float64], pixels: npt.NDArray[np.uint8]) -> bytes:
    """Draw a map over an image, in grey so that only the map has colour.

    Args:
        heatmap: `[h, w]`, of either sign; the largest absolute value has the strongest colour.
        pixels: uint8 `[H, W, 3]`.
    """
    height, width = pixels.shape[:2]
    scaled = (heatmap / max(float(np.abs(heatmap).max()), _TINY)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(scaled).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)[..., None]
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    weight = np.clip(np.abs(smooth), 0, 1) * _STRONGEST
    drawn = grey * (1 - weight) + np.where(smooth >= 0, _FOR, _AGAINST) * weight
    buffer = io.BytesIO()
    Image.fromarray(drawn.round().clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
