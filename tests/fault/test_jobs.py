"""Faults injected into a service that trains: what was acknowledged ends as it would have, once, and answers go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from models.registry import Registry
from service.jobs.place import JOBS
from tests.support.folders import write_colours
from tests.support.pictures import picture
from tests.support.processes import processes
from tests.support.server import ROOT, environment, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.fault, pytest.mark.torch, pytest.mark.timeout(900)]
RECIPE = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "batch_size": 8, "epochs": 12}
WAIT_S = 300.0
MODULES = ("service.serving", "service.jobs", "training")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a model that answers, and photos to train on."""
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    write_colours(tmp_path / "photos", {"": 40})
    return tmp_path


@contextmanager
def running(home: Path, **settings: Any) -> Iterator[tuple[Server, httpx.Client]]:
    with serve(home, dataset_roots=home, mutations_per_minute=1000, **settings) as server, server.client() as client:
        until = time.monotonic() + WAIT_S
        while (answer := retrain(client, home, "ask", model="Nobody")).json()["code"] == "no_supervisor":
            assert time.monotonic() < until, answer.text
            time.sleep(0.1)
        yield server, client


def retrain(client: httpx.Client, home: Path, key: str, **changes: Any) -> httpx.Response:
    asked = {"model": "birds", "dataset": str(home / "photos"), "recipe": RECIPE, "idempotency_key": key} | changes
    return client.post("/retrain", json=asked)


def submit(client: httpx.Client, home: Path, **changes: Any) -> str:
    response = retrain(client, home, "key", **changes)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def wait(client: httpx.Client, job_id: str, holds: Any) -> dict[str, Any]:
    """Ask until a job is as it should be; the server may be gone for a moment."""
    until, job = time.monotonic() + WAIT_S, {}
    while time.monotonic() < until:
        try:
            job = client.get(f"/jobs/{job_id}").json()
            if holds(job):
                return job
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(job)


def assert_answers(client: httpx.Client) -> None:
    answer = client.post("/classify?model=colours", content=picture("green"))
    assert answer.json()["results"][0]["predictions"][0]["label"] == "green"


def losses(home: Path, name: str) -> list[float]:
    history = Registry(home / "registry").path(name, 1) / "history.json"
    return [epoch["loss"] for epoch in json.loads(history.read_text())["epochs"]]


def test_server_dies_and_supervisor_dies_and_training_goes_on(home: Path) -> None:
    with running(home) as (server, client):
        job_id = submit(client, home)
        wait(client, job_id, lambda job: job["epochs"])
        (trainer,) = processes(home, "training")
        (serving,) = processes(home, "service.serving")
        (supervisor,) = processes(home, "service.jobs")
        os.kill(serving, signal.SIGKILL)
        os.kill(supervisor, signal.SIGKILL)
        server.wait("/readyz", 200, 30)
        assert_answers(client)
        assert processes(home, "training") == [trainer]
        job = wait(client, job_id, lambda job: job["finished"])
        assert (job["state"], job["attempt"], job["version"]) == ("succeeded", 1, 1), job
        assert Registry(home / "registry").versions("birds") == [1]


def test_all_is_killed_at_once_and_the_job_ends_as_if_nothing_had_happened(home: Path) -> None:
    """What is killed between checkpoints is computed again, to the digit."""
    with running(home, job_threads=1) as (server, client):
        job_id = submit(client, home)
        wait(client, job_id, lambda job: len(job["epochs"]) >= 2)
        for pid in (server.process.pid, *(pid for module in MODULES for pid in processes(home, module))):
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
    while any(processes(home, module) for module in MODULES):
        time.sleep(0.05)
    with running(home, job_threads=1) as (_, client):
        job = wait(client, job_id, lambda job: job["finished"])
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job
    alone = [sys.executable, "-m", "training", "fit", str(home / "photos"), "--name", "alone"]
    keys = [f"{key}={str(value).lower()}" for key, value in RECIPE.items()]
    # Rounding depends on the number of threads.
    variables = environment(home) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*alone, *keys], cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(home, "birds") == losses(home, "alone")


