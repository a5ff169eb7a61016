"""`make gpu-check` without a GPU: it says so, and can be rehearsed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.server import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


def gpu_check(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = gpu_check(tmp_path)
    assert done.returncode == 2
    assert "there is no CUDA device here" in done.stderr
    assert not list(tmp_path.glob("gpu-check*"))


def test_a_rehearsal_goes_through_every_check(tmp_path: Path) -> None:
    done = gpu_check(tmp_path, "--rehearse")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu-check-rehearsal.json").read_text())
    assert {check["holds"] for check in found["checks"].values()} == {True}
    assert [row["what"] for row in found["throughput"]] == ["candor", "bare loop"]
    assert all(row["images_per_s"] > 0 for row in found["throughput"])
    assert found["sample"]["published"] == "probe"
    # The sample has ten labels: guessing would be right one time in ten.
    assert found["sample"]["test_accuracy"]["probe"] > 0.5
    serving = found["serving"]
    assert {row["what"] for row in serving["sessions"]} == {"ONNX Runtime cpu fp32", "torch eager fp32"}
    assert [row["clients"] for row in serving["service"]] == [1, 4]
    assert all(row["images_per_s"] > 0 and row["failed"] == 0 for row in serving["service"])
    assert all(row["inference_share"] > 0 for row in serving["service"])
