"""Which runtime runs a version, and in which precision: what is fastest here of what reproduces the golden outputs."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from models.errors import ContractError
from models.golden import deviation, read_golden
from service.cores import has_bf16
from service.errors import DeviceLostError, ModelLoadError, OutOfMemoryError
from service.runtime.onnx import OnnxRuntime

if TYPE_CHECKING:
    from models.artifact import Artifact
    from models.preprocess import UInt8Array
    from service.runtime.port import Runtime

logger = logging.getLogger("candor.runtime")
RuntimeName = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Way:
    """One way to run a graph."""

    runtime: Literal["onnxruntime", "openvino"]
    precision: Literal["fp32", "bf16"]


def ways(provider: str, runtime: RuntimeName, precision: Precision) -> list[Way]:
    """What to try on this machine, the fastest first.

    Args:
        provider: `cuda` or `cpu`.
        runtime: What the operator allows.
        precision: The same.

    Raises:
        ModelLoadError: If the operator asks for what is not here.
    """
    if provider == "cuda":
        if runtime == "openvino" or precision == "bf16":
            raise ModelLoadError("CANDOR_RUNTIME=openvino and CANDOR_PRECISION=bf16 are for processors, and here is a GPU")
        return [Way("onnxruntime", "fp32")]
    has_openvino = importlib.util.find_spec("openvino") is not None
    wants_openvino = runtime == "openvino" or precision == "bf16"
    if wants_openvino and not has_openvino:
        raise ModelLoadError("CANDOR_RUNTIME=openvino and CANDOR_PRECISION=bf16 need openvino; install requirements/cpu.txt")
    found = []
    if has_openvino and runtime != "onnxruntime" and precision != "fp32" and has_bf16():
        found.append(Way("openvino", "bf16"))
    if precision == "bf16":
        if not found:
            raise ModelLoadError("CANDOR_PRECISION=bf16: this processor has no instructions for it (avx512_bf16 or amx_bf16)")
        return found
    return [*found, Way("openvino" if runtime == "openvino" else "onnxruntime", "fp32")]


def load_runtime(artifact: Artifact, provider: str, lanes: int, max_batch: int, tried: list[Way]) -> tuple[Runtime, UInt8Array]:
    """The first way that reproduces the golden outputs, and the golden images, to warm it with.

    Args:
        artifact: The version.
        provider: `cuda` or `cpu`.
        lanes: Threads that will run it at once.
        max_batch: Most images that run together.
        tried: The ways, in order.

    Raises:
        ModelLoadError: If none does; of the last one.
    """
    for number, way in enumerate(tried, 1):
        try:
            runtime = _make(way, artifact, provider, lanes)
            return runtime, _replay(runtime, artifact, max_batch)
        except (DeviceLostError, OutOfMemoryError):
            raise
        except Exception as err:
            # Whatever is wrong with a faster way, the next one may serve.
            if number == len(tried):
                raise
            logger.warning("%s does not run on %s in %s: %s", artifact.manifest.reference, way.runtime, way.precision, err)
    raise ValueError("no way was given, expected at least one")


def _make(way: Way, artifact: Artifact, provider: str, lanes: int) -> Runtime:
    if way.runtime == "openvino":
        made: Runtime = _openvino().OpenVinoRuntime(artifact.model, artifact.manifest, way.precision, lanes)
        return made
    return OnnxRuntime(artifact.model, artifact.manifest, provider)


def _openvino() -> Any:
    # Only where it is installed, and only where it may be used: it is not in the image for a GPU.
    return importlib.import_module("service.runtime.openvino")


def _replay(runtime: Runtime, artifact: Artifact, max_batch: int) -> UInt8Array:
    """Run the stored inputs and compare with the stored logits; the images are returned for warming up."""
    manifest = artifact.manifest
    try:
        images, stored = read_golden(artifact)
    except ContractError as err:
        raise ModelLoadError(f"{manifest.reference}: {err}") from err
    parts = [runtime.run(images[start : start + max_batch]) for start in range(0, len(images), max_batch)]
    found = np.concatenate(parts)
    try:
        difference, accepted = deviation(artifact, found, stored, is_reduced=runtime.precision != "fp32")
    except ValueError as err:
        raise ModelLoadError(f"{manifest.reference}: {err}") from err
    what = "value" if manifest.task == "regression" else "probability"
    if difference > accepted:
        raise ModelLoadError(
            f"{manifest.reference} does not reproduce its golden outputs: a {what} differs by {difference:.2g}, "
            f"at most {accepted:.2g} is accepted"
        )
    if runtime.precision != "fp32" and (changed := changed_labels(found, stored, manifest.task)):
        raise ModelLoadError(f"{manifest.reference}: {changed} of {len(stored)} golden inputs get another label")
    return np.asarray(images)


def changed_labels(found: Any, stored: Any, task: str) -> int:
    """How many of the golden inputs get another first label; with any number of labels an image, or a number, none can."""
    return int((found.argmax(axis=1) != stored.argmax(axis=1)).sum()) if task == "single_label" else 0