def test_term_keeps_what_was_learnt_and_the_next_start_goes_on(home: Path) -> None:
    with running(home) as (server, client):
        job_id = submit(client, home)
        wait(client, job_id, lambda job: len(job["epochs"]) >= 2)
        assert server.stop() == 0
    assert processes(home, "training") == []
    with running(home) as (_, client):
        job = wait(client, job_id, lambda job: job["finished"])
        assert (job["state"], job["attempt"]) == ("succeeded", 1), job
        epochs = [epoch["epoch"] for epoch in job["epochs"]]
        assert epochs == sorted(set(epochs))
        assert "resuming at epoch" in client.get(f"/jobs/{job_id}/log").text


def test_trainer_without_memory_fails_its_job_and_nothing_else(home: Path) -> None:
    with running(home, job_memory_bytes=400 << 20) as (_, client):
        job = wait(client, submit(client, home), lambda job: job["finished"])
        assert (job["state"], job["code"]) == ("failed", "out_of_memory"), job
        assert_answers(client)


def test_database_that_is_broken_stops_jobs_and_not_answers(home: Path) -> None:
    file = home / "jobs" / JOBS
    file.parent.mkdir()
    file.write_bytes(b"no database at all" * 300)
    with serve(home, dataset_roots=home) as server, server.client() as client:
        assert_answers(client)
        response = retrain(client, home, "key")
        assert response.status_code == 503
        assert response.json()["code"] in {"no_supervisor", "jobs_unreadable"}
        until = time.monotonic() + 30
        while "file is not a database" not in server.log.read_text():
            assert time.monotonic() < until
            time.sleep(0.1)
        assert client.get("/jobs").json()["code"] == "jobs_unreadable"
        assert client.get("/metrics").status_code == 200
    # Left for somebody to look at.
    assert file.read_bytes().startswith(b"no database")


def test_second_service_in_the_same_home_refuses_to_start(home: Path) -> None:
    with running(home) as (_, client):
        second = subprocess.run(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env=environment(home, port=0),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert second.returncode == 2
        assert "another service works in" in second.stderr
        assert_answers(client)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def test_full_disk_fails_the_job_and_passes(tmp_path: Path) -> None:
    home = tmp_path / "full"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(home)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a file system of its own needs root")
    try:
        publish_colours(Registry(home / "registry"), tmp_path / "work")
        write_colours(home / "photos", {"": 40})
        with running(home) as (_, client):
            job_id = submit(client, home)
            wait(client, job_id, lambda job: job["epochs"])
            filler = home / "filler"
            fill(filler)
            assert_answers(client)
            # What cannot be audited is not changed, and what cannot be written is not accepted.
            assert retrain(client, home, "second").status_code in {503, 507}
            until = time.monotonic() + WAIT_S
            while processes(home, "training"):
                assert time.monotonic() < until
                time.sleep(0.1)
            filler.unlink()
            # How it ended can be written now, if it could not before.
            job = wait(client, job_id, lambda job: job.get("finished"))
            assert (job["state"], job["code"]) == ("failed", "no_space"), job
            assert Registry(home / "registry").names() == ["colours"]
            again = retrain(client, home, "third", recipe=RECIPE | {"epochs": 1})
            assert again.status_code == 202, again.text
            assert wait(client, again.json()["id"], lambda job: job["finished"])["state"] == "succeeded"
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def test_supervisor_that_sleeps_keeps_its_place_and_wakes_to_its_jobs(home: Path) -> None:
    """A second one cannot take over meanwhile, so there is nobody whose work the first could undo."""
    with running(home) as (_, client):
        job_id = submit(client, home)
        wait(client, job_id, lambda job: job.get("epochs"))
        (supervisor,) = processes(home, "service.jobs")
        os.kill(supervisor, signal.SIGSTOP)
        second = subprocess.run(
            [sys.executable, "-m", "service.jobs"],
            cwd=ROOT,
            env=environment(home),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        os.kill(supervisor, signal.SIGCONT)
        assert second.returncode == 1
        assert "another supervisor runs the jobs" in second.stderr
        job = wait(client, job_id, lambda job: job.get("finished"))
        assert (job["state"], job["attempt"]) == ("succeeded", 1), job
        assert Registry(home / "registry").versions("birds") == [1]
