"""How busy and how full the GPUs are that this process may use, as NVML says. The one module that knows pynvml."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("candor.gpus")
Reading = TypeVar("Reading")


@dataclass(frozen=True)
class Gpu:
    """One GPU now.

    Attributes:
        device: Its index, as `nvidia-smi` counts.
        memory_bytes: Used by all processes together, and in total; None where NVML cannot say.
        utilization: The share of the last moments in which something ran, 0..1; None where NVML cannot say.
    """

    device: str
    memory_bytes: tuple[int, int] | None
    utilization: float | None


class Gpus:
    """The GPUs that this process may use; none where there is no driver."""

    def __init__(self, visible: str | None, nvml: Any = pynvml) -> None:
        """Find them; what is plugged in later is not seen.

        Args:
            visible: What `CUDA_VISIBLE_DEVICES` says; None for all of them.
            nvml: pynvml, or what has its functions.
        """
        self._nvml = nvml
        self._said: set[str] = set()
        self._handles: dict[int, Any] = {}
        try:
            nvml.nvmlInit()
            self._handles = {index: nvml.nvmlDeviceGetHandleByIndex(index) for index in _visible(nvml, visible)}
        except nvml.NVMLError as err:
            # As usual on a machine without one.
            logger.debug("there is no NVML: %s", err)

    def read(self) -> list[Gpu]:
        """Ask NVML. What it cannot say is left out, and logged the first time."""
        return [
            Gpu(str(index), self._ask(_memory, index, handle), self._ask(_utilization, index, handle))
            for index, handle in self._handles.items()
        ]

    def _ask(self, reading: Callable[[Any, Any], Reading], index: int, handle: Any) -> Reading | None:
        try:
            return reading(self._nvml, handle)
        except self._nvml.NVMLError as err:
            message = f"NVML does not say all of GPU {index}: {err}"
            if message not in self._said:
                self._said.add(message)
                logger.warning(message)
            return None


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.used, memory.total


def _utilization(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


def _visible(nvml: Any, visible: str | None) -> list[int]:
    """Indices in CUDA's order of names: an index, or the beginning of a UUID; what is neither ends the list."""
    every = range(nvml.nvmlDeviceGetCount())
    if visible is None:
        return list(every)
    found: list[int] = []
    for name in (part.strip() for part in visible.split(",")):
        if name.isdecimal():
            named = [index for index in every if index == int(name)]
        elif name.startswith("GPU-"):
            handles = map(nvml.nvmlDeviceGetHandleByIndex, every)
            named = [index for index, handle in enumerate(handles) if nvml.nvmlDeviceGetUUID(handle).startswith(name)]
        else:
            named = []
        if not named:
            break
        found += named
    return found
