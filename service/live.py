"""A version in memory, ready to answer: loaded, verified against its golden outputs, warm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.artifact import Artifact
from models.confidence.case import Seen
from models.confidence.explain import explain
from models.confidence.judge import Judge
from models.decision import in_order
from models.errors import ContractError
from models.golden import deviation, read_golden
from service.batcher import Batcher
from service.errors import ModelLoadError
from service.monitor import Monitor
from service.runtime.onnx import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy.typing as npt

    from models.confidence.case import Ask
    from models.confidence.explanation import Explanation
    from models.confidence.judge import Trust
    from models.manifest import Manifest
    from models.preprocess import UInt8Array
    from service.decode import View
    from service.metrics import Metrics
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


@dataclass(frozen=True)
class _Question:
    view: View
    ask: Ask


class LiveModel:
    """What answers for one version. Made by `load`, in a thread; used from the event loop."""

    def __init__(
        self, manifest: Manifest, judge: Judge, runtime: Runtime, executor: Executor, plan: Plan, metrics: Metrics
    ) -> None:
        """Put batchers over a runtime that was checked."""
        self.manifest = manifest
        self.judge = judge
        self.runtime = runtime
        thresholds = judge.confidence.thresholds
        # [K] in the labels' order, once and not at every answer
        self.thresholds = None if thresholds is None else in_order(thresholds, manifest.labels)
        self.monitor = Monitor(manifest.name, judge.confidence.reference, metrics)
        self._metrics = metrics
        self._batcher: Batcher[UInt8Array, Judged] = Batcher(
            self._run, executor, max_batch=plan.max_batch, lanes=plan.lanes, on_taken=self._taken
        )
        # One by one: a logit's last digits depend on what else is in its batch, and equal images get equal explanations.
        # Nor is a large map copied for images that nobody asked to have explained.
        self._explaining: Batcher[_Question, Explanation] = Batcher(
            self._explain, executor, max_batch=1, lanes=plan.lanes, on_taken=self._taken
        )

    async def judged(self, image: UInt8Array) -> Judged:
        """Answer one image, uint8 `[H, W, 3]`; it may share a batch with others.

        Raises:
            ValueError: If a logit is not finite.
        """
        return await self._batcher.submit(image)

    async def explained(self, view: View, ask: Ask) -> Explanation:
        """Say what is known of one image.

        Raises:
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
        together = np.stack(images)
        with self._metrics.inference_duration.labels(self.manifest.name).time():
            if self.judge.needs_embedding:
                logits, embeddings = self.runtime.outputs(together, ("logits", "embedding"))
                return logits, embeddings
            return self.runtime.run(together), None

    def _run(self, images: Sequence[UInt8Array]) -> list[Judged]:
        return self.judge_batch(*self.outputs(images))

    def _explain(self, questions: Sequence[_Question]) -> list[Explanation]:
        (question,) = questions
        manifest, view = self.manifest, question.view
        with self._metrics.inference_duration.labels(manifest.name).time():
            outputs = self.runtime.outputs(view.pixels[None], ("logits", "embedding", manifest.outputs.spatial))
        with self._metrics.explain_duration.labels(manifest.name).time():
            logits, embedding, spatial = (output[0] for output in outputs)
            seen = Seen(logits, embedding, spatial, view.pixels, view.box)
            return [explain(self.judge, manifest.labels, manifest.unit, seen, question.ask)]

    def _taken(self, size: int, waited: Sequence[float]) -> None:
        self._metrics.batch_size.labels(self.manifest.name).observe(size)
        duration = self._metrics.queue_duration.labels(self.manifest.name)
        for seconds in waited:
            duration.observe(seconds)


class Plan:
    """How a provider is driven: how many images together, how many batches at once, which sizes to warm."""

    def __init__(self, provider: str, cores: int, max_batch: int | None) -> None:
        """On a CPU a lane a core; on a GPU two lanes, so that one is copied while the other computes."""
        self.provider = provider
        self.lanes = max(2, cores) if provider == "cpu" else 2
        self.max_batch = max_batch or (8 if provider == "cpu" else 64)

    @property
    def warm_sizes(self) -> list[int]:
        """Powers of two up to the largest batch, and that."""
        sizes = {1 << power for power in range(self.max_batch.bit_length()) if 1 << power <= self.max_batch}
        return sorted(sizes | {self.max_batch})


def load(path: Path, executor: Executor, plan: Plan, metrics: Metrics) -> LiveModel:
    """Load a version beside what is running: verify its files, its golden outputs, and warm every batch size.

    Blocks for seconds; call it in a thread.

    Raises:
        ModelLoadError: If the version may not serve. Nothing is left behind.
    """
    try:
        artifact = Artifact.load(path)
    except (ContractError, OSError) as err:
        raise ModelLoadError(str(err)) from err
    runtime = OnnxRuntime(artifact.model, artifact.manifest, plan.provider)
    images = _replay_golden(runtime, artifact, plan.max_batch)
    for size in plan.warm_sizes:
        runtime.run(np.resize(images, (size, *images.shape[1:])))
    judge = Judge(artifact.manifest.task, artifact.confidence, artifact.evidence)
    return LiveModel(artifact.manifest, judge, runtime, executor, plan, metrics)


def _replay_golden(runtime: Runtime, artifact: Artifact, max_batch: int) -> UInt8Array:
    """Run the stored inputs and compare with the stored logits; the images are returned for warming up."""
    manifest = artifact.manifest
    try:
        images, stored = read_golden(artifact)
    except ContractError as err:
        raise ModelLoadError(f"{manifest.reference}: {err}") from err
    parts = [runtime.run(images[start : start + max_batch]) for start in range(0, len(images), max_batch)]
    try:
        difference, accepted = deviation(artifact, np.concatenate(parts), stored)
    except ValueError as err:
        raise ModelLoadError(f"{manifest.reference}: {err}") from err
    if difference > accepted:
        what = "value" if manifest.task == "regression" else "probability"
        raise ModelLoadError(
            f"{manifest.reference} does not reproduce its golden outputs: a {what} differs by {difference:.2g}, "
            f"at most {accepted:.2g} is accepted"
        )
    return np.asarray(images)
