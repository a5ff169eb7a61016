"""The typed core: bytes to predictions and explanations, by task.

Knows neither HTTP nor BentoML; tests and bulk scoring use it as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.decision import activate, rank_labels, ranked
from service import stopwatch
from service.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from models.confidence.case import Ask
    from models.confidence.explanation import Explanation
    from models.confidence.judge import Trust
    from models.preprocess import UInt8Array
    from service.backlog import Backlog
    from service.decode import Decoder
    from service.live import Image, Judged, LiveModel
    from service.metrics import Metrics


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of one image, with their probabilities, descending.

    Attributes:
        labels: As many as were asked for.
        selected: The labels that the image is said to have, however many were asked for; None where it has one.
        trust: How far to believe it.
        probability: Of the first label, calibrated, whatever was asked for.
        margin: How close it was, calibrated: the first label's probability less the second's; with any number of labels an
            image, the smallest distance of a probability from its threshold.
        judged: All of what the version says.
    """

    labels: tuple[tuple[str, float], ...]
    selected: tuple[str, ...] | None
    trust: Trust
    probability: float
    margin: float
    judged: Judged = field(compare=False, repr=False)


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
    trust: Trust
    judged: Judged = field(compare=False, repr=False)


Answer = Prediction | Estimate
Said = TypeVar("Said")


class Predictor:
    """Decode, batch, decide; many images at once, each on its own."""

    def __init__(self, decoder: Decoder, backlog: Backlog, deadline_s: float, metrics: Metrics) -> None:
        """Share one decoder and one backlog over all models; give up what takes longer than `deadline_s`."""
        self._decoder = decoder
        self._backlog = backlog
        self._deadline_s = deadline_s
        self._metrics = metrics

    async def classify(
        self,
        model: LiveModel,
        images: Sequence[bytes] | Sequence[UInt8Array],
        top_k: int,
        *,
        is_raw: bool = False,
        deadline_s: float = math.inf,
    ) -> list[Answer | BaseException]:
        """Classify images on one version.

        Args:
            model: The version; it answers for all of them, whatever is promoted meanwhile.
            images: The bytes of one file each, or its pixels as the version takes them, uint8 `[H, W, 3]`.
            top_k: How many labels to return; all of them where there are fewer. A number is one number.
            is_raw: Whether to answer probabilities as the network states them, and not calibrated.
            deadline_s: When the caller stops waiting, should that be sooner than ours.

        Returns:
            An answer for each image, or what was wrong with that image.

        Raises:
            QueueFullError: If too many images wait already; none of these was taken.
            DeadlineExceededError: If the answers did not come in time.
        """
        async with self._bounded(model, len(images), deadline_s):
            if len(images) == 1:
                # A task more would cost as much as all of the above.
                try:
                    return [await self._classify_one(model, images[0], top_k, is_raw)]
                except Exception as err:  # noqa: BLE001 - as `gather` does
                    return [err]
            return await asyncio.gather(
                *(self._classify_one(model, image, top_k, is_raw) for image in images), return_exceptions=True
            )

    async def explain(self, model: LiveModel, image: bytes, ask: Ask, deadline_s: float = math.inf) -> Explanation:
        """Say what is known of one image.

        Raises:
            ImageError: If it is none, or too large.
            ValueError: If the network's answer is not finite.
            QueueFullError: If too many images wait already.
            DeadlineExceededError: If the answer did not come in time.
        """
        async with self._bounded(model, 1, deadline_s):
            view = partial(self._decoder.view, image, model.manifest, stopwatch.current.get())
            explanation = await self._timed(model.explained(await self._where_it_decodes(model, view), ask))
        model.monitor.explained(explanation)
        return explanation

    @contextlib.asynccontextmanager
    async def _bounded(self, model: LiveModel, images: int, deadline_s: float) -> AsyncIterator[None]:
        """Count images in while they are answered, and give up what takes too long."""
        name, within_s = model.manifest.name, min(deadline_s, self._deadline_s)
        self._backlog.enter(name, images)
        try:
            if not within_s:
                # A lane could take it before the first timer fires.
                raise TimeoutError
            async with asyncio.timeout(within_s):
                yield
        except TimeoutError as err:
            self._metrics.shed.labels(DeadlineExceededError.code).inc()
            late = (
                f"no answer within {within_s:.3g} s"
                if within_s
                else "the caller's time was over before its images were begun with"
            )
            raise DeadlineExceededError(late) from err
        finally:
            self._backlog.leave(name, images)

    async def _where_it_decodes(self, model: LiveModel, decode: Callable[[], Said]) -> Said | Callable[[], Said]:
        """What is decoded, or what decodes it where the model's lanes do that."""
        return decode if model.decodes_in_lane else await self._decoder.apart(decode)

    async def _timed(self, answering: Awaitable[Said]) -> Said:
        """Await what a lane says, and let the backlog learn from it; an error took its time too."""
        try:
            said = await answering
        except Exception:
            self._backlog.answered()
            raise
        self._backlog.answered()
        return said

    async def _classify_one(self, model: LiveModel, image: bytes | UInt8Array, top_k: int, is_raw: bool) -> Answer:
        pixels: Image
        if isinstance(image, bytes):
            decode = partial(self._decoder.decode, image, model.manifest, stopwatch.current.get())
            pixels = await self._where_it_decodes(model, decode)
        else:
            pixels = image
        judged = await self._timed(model.judged(pixels))
        answer = decide(model, judged, top_k, is_raw=is_raw)
        if isinstance(answer, Prediction):
            for label in (answer.labels[0][0],) if answer.selected is None else answer.selected:
                self._metrics.count_prediction(model.manifest, label)
        p_max = answer.probability if isinstance(answer, Prediction) and answer.selected is None else None
        trust = judged.trust
        model.monitor.answered(p_max, trust.p_correct, trust.familiarity, trust.action)
        return answer


def decide(model: LiveModel, judged: Judged, top_k: int, *, is_raw: bool = False) -> Answer:
    """Turn what a model says of one image into what its task answers.

    Args:
        model: The version.
        judged: What it says.
        top_k: How many labels are named.
        is_raw: Name probabilities without temperature; what is selected is still decided with it, as thresholds are.
    """
    manifest, row, trust = model.manifest, judged.row, judged.trust
    if manifest.task == "regression":
        value, interval = float(row[0]), model.judge.confidence.interval
        if interval is None:
            return Estimate(value, manifest.unit, None, trust, judged)
        around = Range(interval.level, value - interval.half_width, value + interval.half_width)
        return Estimate(value, manifest.unit, around, trust, judged)
    order = ranked(row, max(2, top_k))
    named = ((manifest.labels[i], float(row[i])) for i in order[:top_k])
    labels = tuple(rank_labels(activate(judged.logits, manifest.task, 1.0), manifest.labels, top_k) if is_raw else named)
    top = float(row[order[0]])
    if model.thresholds is None:
        margin = top - float(row[order[1]]) if len(order) > 1 else top
        return Prediction(labels, None, trust, top, margin, judged)
    over = row >= model.thresholds
    selected = tuple(manifest.labels[i] for i in ranked(row, len(row)) if over[i])
    return Prediction(labels, selected, trust, top, float(np.abs(row - model.thresholds).min()), judged)
