"""docs/kubernetes.md, as a reader goes through it: every command in order, with one process in the place of a cluster."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from models.registry import Registry
from tests.support.cluster import K8S
from tests.support.guide import sections
from tests.support.server import ROOT, environment, free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(900)]


def lay_out(work: Path) -> None:
    """A checkout with a folder of the reader's own, and a kubectl that stands in for the real one."""
    shutil.copytree(K8S, work / "k8s")
    for name in (".venv", "samples"):
        (work / name).symlink_to(ROOT / name)
    deploy = work / "deploy"
    deploy.mkdir()
    for section in sections():
        for text in section.whole[:1]:
            (deploy / "kustomization.yaml").write_text(text)
            # Of two ways to write it, the first.
            section.whole.clear()
        for name, text in {**section.patches, **section.resources}.items():
            (deploy / name).write_text(text)
    stand_in = work / "bin" / "kubectl"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.kubectl "$@"\n')
    stand_in.chmod(0o755)


def test_every_command_works_in_the_order_of_the_guide(tmp_path: Path) -> None:
    work, home, port = tmp_path / "work", tmp_path / "home", free_port()
    home.mkdir()
    lay_out(work)
    commands = "\n".join(text for section in sections() for text in section.commands)
    variables = {
        **environment(home),
        "PATH": f"{work}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "STAND_IN_HOME": str(home),
        "STAND_IN_PORT": str(port),
    }
    script = commands.replace("localhost:8080", f"127.0.0.1:{port}")
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail"], input=script, cwd=work, env=variables, capture_output=True, text=True, check=False
        )
        log = home / "service.log"
        assert done.returncode == 0, f"{done.stderr}\n{log.read_text() if log.exists() else ''}"
        # Asked, and answered by the model that the guide has published.
        assert '"model":{"name":"imagenet","version":1' in done.stdout
        with closing(sqlite3.connect(work / "jobs.sqlite3")) as backup:
            assert backup.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert backup.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    finally:
        stop = [sys.executable, "-c", "from tests.support.kubectl import stop; stop()"]
        subprocess.run(stop, cwd=ROOT, env=variables, check=False, timeout=120)
    assert Registry(home / "registry").aliases("imagenet").production == 1
    assert list((home / "jobs").glob("jobs.sqlite3*"))
