"""Training as commands: several processes, TERM and --resume, what is written for machines."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from models.registry import Registry
from tests.support.folders import write_colours
from tests.support.server import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(900)]
EPOCHS = "epochs=12"
KEYS = ["backbone=test_resnet", "pretrained=false", "batch_norm=frozen", "image_size=32", "batch_size=8"]


def train(home: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *command[1:]]
    return subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False, timeout=600)


def history(home: Path, name: str, version: int = 1) -> list[dict[str, object]]:
    return json.loads((Registry(home / "registry").path(name, version) / "history.json").read_text())["epochs"]


@pytest.mark.parametrize("keys", [[], ["batch_norm=train"]], ids=["batch norm frozen", "batch norm trained"])
def test_two_processes_take_the_steps_of_one_and_end_with_equal_weights(tmp_path: Path, keys: list[str]) -> None:
    # Trained batch norm sees half a batch in each process, and so is another network; frozen it is the same to rounding.
    for processes in (2,) if keys else (1, 2):
        command = [sys.executable, "-m", "tests.support.ranks", str(tmp_path), *keys]
        if processes == 2:
            command[1:2] = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
        done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}-of-2.json").read_text()) for rank in (0, 1))
    if not keys:
        alone = json.loads((tmp_path / "0-of-1.json").read_text())
        for one, two in zip(alone, first, strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
            assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-4)
    assert [entry["loss"] for entry in first] == [entry["loss"] for entry in second]
    assert [entry["validation_loss"] for entry in first] == [entry["validation_loss"] for entry in second]
    for kind in ("last", "ema"):
        ours, theirs = (load_file(tmp_path / f"{rank}-of-2-{kind}.safetensors") for rank in (0, 1))
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), key


def test_fit_under_torchrun_publishes_one_version_and_talks_once(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"train": 16, "val": 5, "test": 7})
    done = train(tmp_path, "fit", str(data), "--name", "birds", *KEYS, "epochs=2", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["birds:1"]
    assert done.stderr.count("published birds:1") == 1
    registry = Registry(tmp_path / "registry")
    assert registry.versions("birds") == [1]
    test = registry.manifest("birds", 1).metrics.test  # type: ignore[union-attr]
    # 21 images on two processes: none is counted twice to make the shares equal.
    assert {scores.images for scores in test.values()} == {21}


def test_a_mistake_under_torchrun_is_said_and_hangs_nobody(tmp_path: Path) -> None:
    """Rank 0 alone publishes: what goes wrong there ends the others too."""
    data = write_colours(tmp_path / "photos", {"": 8})
    (tmp_path / "registry").write_text("a file where the registry's folder should be")
    done = train(tmp_path, "fit", str(data), "--name", "birds", *KEYS, "epochs=1", processes=2)
    assert done.returncode != 0
    assert "registry" in done.stderr


def stop_in_training(home: Path, data: Path, name: str, number: signal.Signals, *more: str) -> tuple[int, str]:
    """Start a fit, send a signal once the second epoch's steps have begun, and return its exit code and what it said."""
    command = [sys.executable, "-m", "training", "fit", str(data), "--name", name, *KEYS, EPOCHS, *more]
    log = home / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=file, stderr=file)
    until = time.monotonic() + 90
    while "epoch 2/12" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    os.kill(process.pid, number)
    try:
        return process.wait(60), log.read_text()
    finally:
        process.kill()


@pytest.mark.fault
def test_term_keeps_a_checkpoint_and_resume_ends_where_an_unstopped_run_does(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"train": 64, "val": 5, "test": 5})
    code, said = stop_in_training(tmp_path, data, "birds", signal.SIGTERM)
    assert code == 75, said
    assert "the same command with --resume goes on" in said
    assert Registry(tmp_path / "registry").names() == []
    # Another recipe is another run.
    other = train(tmp_path, "fit", str(data), "--name", "birds", *KEYS, EPOCHS, "lr=0.5", "--resume")
    assert other.returncode == 2
    assert "another recipe" in other.stderr
    resumed = train(tmp_path, "fit", str(data), "--name", "birds", *KEYS, EPOCHS, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"resuming at epoch \d+, step \d+", resumed.stderr)
    whole = train(tmp_path, "fit", str(data), "--name", "whole", *KEYS, EPOCHS)
    assert whole.returncode == 0, whole.stderr
    ours, theirs = history(tmp_path, "birds"), history(tmp_path, "whole")
    assert [entry["loss"] for entry in ours] == [entry["loss"] for entry in theirs]
    assert [entry["validation_loss"] for entry in ours] == [entry["validation_loss"] for entry in theirs]
    # What was worked in is gone with what it was for.
    assert list((tmp_path / "runs").iterdir()) == []


def test_events_are_json_lines_that_tell_the_whole_story(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"train": 16, "val": 5, "test": 5})
    file = tmp_path / "events" / "fit.jsonl"
    done = train(tmp_path, "fit", str(data), "--name", "birds", *KEYS, "epochs=2", "--events", str(file))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert kinds == ["started", "plan", "epoch", "epoch", "published"]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    told = [event["loss"] for event in events if event["event"] == "epoch"]
    assert told == [entry["loss"] for entry in history(tmp_path, "birds")]
    assert events[-1]["version"] == 1
