"""The typed core: bytes to predictions, by task. Knows neither HTTP nor BentoML; tests and bulk scoring use it as it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.decision import activate, rank_labels, ranked
from service.errors import DeadlineExceededError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from service.decode import Decoder
    from service.live import LiveModel
    from service.metrics import Metrics


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of one image, with calibrated probabilities, descending.

    `selected` are the labels that the image is said to have, however many were asked for; None where it has one.
    """

    labels: tuple[tuple[str, float], ...]
    selected: tuple[str, ...] | None


@dataclass(frozen=True)
class Range:
    """Between which numbers the truth lies for the share `level` of images."""

    level: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The number of one image, what it counts, and how exact it is, where that is known."""

    value: float
    unit: str | None
    interval: Range | None


Answer = Prediction | Estimate


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

    async def classify(self, model: LiveModel, images: Sequence[bytes], top_k: int) -> list[Answer | BaseException]:
        """Classify images on one version.

        Args:
            model: The version; it answers for all of them, whatever is promoted meanwhile.
            images: The bytes of one file each.
            top_k: How many labels to return; all of them where there are fewer. A number is one number.

        Returns:
            An answer for each image, or what was wrong with that image.

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

    async def _classify_one(self, model: LiveModel, image: bytes, top_k: int) -> Answer:
        pixels = await self._decoder.decode(image, model.manifest)
        answer = decide(model, await model.logits(pixels), top_k)
        if isinstance(answer, Prediction):
            for label in (answer.labels[0][0],) if answer.selected is None else answer.selected:
                self._metrics.count_prediction(model.manifest, label)
        return answer

    def _add(self, images: int) -> None:
        self._pending += images
        self._metrics.queue_depth.set(self._pending)


def decide(model: LiveModel, logits: npt.NDArray[np.float32], top_k: int) -> Answer:
    """Turn the logits `[K]` of one image into what its model's task answers.

    Raises:
        ValueError: If a logit is not finite.
    """
    manifest, confidence = model.manifest, model.confidence
    row = activate(logits, manifest.task, confidence.temperature.value)
    if manifest.task == "regression":
        value, interval = float(row[0]), confidence.interval
        if interval is None:
            return Estimate(value, manifest.unit, None)
        return Estimate(value, manifest.unit, Range(interval.level, value - interval.half_width, value + interval.half_width))
    labels = tuple(rank_labels(row, manifest.labels, top_k))
    if model.thresholds is None:
        return Prediction(labels, None)
    over = row >= model.thresholds
    return Prediction(labels, tuple(manifest.labels[i] for i in ranked(row, len(row)) if over[i]))
