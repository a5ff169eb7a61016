from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from models.confidence.heatmap import Head, activation_map, contrast, incompleteness
from models.confidence.overlay import overlay_png

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(8, 3, 4)).astype(np.float32)
WEIGHT, BIAS = RNG.normal(size=(5, 8)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
LOGITS = WEIGHT @ FEATURES.mean((1, 2)) + BIAS
CAM = np.tensordot(WEIGHT, FEATURES, axes=1)


@pytest.mark.parametrize(("spatial", "head"), [(CAM, Head(None, BIAS)), (FEATURES, Head(WEIGHT, BIAS))], ids=["cam", "features"])
def test_map_and_contrast_add_up_to_the_logits(spatial: np.ndarray, head: Head) -> None:
    for label in range(5):
        heatmap = activation_map(spatial, head, label)
        assert heatmap.shape == (3, 4)
        assert incompleteness(heatmap, float(BIAS[label]), float(LOGITS[label])) < 1e-6
        assert contrast(spatial, head, label, 2).mean() == pytest.approx(LOGITS[label] - LOGITS[2], abs=1e-5)


def test_incompleteness_is_a_share_of_a_large_logit_and_absolute_of_a_small_one() -> None:
    assert incompleteness(np.full((2, 2), 99.0), 0.0, 100.0) == pytest.approx(0.01)
    assert incompleteness(np.full((2, 2), 0.1), 0.0, 0.2) == pytest.approx(0.1)


def test_overlay_is_red_where_it_speaks_for_and_blue_where_against() -> None:
    heatmap = np.array([[1.0, 0.0], [0.0, -1.0]])
    drawn = np.asarray(Image.open(io.BytesIO(overlay_png(heatmap, np.full((40, 40, 3), 128, dtype=np.uint8)))), dtype=int)
    assert drawn.shape == (40, 40, 3)
    assert drawn[2, 2, 0] > drawn[2, 2, 2] + 50
    assert drawn[37, 37, 2] > drawn[37, 37, 0] + 50


def test_overlay_of_nothing_is_the_image_in_grey() -> None:
    pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(overlay_png(np.zeros((2, 2)), pixels))))
    np.testing.assert_allclose(drawn[..., 0], pixels.mean(axis=2), atol=0.51)
