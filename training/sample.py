"""The sample data that the repository carries: Fashion-MNIST, 4,200 images in class folders."""

from __future__ import annotations

import zipfile
from pathlib import Path

from training.errors import TrainingError

SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "fashion-mnist.zip"


def unpack_sample(folder: Path) -> Path:
    """Unpack the sample below `folder` and return where its splits are.

    Raises:
        TrainingError: If `folder` cannot be written.
    """
    try:
        with zipfile.ZipFile(SAMPLE) as archive:
            archive.extractall(folder)
    except OSError as err:
        raise TrainingError(f"{folder} cannot be written: {err.strerror}") from err
    return folder / SAMPLE.stem
