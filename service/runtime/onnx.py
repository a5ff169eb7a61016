"""ONNX Runtime: CUDA where there is a GPU, else the CPU. The one module of the service that knows onnxruntime.

Where a GPU is there, it must be what runs: ONNX Runtime falls back to the CPU with a line on stderr, and a service that
is a hundred times slower than planned is not one. The provider that a session really has is asserted.
"""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

import onnxruntime

from models.errors import SettingsError
from service.errors import DeviceLostError, ModelLoadError, OutOfMemoryError
from service.runtime.graph import check_graph
from service.runtime.staging import PinnedStaging, Staging

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from models.manifest import Manifest
    from service.runtime.port import Images

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
# HEURISTIC: the default tries every algorithm again for every batch size it has not seen. No TF32: what is called fp32
# here is fp32, and other precisions are admitted one by one, by measurement.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
_QUIET = 3
_LEAST_CUDA = 13_000
# After these a CUDA context never works again (cudaError_t): uncorrectable ECC, illegal address, launch timeout, assert, hardware
# stack, illegal instruction, misaligned address, invalid address space, invalid program counter, launch failure.
_STICKY = frozenset({214, 700, 702, 710, 714, 715, 716, 717, 718, 719})
_CUDA_FAILURE = re.compile(r"CUDA (?:failure|error) (\d+)\b")
_LOST = ("CUDNN_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_EXECUTION_FAILED")
_NO_ROOM = ("Failed to allocate memory", "out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


class OnnxRuntime:
    """A session on one provider, in fp32."""

    name = "onnxruntime"
    precision = "fp32"

    def __init__(self, model: bytes, manifest: Manifest, provider: str) -> None:
        """Load a graph from bytes that were verified.

        Args:
            model: The ONNX file.
            manifest: What the file says of itself is compared with it.
            provider: `cuda` or `cpu`.

        Raises:
            ModelLoadError: If the graph cannot be loaded, is not what the manifest says, or would run elsewhere.
            DeviceLostError: As `outputs`.
            OutOfMemoryError: As `outputs`.
        """
        self.provider = provider
        self._session = _session(model, provider)
        if self._session.get_providers()[0] != _PROVIDERS[provider]:
            raise ModelLoadError(
                f"{manifest.reference}: {_PROVIDERS[provider]} was asked for and {self._session.get_providers()[0]} runs"
            )
        _check(self._session, manifest)
        self._staging = Staging() if provider == "cpu" else PinnedStaging(manifest.input.height, manifest.input.width)

    def run(self, images: Images) -> npt.NDArray[np.float32]:
        """uint8 `[N, H, W, 3]` to logits `[N, K]`. Safe to call from several threads at once."""
        return self.outputs(images, ("logits",))[0]

    def outputs(self, images: Images, names: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """uint8 `[N, H, W, 3]` to the outputs of those names; what is not asked for is not copied out of the session.

        Raises:
            DeviceLostError: If the device answers nothing that can be believed any more.
            OutOfMemoryError: If there is no room for this batch.
        """
        together = self._staging.together(images)
        try:
            found: list[npt.NDArray[np.float32]] = self._session.run(list(names), {"image": together})
        except Exception as err:
            # ONNX Runtime's exceptions have no common base but Exception, and only their words say what happened.
            meant = meaning(err)
            if meant is None:
                raise
            raise meant from err
        return found if len(together) == len(images) else [output[: len(images)] for output in found]


def meaning(error: Exception) -> DeviceLostError | OutOfMemoryError | None:
    """What an exception of ONNX Runtime says of the device; None where it concerns nothing but what was asked."""
    text = str(error)
    if any(int(code) in _STICKY for code in _CUDA_FAILURE.findall(text)) or any(words in text for words in _LOST):
        return DeviceLostError(text)
    return (
        OutOfMemoryError("the device has no room for this now; try again") if any(words in text for words in _NO_ROOM) else None
    )


def chosen_provider(device: str) -> str:
    """`cuda` or `cpu`, for `CANDOR_DEVICE`.

    Raises:
        SettingsError: If it is to be a GPU and none is visible.
    """
    if device == "cpu":
        return "cpu"
    found = available_provider()
    if device == "cuda" and found != "cuda":
        raise SettingsError(
            "CANDOR_DEVICE=cuda, and no GPU is visible (nvidia-smi shows what the driver sees, and CUDA_VISIBLE_DEVICES may hide "
            "it); set CANDOR_DEVICE=auto to serve on the CPU"
        )
    return found


def available_provider() -> str:
    """`cuda` where the driver shows a GPU, else `cpu`. `CUDA_VISIBLE_DEVICES` hides GPUs as everywhere."""
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "cpu"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "cpu"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "cpu"
    return "cuda" if count.value > 0 else "cpu"


def _require_cuda() -> None:
    """Say in words that the driver is too old, which ONNX Runtime says in a line on stderr before it runs on the CPU.

    Raises:
        ModelLoadError: If the driver does not support the CUDA that ONNX Runtime was built for.
    """
    try:
        driver, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError as err:
        raise ModelLoadError("there is no NVIDIA driver (libcuda.so.1)") from err
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value < _LEAST_CUDA:
        supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise ModelLoadError(
            f"the NVIDIA driver supports CUDA {supported}, and 13.0 is needed (driver 580 or newer, a GPU of compute "
            "capability 7.5 or newer); update it, or hide the GPU with CUDA_VISIBLE_DEVICES= to run on the CPU"
        )


def _session(model: bytes, provider: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    if provider == "cpu":
        # One thread a session run, several runs at once: on few cores this gives the most images a second.
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        chosen: list[Any] = [_PROVIDERS["cpu"]]
    else:
        _require_cuda()
        onnxruntime.preload_dlls()
        chosen = [(_PROVIDERS["cuda"], _CUDA_OPTIONS), _PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=chosen)
    except Exception as err:
        raise meaning(err) or ModelLoadError(f"ONNX Runtime cannot load the graph: {err}") from err
    session.disable_fallback()
    return session


def _check(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    """Compare the file's own input and outputs with the manifest."""
    inputs = {
        spec.name: (spec.type.removeprefix("tensor(").removesuffix(")"), tuple(spec.shape[1:])) for spec in session.get_inputs()
    }
    check_graph(manifest, inputs, {spec.name: spec.shape[1] for spec in session.get_outputs()})
