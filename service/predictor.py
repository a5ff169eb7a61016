"""The typed core: bytes to predictions. Knows neither HTTP nor BentoML; tests and bulk scoring use it as it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.decision import probabilities, rank_labels
from service.errors import DeadlineExceededError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.decode import Decoder
    from service.live import LiveModel
    from service.metrics import Metrics


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of one image, with calibrated probabilities, descending."""

    labels: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Bounds:
    """How many images may wait at once, and how long a request may take."""

    queue_limit: int
    deadline_s: float


class Predictor:
    """Decode, batch, decide; many images at once, each on its own."""

    def __init__(self, decoder: Decoder, bounds: Bounds, metrics: Metrics) -> None:
        """Share one decoder and one bound over all models."""
        self._decoder = decoder
        self._bounds = bounds
        self._metrics = metrics
        self._pending = 0

    async def classify(self, model: LiveModel, images: Sequence[bytes], top_k: int) -> list[Prediction | BaseException]:
        """Classify images on one version.

        Args:
            model: The version; it answers for all of them, whatever is promoted meanwhile.
            images: The bytes of one file each.
            top_k: How many labels to return; all of them where there are fewer.

        Returns:
            A prediction for each image, or what was wrong with that image.

        Raises:
            QueueFullError: If too many images wait already; none of these was taken.
            DeadlineExceededError: If the answers did not come in time.
        """
        if self._pending + len(images) > self._bounds.queue_limit:
            self._metrics.shed.labels(QueueFullError.code).inc()
            raise QueueFullError(f"{self._pending} images wait, and at most {self._bounds.queue_limit} may; try again")
        self._add(len(images))
        try:
            async with asyncio.timeout(self._bounds.deadline_s):
                return await asyncio.gather(
                    *(self._classify_one(model, image, top_k) for image in images), return_exceptions=True
                )
        except TimeoutError as err:
            self._metrics.shed.labels(DeadlineExceededError.code).inc()
            raise DeadlineExceededError(f"no answer within {self._bounds.deadline_s:g} s") from err
        finally:
            self._add(-len(images))

    async def _classify_one(self, model: LiveModel, image: bytes, top_k: int) -> Prediction:
        pixels = await self._decoder.decode(image, model.manifest)
        logits = await model.logits(pixels)
        row = probabilities(logits, model.confidence.temperature.value)
        labels = rank_labels(row, model.manifest.labels, top_k)
        self._metrics.count_prediction(model.manifest, labels[0][0])
        return Prediction(tuple(labels))

    def _add(self, images: int) -> None:
        self._pending += images
        self._metrics.queue_depth.set(self._pending)
