"""BentoML as its documentation teaches: a Pillow image in, and `batchable=True`. Pillow decodes it, not candor's code.

A worker a core, as a worker runs one batch at a time.
"""

import bentoml
import numpy as np
from PIL import Image, ImageOps

from benchmarks.peers.core import BATCH, Answer, classifier, cores
from models.preprocess import UInt8Array


@bentoml.service(workers=cores(), logging={"access": {"enabled": False}})
class Classify:
    """A Pillow image in, labels out."""

    def __init__(self) -> None:
        self._classifier = classifier(threads=1)

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def classify(self, image: list[Image.Image]) -> list[Answer]:
        """Resize and classify all of them at once."""
        return self._classifier.predict(np.stack([self._fitted(one) for one in image]))

    def _fitted(self, image: Image.Image) -> UInt8Array:
        """Crop and resize as candor does, uint8 `[H, W, 3]`."""
        height, width = self._classifier.size
        border = (1 - self._classifier.crop_ratio) / 2
        return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BICUBIC, bleed=border))
