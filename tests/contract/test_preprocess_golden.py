"""Preprocessing, pinned to the photographs in the repository: a change of decoder or filter shows here first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.preprocess import load_image, standard_preprocessing

SAMPLES = Path(__file__).resolve().parent.parent.parent / "samples"


@pytest.mark.parametrize(
    ("name", "mean"), [("cat.jpg", (146.4, 105.7, 73.7)), ("coffee.jpg", (155.1, 79.5, 49.3))], ids=["cat", "coffee"]
)
def test_photograph_is_what_it_was(name: str, mean: tuple[float, float, float]) -> None:
    image = load_image((SAMPLES / name).read_bytes(), standard_preprocessing(0.875), 224, 224)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), mean, atol=0.5)


@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_fast_path_is_close_to_decoding_every_pixel(name: str) -> None:
    """DCT-scaled decoding beside plain Pillow with the same box: what differs is only the scaling inside the decoder."""
    ours = load_image((SAMPLES / name).read_bytes(), standard_preprocessing(0.875), 224, 224).astype(float)
    with Image.open(SAMPLES / name) as photo:
        side = 0.875 * min(photo.size)
        left, upper = (photo.width - side) / 2, (photo.height - side) / 2
        box = (left, upper, left + side, upper + side)
        plain = np.asarray(photo.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, box=box), dtype=float)
    # The cat is all fine fur, the worst case there is; a shift by one pixel would be 9.
    assert np.abs(ours - plain).mean() < 4
