"""What failures are called, and the sign of life that says there was none yet."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from models.errors import DatasetError, RecipeError, UnknownModelError, UnreachableError
from training.errors import DivergedError, LicenceError, StartError, TrainingError, WeightsUnavailableError
from training.failures import failure_of
from training.heartbeat import heartbeat

if TYPE_CHECKING:
    from pathlib import Path


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


def chained(outer: Exception, inner: Exception) -> Exception:
    try:
        raise outer from inner
    except Exception as err:  # noqa: BLE001
        return err


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (DatasetError("no images"), "invalid_dataset", 2),
        (RecipeError("recipe.epoch is not a known key"), "invalid_recipe", 2),
        (LicenceError("cc-by-nc"), "invalid_recipe", 2),
        (StartError("another backbone"), "invalid_recipe", 2),
        (WeightsUnavailableError("no network"), "weights_unavailable", 2),
        (DivergedError("the loss became nan"), "diverged", 2),
        (UnknownModelError("no birds:3"), "training_error", 2),
        (UnreachableError("s3://candor cannot be reached"), "registry_unreachable", 69),
        (TrainingError("goes on in another process"), "training_error", 2),
        (PermissionError(errno.EACCES, "Permission denied"), "training_error", 2),
        (MemoryError(), "out_of_memory", 71),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", 71),
        (OutOfMemoryError("CUDA ran out"), "out_of_memory", 71),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", 71),
        (chained(TrainingError("cannot be exported"), MemoryError()), "out_of_memory", 71),
        (OSError(errno.ENOSPC, "No space left on device"), "no_space", 74),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no_space", 74),
        (chained(TrainingError("x.safetensors cannot be written"), OSError(errno.ENOSPC, "No space")), "no_space", 74),
        (TrainingError("checkpoint cannot be written: I/O error: No space left on device (os error 28)"), "no_space", 74),
        (KeyError("surprise"), "internal", 70),
    ],
)
def test_every_failure_has_a_code_and_an_exit_code(error: Exception, code: str, exit_code: int) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.exit_code) == (code, exit_code)
    assert failure.sentence


def test_an_allocation_that_torch_refuses_is_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert failure_of(caught.value).code == "out_of_memory"


def test_the_file_is_touched_for_as_long_as_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.heartbeat.INTERVAL_S", 0.02)
    file = tmp_path / "alive"
    with heartbeat(file):
        first = file.stat().st_mtime_ns
        file.unlink()
        deadline = time.monotonic() + 5
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime_ns > first
    last = file.stat().st_mtime_ns
    time.sleep(0.1)
    assert file.stat().st_mtime_ns == last


def test_a_file_that_cannot_be_touched_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), heartbeat(tmp_path / "nowhere" / "alive"):
        pass


def test_it_beats_before_torch_is_loaded() -> None:
    code = "import sys; from training.cli import main; import training.heartbeat; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
