"""The training Jobs: the very arguments of the manifests, with two processes on this machine for their GPUs and nodes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from models.registry import Registry
from tests.support.cluster import K8S, Cluster, render
from tests.support.folders import write_colours
from tests.support.server import ROOT, environment, free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(600)]
SMALL = ["backbone=test_resnet", "pretrained=false", "batch_norm=frozen", "image_size=32", "batch_size=8"]
JOB = "candor-train-birds"
MEETING = f"{JOB}-0.candor-train"


def command(training: str, data: Path, *more: str, processes: int, rank: int = 0, port: int = 0) -> list[str]:
    """The manifest's, with what is there instead of a cluster."""
    job = Cluster(render(K8S / "train" / training)).named("Job", JOB)
    assert job is not None
    container = job["spec"]["template"]["spec"]["containers"][0]
    here = {
        "--nproc-per-node=4": f"--nproc-per-node={processes}",
        "/data": str(data),
        "--node-rank=$(NODE_RANK)": f"--node-rank={rank}",
        f"--master-addr={MEETING}": "--master-addr=127.0.0.1",
        "--master-port=29500": f"--master-port={port}",
    }
    assert container["command"][0] == "python"
    return [sys.executable, *container["command"][1:], *(here.get(text, text) for text in container["args"]), *SMALL, *more]


def start(home: Path, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, cwd=ROOT, env=environment(home), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_one_node_publishes_once_however_often_the_job_begins(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"train": 16, "val": 5, "test": 7})
    said = []
    for _ in range(2):
        process = start(tmp_path, command("one-node", data, "epochs=1", processes=2))
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        said.append((out.splitlines()[-1], "was published before" in err))
    assert said == [("birds:1", False), ("birds:1", True)]
    assert Registry(tmp_path / "registry").versions("birds") == [1]


def test_two_nodes_meet_and_publish_one_version(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"train": 16, "val": 5, "test": 7})
    port = free_port()
    nodes = [start(tmp_path, command("nodes", data, "epochs=1", processes=1, rank=rank, port=port)) for rank in (0, 1)]
    ends = [(*node.communicate(timeout=300), node.returncode) for node in nodes]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert ends[0][0].splitlines()[-1] == "birds:1"
    assert Registry(tmp_path / "registry").versions("birds") == [1]


def test_data_that_are_not_there_end_the_job_for_good(tmp_path: Path) -> None:
    """2 is what the manifest's podFailurePolicy does not try again; torchrun itself would end with 1."""
    process = start(tmp_path, command("one-node", tmp_path / "nowhere", processes=2))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "does not exist" in err


@pytest.mark.fault
def test_node_that_goes_away_is_not_taken_for_a_mistake(tmp_path: Path) -> None:
    """Whoever waits for it ends too, with a code that the Job tries again."""
    data = write_colours(tmp_path / "photos", {"train": 64, "val": 5, "test": 5})
    port, log = free_port(), tmp_path / "log"
    with log.open("w") as file:
        nodes = [
            subprocess.Popen(
                command("nodes", data, "epochs=200", processes=1, rank=rank, port=port),
                cwd=ROOT,
                env=environment(tmp_path),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            for rank in (0, 1)
        ]
    try:
        wait_for(log, "epoch 2/200", nodes[0])
        # The node's other processes see that their parent is gone, or their peer is.
        kill_all(nodes[1].pid)
        assert nodes[0].wait(120) not in (0, 2), log.read_text()
    finally:
        for node in nodes:
            kill_all(node.pid)
            node.wait()


def wait_for(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 200
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


def kill_all(pid: int) -> None:
    """A process of a session of its own, and those below it, which torchrun puts into sessions of theirs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.fault
def test_job_that_is_moved_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "photos", {"train": 64, "val": 5, "test": 5})
    log = tmp_path / "log"
    with log.open("w") as file:
        first = command("one-node", data, "epochs=40", processes=2)
        process = subprocess.Popen(first, cwd=ROOT, env=environment(tmp_path), stdout=file, stderr=file)
    wait_for(log, "epoch 2/40", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM, log.read_text()
    assert "what was trained so far is kept" in log.read_text()
    process = start(tmp_path, first)
    try:
        assert process.stderr is not None
        assert any("resuming at epoch" in line for line in process.stderr)
    finally:
        process.terminate()
        process.communicate(timeout=120)
