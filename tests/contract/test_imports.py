"""What importing does, proved at run time: no torch on the serving path, nothing started, nothing written."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import environment

ROOT = Path(__file__).resolve().parent.parent.parent
SERVING = "import sys, service.app; print([n for n in ('torch', 'torchvision', 'timm', 'training') if n in sys.modules])"
LIGHT = "import sys, training.cli, models.__main__; print([n for n in ('torch', 'timm', 'onnxruntime') if n in sys.modules])"


@pytest.mark.parametrize("code", [SERVING, LIGHT], ids=["service.app loads no torch", "command lines start fast"])
def test_import_loads_nothing_heavy_and_leaves_no_state(tmp_path: Path, code: str) -> None:
    home = tmp_path / "home"
    env = {**environment(home), "BENTOML_HOME": str(tmp_path / "bento"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not home.exists()


@pytest.mark.parametrize("name", ["models", "service", "training"])
def test_package_is_the_repositorys_own(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).parent == ROOT / name


@pytest.mark.parametrize("module", ["service.runtime.onnx", "training.export"])
def test_onnx_runtime_reports_nothing(tmp_path: Path, module: str) -> None:
    env = {**environment(tmp_path / "candor"), "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    env.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=tmp_path, env=env, check=True)
    # Where it reports, it says what it is by a file there.
    assert not list(tmp_path.rglob("*onnxruntime*"))
