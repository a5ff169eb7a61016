"""What `make run` trains: good enough, better than it was raw, and done once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from models.dataset_store import DatasetStore
from models.registry import Registry
from tests.support.folders import write_colours
from tests.support.server import ROOT, Server, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def training(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)


def test_sample_model_reaches_85_percent_and_calibration_helps(quickstart_home: Path) -> None:
    metrics = Registry(quickstart_home / "registry").manifest("fashion", 1).metrics
    assert metrics is not None
    assert metrics.calibrated is not None
    assert metrics.raw is not None
    assert metrics.calibrated.images == 1000
    assert metrics.calibrated.accuracy >= 0.85
    assert metrics.calibrated.nll < metrics.raw.nll
    # What is published is no worse on validation than the probe.
    assert metrics.chosen is not None
    assert metrics.validation[metrics.chosen].nll <= metrics.validation["probe"].nll


def test_sample_is_kept_as_a_data_set_to_train_on_again(quickstart_home: Path) -> None:
    card = DatasetStore(quickstart_home / "datasets").resolve("fashion-mnist").card
    assert (card.images, len(card.labels), card.findings) == (4200, 10, ())
    assert card.splits == {"train": 2000, "validation": 600, "calibration": 600, "test": 1000}


def test_pretrained_model_says_that_it_is_not_calibrated(quickstart_home: Path) -> None:
    registry = Registry(quickstart_home / "registry")
    manifest = registry.manifest("imagenet", 1)
    assert (len(manifest.labels), len(set(manifest.labels))) == (1000, 1000)
    assert manifest.backbone.licence == "apache-2.0"
    assert manifest.metrics is None
    confidence = (registry.path("imagenet", 1) / "confidence.json").read_text()
    assert '"status": "none"' in confidence


def test_second_quickstart_trains_nothing_and_takes_seconds(quickstart_home: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "training", "quickstart"],
        cwd=ROOT,
        env=environment(quickstart_home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - started < 5
    assert (done.stdout, done.stderr) == ("", "")
    assert Registry(quickstart_home / "registry").versions("fashion") == [1]


def test_fit_on_the_command_line_is_served_by_the_running_service(real: Server, quickstart_home: Path, tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"": 12})
    keys = ["backbone=resnet18", "pretrained=false", "image_size=32", "--epochs", "1"]
    done = training(quickstart_home, "fit", str(data), "--name", "colours", *keys)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "colours:1"
    real.wait_for_version("colours", 1, seconds=5)
    body = (data / "red" / "000.png").read_bytes()
    response = httpx.post(f"{real.url}/classify?model=colours", content=body, headers={"content-type": "image/png"})
    assert {entry["label"] for entry in response.json()["results"][0]["predictions"]} == {"red", "green", "blue"}


@pytest.mark.fault
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_fit_that_is_stopped_publishes_nothing(tmp_path: Path, kind: signal.Signals) -> None:
    data = write_colours(tmp_path / "photos", {"": 40})
    keys = ["backbone=resnet18", "pretrained=false", "image_size=64", "epochs=500"]
    command = [sys.executable, "-m", "training", "fit", str(data), "--name", "colours", *keys]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
    until = time.monotonic() + 60
    while "epoch 1/500" not in (tmp_path / "log").read_text():
        assert time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.1)
    os.kill(process.pid, kind)
    try:
        code = process.wait(30)
    finally:
        process.kill()
    codes = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGKILL: -signal.SIGKILL}
    assert code == codes[kind]
    assert Registry(tmp_path / "registry").names() == []
    words = {signal.SIGINT: "interrupted; what was in progress is not published", signal.SIGTERM: "with --resume goes on"}
    assert words.get(kind, "") in (tmp_path / "log").read_text()
