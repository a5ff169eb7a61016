"""The real trainer and the real gate, over a registry in an object store, on machines that share nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from models.holdout import Holdout
from models.open_registry import open_registry
from tests.support.buckets import s3
from tests.support.folders import write_colours
from tests.support.server import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(600)]
TINY = ("backbone=test_resnet", "pretrained=false", "image_size=32", "epochs=1", "batch_size=8")


def run(home: Path, place: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(home, registry=place), capture_output=True, text=True, timeout=300, check=False
    )


def test_versions_are_trained_judged_and_copied_by_machines_that_share_a_bucket(tmp_path: Path) -> None:
    data = str(write_colours(tmp_path / "data", {"train": 8, "val": 4, "test": 4}))
    with s3() as bucket:
        first = run(tmp_path / "a", bucket.url, "training", "fit", data, "--name", "colours", *TINY)
        assert (first.returncode, first.stdout) == (0, "colours:1\n"), first.stderr
        fit = ("training", "fit", data, "--name", "colours", "--start-from", "production", "--no-promote", *TINY[2:])
        second = run(tmp_path / "b", bucket.url, *fit)
        assert (second.returncode, second.stdout) == (0, "colours:2\n"), second.stderr

        registry = open_registry(bucket.url, tmp_path / "c")
        assert (registry.aliases("colours").production, registry.aliases("colours").candidate) == (1, 2)
        assert registry.manifest("colours", 2).parent == "colours:1"
        held = Holdout.read(registry, "colours")
        assert held is not None
        assert len(held.index.images) == 12
        judged = run(tmp_path / "c", bucket.url, "training", "gate", "colours:2")
        assert judged.stdout in {"promote\n", "reject\n"}, judged.stderr
        report = open_registry(bucket.url, tmp_path / "d").read_gate("colours", 2)
        assert report is not None
        assert (report.verdict, report.images, report.holdout_sha256) == (judged.stdout.strip(), 12, held.sha256)

        bucket.stop()
        lost = run(tmp_path / "e", bucket.url, "models", "list")
        assert lost.returncode == 2
        assert lost.stderr.startswith(f"{bucket.url} cannot be reached: ")
