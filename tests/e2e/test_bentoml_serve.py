"""`bentoml serve .` serves the same service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from models.registry import Registry
from tests.support.pictures import picture
from tests.support.server import ROOT, environment, free_port
from tests.support.tiny import publish_colours

pytestmark = pytest.mark.e2e


def test_bentoml_serve_answers_like_python_m_service(tmp_path: Path) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    port = free_port()
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", ".", "--host", "127.0.0.1", "--port", str(port)]
    env = {**environment(tmp_path), "BENTOML_HOME": str(tmp_path / "bento"), "BENTOML_DO_NOT_TRACK": "true"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            try:
                if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        good = httpx.post(f"{url}/classify", content=picture("blue"), headers={"content-type": "image/png"})
        bad = httpx.post(f"{url}/classify", content=b"", headers={"content-type": "image/png"})
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
    assert good.json()["results"][0]["predictions"][0]["label"] == "blue"
    assert (bad.status_code, bad.json()["code"]) == (400, "empty_body")
