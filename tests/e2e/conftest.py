"""Servers that the end-to-end tests share: a tiny one that starts in seconds, and the real one of `make run`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.dataset_store import DatasetStore
from models.registry import Registry
from tests.support.server import ROOT, Server, environment, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

# What the command said; it is written when all is there.
LOG = "quickstart.log"


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tiny")
    publish_colours(Registry(home / "registry"), home / "work")
    return home


@pytest.fixture(scope="session")
def tiny(tiny_home: Path) -> Iterator[Server]:
    # On a CPU two images at most run together unless it is told otherwise; here they are to share batches, as on a GPU.
    with serve(tiny_home, run="serve", max_body_bytes=9_000_000, max_batch=16) as server:
        yield server


@pytest.fixture(scope="session")
def quickstart_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make run` makes before it serves: `imagenet` and `fashion`, by the real command.

    It takes minutes, so it is made once, and each process of the tests has a copy to work in.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-by-quickstart"
    with (made.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / LOG).exists():
            command = [sys.executable, "-m", "training", "quickstart"]
            done = subprocess.run(
                command, cwd=ROOT, env=environment(made), capture_output=True, text=True, check=False, timeout=1800
            )
            assert done.returncode == 0, done.stderr
            (made / LOG).write_text(done.stderr)
    home = tmp_path_factory.mktemp("quickstart")
    return Path(shutil.copytree(made, home, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def real(quickstart_home: Path) -> Iterator[Server]:
    with serve(quickstart_home, default_model="imagenet") as server:
        yield server


@pytest.fixture(scope="session")
def fashion_images(quickstart_home: Path) -> list[Path]:
    """Two test images of each label of the sample."""
    folder = DatasetStore(quickstart_home / "datasets").resolve("fashion-mnist").path / "test"
    return [path for label in sorted(folder.iterdir()) for path in sorted(label.iterdir())[:2]]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the module's own `server`."""
    with server.client() as client:
        yield client
