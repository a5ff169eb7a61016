"""`make bento` makes a Bento that is whole: it serves its model elsewhere, where there is nothing but the service's packages."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from tests.support.environments import service_python
from tests.support.pictures import picture
from tests.support.server import ROOT, Server, environment, free_port
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
WITHOUT_NETWORK = ("unshare", "--map-root-user", "--net")
BUILD_S = 300


def run(*command: object, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=BUILD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento with the second version of a model, built without the network and packed with all that belongs to it."""
    home = tmp_path_factory.mktemp("bento")
    registry = Registry(home / "registry")
    for _ in range(2):
        publish_colours(registry, home / "work")
    registry.promote("colours", 2)
    env = environment(home)
    # What is installed is as it should be; a new lock is not this test's matter.
    run(*WITHOUT_NETWORK, "make", "--assume-old=install", "bento", "MODEL=colours", cwd=ROOT, env=env)
    packed = home / "candor.bento"
    env |= {"BENTOML_HOME": str(home / "bentoml"), "BENTOML_DO_NOT_TRACK": "true"}
    run(ROOT / ".venv" / "bin" / "bentoml", "export", "candor:latest", packed, cwd=home, env=env)
    return packed


@contextmanager
def served(archive: Path, elsewhere: Path, **settings: object) -> Iterator[Server]:
    """What the archive holds, by `bentoml serve` in the service's own environment and another working directory."""
    elsewhere.mkdir(exist_ok=True)
    env = environment(elsewhere / "home", **settings)
    env |= {"BENTOML_HOME": str(elsewhere / "bentoml"), "BENTOML_DO_NOT_TRACK": "true"}
    env = {name: value for name, value in env.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    bentoml, port, log = (service_python(), "-m", "bentoml"), free_port(), elsewhere / "log"
    run(*bentoml, "import", archive, cwd=elsewhere, env=env)
    command = [*map(str, bentoml), "serve", "candor:latest", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=elsewhere, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        server = Server(process, f"http://127.0.0.1:{port}", log)
        server.wait("/readyz", 200)
        yield server
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)


def classify(server: Server) -> dict[str, object]:
    response = httpx.post(f"{server.url}/classify", content=picture("blue"), headers={"content-type": "image/png"}, timeout=30)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["results"][0]["predictions"][0]["label"] == "blue"
    return answer["model"]


def pins_and_hashes(lock: str) -> set[str]:
    return set(re.findall(r"^[a-z0-9._-]+==[^;\s]+|--hash=sha256:\w+", lock, re.MULTILINE))


def test_bento_holds_the_code_that_serves_its_locked_packages_and_one_version(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        files = {name.removeprefix("./") for name in packed.getnames() if packed.getmember(name).isfile()}
        needed = packed.extractfile(next(name for name in packed.getnames() if name.endswith("env/python/requirements.txt")))
        assert needed is not None
        requirements = needed.read().decode()
    code = {name.removeprefix("src/") for name in files if name.startswith("src/")}
    ours = {str(path.relative_to(ROOT)) for folder in ("service", "models") for path in (ROOT / folder).rglob("*.py")}
    assert code == ours | {"bentofile.yaml"}
    baked = {match[1] for name in files if (match := re.search(r"^models/candor-registry/\w+/registry/(.*)", name))}
    assert {"colours/versions/2/manifest.json", "colours/versions/2/model.onnx"} <= baked
    assert not [name for name in baked if name.startswith("colours/versions/1/")]
    # BentoML writes markers its own way.
    assert pins_and_hashes(requirements) == pins_and_hashes((ROOT / "requirements" / "service.txt").read_text())
    assert not re.search(r"^(torch|timm)\b", requirements, re.MULTILINE)


def test_bento_serves_its_model_where_there_is_neither_the_repository_nor_torch(archive: Path, tmp_path: Path) -> None:
    done = subprocess.run([service_python(), "-c", "import torch"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "No module named 'torch'" in done.stderr
    with served(archive, tmp_path / "elsewhere") as server:
        assert classify(server) == {"name": "colours", "version": 2, "runtime": "onnxruntime", "precision": "fp32"}


def test_registry_that_is_named_wins_over_the_one_in_the_bento(archive: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish_colours(registry, tmp_path / "work", name="paint")
    with served(archive, tmp_path / "elsewhere", registry=registry.root) as server:
        assert classify(server)["name"] == "paint"
