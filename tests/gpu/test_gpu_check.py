"""What only a GPU can show: the same loss and gradients as a CPU, mixed precision on, and a sample that is fitted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.support.server import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.torch,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here; `make gpu-check` is for one"),
]


def test_every_check_holds_on_this_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    results = sorted((ROOT / "benchmarks" / "results").glob("gpu-check-*.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(results[-1].read_text())
    assert {check["holds"] for check in found["checks"].values()} == {True}
