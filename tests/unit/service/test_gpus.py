"""GPUs as NVML shows them. The few functions of pynvml that are used are faked; that there is no driver is tried for real."""

# ruff: noqa: N802 - pynvml's names

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from service.gpus import Gpu, Gpus
from service.metrics import Metrics

MIB = 2**20


class NVMLError(Exception):
    pass


class Nvml:
    """Three GPUs, of which any call can be made to fail."""

    NVMLError = NVMLError
    uuids = ("GPU-aaaa-1", "GPU-bbbb-2", "GPU-bbcc-3")

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)

    def _call(self, name: str, value: Any) -> Any:
        if name in self.failing:
            raise NVMLError(f"{name} failed")
        return value

    def nvmlInit(self) -> None:
        self._call("init", None)

    def nvmlDeviceGetCount(self) -> int:
        return self._call("count", len(self.uuids))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return self._call("handle", index)

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.uuids[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._call("memory", SimpleNamespace(used=(handle + 1) * MIB, total=100 * MIB))

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._call("utilization", SimpleNamespace(gpu=25 * (handle + 1), memory=0))


def exported(gpus: Gpus) -> list[str]:
    metrics = Metrics()
    metrics.follow_gpus(gpus.read)
    return [line for line in metrics.render().decode().splitlines() if "gpu" in line]


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2,0", ["2", "0"]),
        ("1, 2", ["1", "2"]),
        ("0,7,1", ["0"]),
        ("GPU-bbbb-2", ["1"]),
        ("GPU-bbc,0", ["2", "0"]),
        ("GPU-dddd,0", []),
        ("NoDevFiles", []),
    ],
)
def test_only_what_cuda_would_show_to_this_process_is_seen(visible: str | None, devices: list[str]) -> None:
    assert [gpu.device for gpu in Gpus(visible, Nvml()).read()] == devices


def test_what_is_read_is_exported_by_index() -> None:
    gpus = Gpus("1", Nvml())
    assert gpus.read() == [Gpu("1", (2 * MIB, 100 * MIB), 0.5)]
    assert [line for line in exported(gpus) if not line.startswith("#")] == [
        'candor_gpu_memory_used_bytes{device="1"} 2.097152e+06',
        'candor_gpu_memory_total_bytes{device="1"} 1.048576e+08',
        'candor_gpu_utilization_ratio{device="1"} 0.5',
    ]


@pytest.mark.parametrize("call", ["init", "count", "handle"])
def test_without_a_usable_driver_there_are_no_series_and_nothing_is_logged(call: str, caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus(None, Nvml(call))
    assert exported(gpus) == []
    assert exported(gpus) == []
    assert caplog.records == []


def test_an_error_drops_only_its_own_series_until_it_is_over_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    nvml = Nvml("utilization")
    gpus = Gpus("0", nvml)
    for _ in range(3):
        assert {line.split("{")[0] for line in exported(gpus) if not line.startswith("#")} == {
            "candor_gpu_memory_used_bytes",
            "candor_gpu_memory_total_bytes",
        }
    assert [record.getMessage() for record in caplog.records] == ["NVML does not say all of GPU 0: utilization failed"]
    nvml.failing.clear()
    assert gpus.read() == [Gpu("0", (MIB, 100 * MIB), 0.25)]


def test_a_machine_without_nvidias_library_has_no_gpus() -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert Gpus(None).read() == []
    else:
        pytest.skip("this machine has the library")
