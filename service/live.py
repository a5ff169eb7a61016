"""A version in memory, ready to answer: loaded, verified against its golden outputs, warm."""

from __future__ import annotations

import io
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from models.artifact import Artifact
from models.decision import activate, in_order, largest_difference, unit_of_difference
from models.errors import ContractError
from service.batcher import Batcher
from service.errors import ModelLoadError
from service.runtime.onnx import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy.typing as npt

    from models.confidence.schema import Confidence
    from models.manifest import Manifest
    from models.preprocess import UInt8Array
    from service.metrics import Metrics
    from service.runtime.port import Runtime

# fp32 on another processor or library version moves a probability in the seventh digit; this is a thousand times that. Of a
# regression it is a share of how far the golden outputs lie apart.
GOLDEN_TOLERANCE = 1e-3

Row = Any  # float32 [K]; numpy has no spelling for one row


class LiveModel:
    """What answers for one version. Made by `load`, in a thread; used from the event loop."""

    def __init__(
        self, manifest: Manifest, confidence: Confidence, runtime: Runtime, executor: Executor, plan: Plan, metrics: Metrics
    ) -> None:
        """Put a batcher over a runtime that was checked."""
        self.manifest = manifest
        self.confidence = confidence
        self.runtime = runtime
        thresholds = confidence.thresholds
        # [K] in the labels' order, once and not at every answer
        self.thresholds = None if thresholds is None else in_order(thresholds, manifest.labels)
        self._metrics = metrics
        self._batcher: Batcher[UInt8Array, Row] = Batcher(
            self._run, executor, max_batch=plan.max_batch, lanes=plan.lanes, on_taken=self._taken
        )

    async def logits(self, image: UInt8Array) -> npt.NDArray[np.float32]:
        """Answer one image, uint8 `[H, W, 3]`, with its logits `[K]`; it may share a batch with others."""
        row: npt.NDArray[np.float32] = await self._batcher.submit(image)
        return row

    def oldest_wait_s(self) -> float:
        """Seconds that the image which waits longest has waited for a batch."""
        return self._batcher.oldest_wait_s()

    async def drain(self) -> None:
        """Wait for what is in flight."""
        await self._batcher.drain()

    def _run(self, images: Sequence[UInt8Array]) -> Sequence[Row]:
        started = time.perf_counter()
        logits = self.runtime.run(np.stack(images))
        self._metrics.inference_duration.labels(self.manifest.name).observe(time.perf_counter() - started)
        return list(logits)

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
    return LiveModel(artifact.manifest, artifact.confidence, runtime, executor, plan, metrics)


def _replay_golden(runtime: Runtime, artifact: Artifact, max_batch: int) -> UInt8Array:
    """Run the stored inputs and compare with the stored logits; the images are returned for warming up."""
    manifest, temperature = artifact.manifest, artifact.confidence.temperature.value
    try:
        with np.load(io.BytesIO(artifact.golden), allow_pickle=False) as stored:
            images, expected = stored["images"], stored["logits"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as err:
        raise ModelLoadError(f"{manifest.reference}: golden.npz cannot be read: {err}") from err
    if not len(images) or len(images) != len(expected):
        raise ModelLoadError(f"{manifest.reference}: golden.npz has {len(images)} images for {len(expected)} logits")
    parts = [runtime.run(images[start : start + max_batch]) for start in range(0, len(images), max_batch)]
    try:
        wanted = activate(expected, manifest.task, temperature)
        difference = largest_difference(activate(np.concatenate(parts), manifest.task, temperature), wanted)
    except ValueError as err:
        raise ModelLoadError(f"{manifest.reference}: {err}") from err
    accepted = GOLDEN_TOLERANCE * unit_of_difference(wanted, manifest.task)
    if difference > accepted:
        what = "value" if manifest.task == "regression" else "probability"
        raise ModelLoadError(
            f"{manifest.reference} does not reproduce its golden outputs: a {what} differs by {difference:.2g}, "
            f"at most {accepted:.2g} is accepted"
        )
    return np.asarray(images)
