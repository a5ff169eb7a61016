"""Where training runs and in what precision. Everything that asks about CUDA asks here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Device:
    """A device, and the dtype that convolutions run in under autocast (None: fp32 throughout)."""

    torch: torch.device
    autocast_dtype: torch.dtype | None

    @property
    def is_cuda(self) -> bool:
        """Whether this is an NVIDIA GPU."""
        return self.torch.type == "cuda"

    @property
    def precision(self) -> str:
        """What runs: `fp32`, `bf16`, or `fp16` with a gradient scaler."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.autocast_dtype, "fp32")  # type: ignore[arg-type]

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where the device has it."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, dtype=self.autocast_dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler that does nothing unless the precision is fp16."""
        return torch.amp.GradScaler(self.torch.type, enabled=self.autocast_dtype is torch.float16)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Within, fp32 is fp32: on a GPU its products are otherwise rounded to TF32, which what is served is not."""
        if not self.is_cuda:
            yield
            return
        backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read next is honest."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch)

    def describe(self) -> str:
        """For people: the device's name and the precision."""
        name = torch.cuda.get_device_name(self.torch) if self.is_cuda else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {self.precision}"


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks instead of giving them back to the kernel after every layer.

    Activations of one step are what the next one needs; on a CPU the page faults between cost a tenth to a third of the
    time. Elsewhere than on glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(*, deterministic: bool = False) -> Device:
    """The GPU that torchrun gave this process, or the first, in bf16 (fp16 before Ampere); else the CPU in fp32.

    Args:
        deterministic: Forbid algorithms whose rounding varies from run to run; slower on a GPU.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
        return Device(torch.device("cpu"), None)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return Device(device, torch.bfloat16 if supported else torch.float16)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch. On one machine and device a run repeats itself; across devices it does not."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries below still use the global generator
    torch.manual_seed(seed)
