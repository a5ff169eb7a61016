"""Images of nothing: many kinds, the same for a seed; or those of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from models.preprocess import standard_preprocessing
from training.confidence.unrelated import COUNT, made_up, read_unrelated
from training.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [8, 33, 96])
def test_images_are_made_up_and_no_two_are_alike(size: int) -> None:
    images = made_up(size, seed=0)
    assert (images.shape, images.dtype) == ((COUNT, size, size, 3), np.uint8)
    assert len({image.tobytes() for image in images}) == COUNT
    assert np.array_equal(images, made_up(size, seed=0))
    assert not np.array_equal(images, made_up(size, seed=1))


def test_there_is_writing_and_colour_and_roughness_and_smoothness() -> None:
    images = made_up(64, seed=0).astype(float)
    roughness = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3)).reshape(-1, 5).mean(axis=0)
    noise, gradient, text, texture, patches = roughness
    assert gradient < 5 < min(noise, text, texture, patches)
    assert (images.std(axis=(1, 2, 3)) > 1).all()


def test_folder_is_read_as_the_service_reads_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (60, 40), colour).save(tmp_path / "deep" / f"{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_unrelated(tmp_path, standard_preprocessing(1.0), 16)
    assert images.shape == (2, 16, 16, 3)
    assert images[:, 8, 8].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no image below it"):
        read_unrelated(tmp_path / "missing", standard_preprocessing(1.0), 16)
