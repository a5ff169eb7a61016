"""The locks: hashed, naming no index, one CUDA generation, and a service without torch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PEER_LOCKS = sorted((ROOT / "benchmarks" / "peers").glob("requirements-*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
# CUDA 13's libraries by the major version that each of them carries.
CUDA_13_MAJORS = {"cuda-toolkit": "13", "nvidia-cublas": "13", "nvidia-cuda-runtime": "13", "nvidia-cuda-nvrtc": "13"}


def pins(lock: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall(lock.read_text()):
        found.setdefault(name, set()).add(version)
    return found


def test_there_are_locks() -> None:
    locks = [
        "bootstrap.txt",
        "checkov.txt",
        "cpu.txt",
        "dev.txt",
        "service-cpu.txt",
        "service.txt",
        "tracking.txt",
        "training.txt",
    ]
    assert [lock.name for lock in LOCKS] == locks


@pytest.mark.parametrize("lock", [*LOCKS, *PEER_LOCKS], ids=lambda lock: lock.name)
def test_lock_is_hashed_and_names_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=[a-z0-9])", text)
    assert all("--hash=sha256:" in requirement for requirement in requirements if PIN.match(requirement))


@pytest.mark.parametrize(
    "lock", [lock for lock in LOCKS if lock.name in {"dev.txt", "service.txt", "training.txt"}], ids=lambda lock: lock.name
)
def test_lock_ships_one_cuda_generation(lock: Path) -> None:
    found = pins(lock)
    assert not [name for name in found if re.search(r"-cu(11|12)$", name)]
    assert "nvidia-cublas" in found
    for name, major in CUDA_13_MAJORS.items():
        assert {version.split(".")[0] for version in found.get(name, {major})} == {major}, name


@pytest.mark.parametrize("name", ["service.txt", "cpu.txt", "training.txt", "tracking.txt", "bootstrap.txt"])
def test_smaller_lock_is_cut_from_the_large_one(name: str) -> None:
    everything = pins(ROOT / "requirements" / "dev.txt")
    assert all(versions <= everything[package] for package, versions in pins(ROOT / "requirements" / name).items())


def test_service_without_a_gpu_ships_nothing_for_one() -> None:
    found = pins(ROOT / "requirements" / "service-cpu.txt")
    # What reads a driver's figures is Python, and finds none.
    assert [name for name in found if re.match(r"nvidia|onnxruntime-gpu|torch|triton", name)] == ["nvidia-ml-py"]


@pytest.mark.parametrize("lock", [*PEER_LOCKS, ROOT / "requirements" / "service-cpu.txt"], ids=lambda lock: lock.name)
def test_lock_with_the_plain_runtime_has_the_versions_of_the_large_one(lock: Path) -> None:
    candors, peers = pins(ROOT / "requirements" / "dev.txt"), pins(lock)
    assert {name: candors[name] for name in peers if name in candors and name != "onnxruntime"} == {
        name: peers[name] for name in peers if name in candors and name != "onnxruntime"
    }
    assert candors["onnxruntime-gpu"] <= peers["onnxruntime"]
    assert {"numpy", "pillow", "simplejpeg", "pydantic"} <= peers.keys()


def test_service_ships_no_torch_and_training_no_server() -> None:
    assert not pins(ROOT / "requirements" / "service.txt").keys() & {"torch", "torchvision", "timm", "onnxscript"}
    assert not pins(ROOT / "requirements" / "training.txt").keys() & {"bentoml", "fastapi", "uvicorn"}
