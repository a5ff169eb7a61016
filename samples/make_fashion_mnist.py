"""Make `fashion-mnist.zip` from Debian's package `dataset-fashion-mnist` (MIT licence, Zalando SE).

200 training, 60 validation, 60 calibration and 100 test images a class, in class folders, as greyscale PNGs. The test
images come from the data set's own test files and the others from its training files, in the order they stand there.
Run it again with: apt-get install dataset-fashion-mnist && python samples/make_fashion_mnist.py
"""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).with_name("fashion-mnist.zip")
LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
FROM_TRAINING = (("train", 200), ("val", 60), ("calibration", 60))
FROM_TEST = (("test", 100),)
# Zip entries carry a time; a fixed one makes the same file every time.
TIME = (2017, 8, 25, 0, 0, 0)


def read(prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 28, 28]` and labels `[N]` of the data set's IDX files (headers of 16 and 8 bytes)."""
    with gzip.open(SOURCE / f"{prefix}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(SOURCE / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), dtype=np.uint8, offset=8)
    return images, labels


def main() -> None:
    """Write the zip."""
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_STORED) as archive:
        for prefix, splits in (("train", FROM_TRAINING), ("t10k", FROM_TEST)):
            images, labels = read(prefix)
            for index, label in enumerate(LABELS):
                positions = iter(np.flatnonzero(labels == index))
                for split, count in splits:
                    for number in range(count):
                        buffer = io.BytesIO()
                        Image.fromarray(images[next(positions)]).save(buffer, "PNG", optimize=True)
                        entry = zipfile.ZipInfo(f"fashion-mnist/{split}/{label}/{number:03}.png", TIME)
                        archive.writestr(entry, buffer.getvalue())


if __name__ == "__main__":
    main()
