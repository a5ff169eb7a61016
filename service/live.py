"""A version in memory, ready to answer: loaded, verified against its golden outputs, warm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.artifact import Artifact
from models.confidence.case import Seen
from models.confidence.explain import explain
from models.confidence.judge import Judge
from models.decision import in_order
from models.errors import ContractError, ImageError
from models.preprocess import UInt8Array
from service.batcher import Batcher
from service.errors import DeviceLostError, ModelLoadError
from service.monitor import Monitor
from service.runtime.choose import load_runtime, ways

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy.typing as npt

    from models.confidence.case import Ask
    from models.confidence.explanation import Explanation
    from models.confidence.judge import Trust
    from models.manifest import Manifest
    from service.decode import View
    from service.device import Device
    from service.metrics import Metrics
    from service.runtime.choose import Precision, RuntimeName
    from service.runtime.port import Runtime


@dataclass(frozen=True)
class Judged:
    """What a version says of one image.

    Attributes:
        logits: float32 `[K]`.
        row: Calibrated probabilities, or the number, float64 `[K]`.
        trust: How far to believe it.
    """

    logits: npt.NDArray[np.float32]
    row: npt.NDArray[np.float64]
    trust: Trust


# Pixels uint8 `[H, W, 3]`, or what decodes them when a lane has come to them.
Image = UInt8Array | Callable[[], UInt8Array]


@dataclass(frozen=True)
class _Question:
    view: View | Callable[[], View]
    ask: Ask


class LiveModel:
    """What answers for one version. Made by `load`, in a thread; used from the event loop."""

    def __init__(
        self,
        manifest: Manifest,
        judge: Judge,
        runtime: Runtime,
        executor: Executor,
        plan: Plan,
        metrics: Metrics,
        device: Device,
    ) -> None:
        """Put batchers over a runtime that was checked."""
        self.manifest = manifest
        self.judge = judge
        self.runtime = runtime
        self._device = device
        thresholds = judge.confidence.thresholds
        # [K] in the labels' order, once and not at every answer
        self.thresholds = None if thresholds is None else in_order(thresholds, manifest.labels)
        scores = manifest.metrics.calibrated if manifest.metrics else None
        accuracy = getattr(scores, "accuracy", None)
        self.monitor = Monitor(manifest.name, judge.confidence.reference, accuracy, metrics)
        self.decodes_in_lane = plan.decodes_in_lane
        self._inference_duration = metrics.inference_duration.labels(manifest.name)
        self._explain_duration = metrics.explain_duration.labels(manifest.name)
        self._batch_size = metrics.batch_size.labels(manifest.name)
        self._queue_duration = metrics.queue_duration.labels(manifest.name)
        self._batcher: Batcher[Image, Judged] = Batcher(
            self._run,
            executor,
            max_batch=plan.max_batch,
            lanes=plan.lanes,
            is_shared=plan.is_shared,
            on_taken=self._taken,
        )
        # One by one: a logit's last digits depend on what else is in its batch, and equal images get equal explanations.
        # Nor is a large map copied for images that nobody asked to have explained.
        self._explaining: Batcher[_Question, Explanation] = Batcher(
            self._explain, executor, max_batch=1, lanes=plan.lanes, on_taken=self._taken
        )

    async def judged(self, image: Image) -> Judged:
        """Answer one image; it may share a batch with others.

        Raises:
            ImageError: If it is decoded here, and cannot be.
            ValueError: If a logit is not finite.
        """
        return await self._batcher.submit(image)

    async def explained(self, view: View | Callable[[], View], ask: Ask) -> Explanation:
        """Say what is known of one image.

        Raises:
            ImageError: If it is decoded here, and cannot be.
            ValueError: If a logit is not finite.
        """
        return await self._explaining.submit(_Question(view, ask))

    def oldest_wait_s(self) -> float:
        """Seconds that the image which waits longest has waited for a batch."""
        return max(self._batcher.oldest_wait_s(), self._explaining.oldest_wait_s())

    async def drain(self) -> None:
        """Wait for what is in flight."""
        await self._batcher.drain()
        await self._explaining.drain()

    def judge_batch(self, logits: npt.NDArray[np.float32], embeddings: npt.NDArray[np.float32] | None) -> list[Judged]:
        """Judge outputs `[N, K]` and `[N, D]` together; without a familiarity model and a bank there are no embeddings.

        Raises:
            ValueError: If a logit is not finite.
        """
        rows = self.judge.probabilities(logits)
        return [Judged(*one) for one in zip(logits, rows, self.judge.trust(rows, embeddings), strict=True)]

    def outputs(self, images: Sequence[UInt8Array]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Run images, uint8 `[H, W, 3]` each, as one batch in the thread that asks: what `judge_batch` takes."""
        with self._computing():
            if self.judge.needs_embedding:
                logits, embeddings = self.runtime.outputs(images, ("logits", "embedding"))
                return logits, embeddings
            return self.runtime.run(images), None

    def _run(self, images: Sequence[Image]) -> list[Judged | Exception]:
        """Run a batch; what cannot be decoded keeps its place, and the others' answers."""
        decoded = [_decoded(image) for image in images]
        good = [pixels for pixels in decoded if not isinstance(pixels, Exception)]
        judged = iter(self.judge_batch(*self.outputs(good)) if good else ())
        return [pixels if isinstance(pixels, Exception) else next(judged) for pixels in decoded]

    def _explain(self, questions: Sequence[_Question]) -> list[Explanation]:
        (question,) = questions
        manifest, view = self.manifest, question.view() if callable(question.view) else question.view
        with self._computing():
            outputs = self.runtime.outputs(view.pixels[None], ("logits", "embedding", manifest.outputs.spatial))
        with self._explain_duration.time():
            logits, embedding, spatial = (output[0] for output in outputs)
            seen = Seen(logits, embedding, spatial, view.pixels, view.box)
            return [explain(self.judge, manifest.labels, manifest.unit, seen, question.ask)]

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Measure what the runtime does, and notice when the device is lost."""
        with self._inference_duration.time():
            try:
                yield
            except DeviceLostError as err:
                self._device.lose(err.reason)
                raise

    def _taken(self, size: int, waited: Sequence[float]) -> None:
        self._batch_size.observe(size)
        for seconds in waited:
            self._queue_duration.observe(seconds)


def _decoded(image: Image) -> UInt8Array | ImageError:
    try:
        return image() if callable(image) else image
    except ImageError as err:
        return err


class Plan:
    """How a provider is driven: how many images together, how many batches at once, which sizes to warm."""

    def __init__(
        self,
        provider: str,
        cores: int,
        max_batch: int | None,
        runtime: RuntimeName = "auto",
        precision: Precision = "auto",
    ) -> None:
        """Fill what computes, and no more.

        On a CPU a lane a core, which decodes what it runs: a second hand between the two costs more than it saves. Two images
        together are computed no faster than one after the other, but the network wakes half as often for their answers and their
        successors, and more push each other out of the core's cache. On a GPU two lanes, so that one batch is copied while
        the other is computed, of what other threads have decoded.
        """
        self.provider = provider
        self.runtime = runtime
        self.precision = precision
        self.decodes_in_lane = self.is_shared = provider == "cpu"
        self.lanes = max(2, cores) if provider == "cpu" else 2
        self.max_batch = max_batch or (2 if provider == "cpu" else 64)

    @property
    def warm_sizes(self) -> list[int]:
        """Powers of two up to the largest batch, and that."""
        sizes = {1 << power for power in range(self.max_batch.bit_length()) if 1 << power <= self.max_batch}
        return sorted(sizes | {self.max_batch})


def load(path: Path, executor: Executor, plan: Plan, metrics: Metrics, device: Device) -> LiveModel:
    """Load a version beside what is running: verify its files, its golden outputs, and warm every batch size.

    Blocks for seconds; call it in a thread.

    Raises:
        ModelLoadError: If the version may not serve. Nothing is left behind.
        OutOfMemoryError: If the device has no room for it.
        DeviceLostError: If the device failed; `device` knows.
    """
    try:
        return _load(path, executor, plan, metrics, device)
    except DeviceLostError as err:
        device.lose(err.reason)
        raise


def _load(path: Path, executor: Executor, plan: Plan, metrics: Metrics, device: Device) -> LiveModel:
    try:
        artifact = Artifact.load(path)
    except (ContractError, OSError) as err:
        raise ModelLoadError(str(err)) from err
    tried = ways(plan.provider, plan.runtime, plan.precision)
    runtime, images = load_runtime(artifact, plan.provider, plan.lanes, plan.max_batch, tried)
    for size in plan.warm_sizes:
        runtime.run(np.resize(images, (size, *images.shape[1:])))
    judge = Judge(artifact.manifest.task, artifact.confidence, artifact.evidence)
    return LiveModel(artifact.manifest, judge, runtime, executor, plan, metrics, device)
