"""Two services, as on Kubernetes: one that answers, and one that runs the jobs, to which the first leads what is about them."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from service.keys import create_key
from tests.support.folders import write_colours
from tests.support.pictures import picture
from tests.support.server import serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file of keys, which both have, and one of them."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return file, create_key(file, ("train", "predict", "metrics"), "ci")[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("both")
    publish_colours(Registry(home / "registry"), home / "work")
    return home


@pytest.fixture(scope="module")
def jobs(home: Path, key: tuple[Path, str]) -> Iterator[Server]:
    with serve(home / "jobs", run="jobs", registry=home / "registry", keys=key[0]) as server:
        yield server


@pytest.fixture(scope="module")
def client(home: Path, jobs: Server, key: tuple[Path, str]) -> Iterator[httpx.Client]:
    """Of the service that answers."""
    settings = {"run": "serve", "registry": home / "registry", "jobs_url": jobs.url, "keys": key[0]}
    with serve(home / "serve", **settings) as server:
        headers = {"authorization": f"Bearer {key[1]}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
            yield client


def test_job_is_asked_for_followed_and_ended_through_the_service_that_answers(
    client: httpx.Client, jobs: Server, tmp_path: Path
) -> None:
    data = shutil.make_archive(str(tmp_path / "colours"), "zip", write_colours(tmp_path / "photos", {"": 20}))
    kept = client.put("/datasets/colours", content=Path(data).read_bytes(), headers={"content-type": "application/zip"})
    assert kept.status_code == 201, kept.text
    asked = {"model": "birds", "dataset": "colours", "recipe": {"backbone": "test_resnet", "pretrained": False, "epochs": 500}}
    accepted = client.post("/retrain", json=asked, headers={"idempotency-key": "one"})
    assert accepted.status_code == 202, accepted.text
    job = accepted.json()
    assert job["asked_by"] == "ci"
    assert accepted.headers["x-request-id"]
    # A page of this service may ask, though the other one has another address.
    host = str(client.base_url).removeprefix("http://")
    page = client.post("/retrain", json=asked, headers={"idempotency-key": "one", "origin": f"http://{host}"})
    assert page.json()["id"] == job["id"]
    events = []
    with client.stream("GET", f"/jobs/{job['id']}/events", timeout=120) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
            if events and events[-1].get("state") == "running":
                break
    assert client.post(f"/jobs/{job['id']}/cancel").status_code == 202
    until = time.monotonic() + 30
    while (shown := client.get(f"/jobs/{job['id']}").json())["state"] != "cancelled":
        assert time.monotonic() < until, shown
        time.sleep(0.1)
    # Metrics of jobs are there where the jobs are.
    assert "candor_jobs{" not in client.get("/metrics").text
    there = httpx.get(f"{jobs.url}/metrics", headers=client.headers)
    assert 'candor_jobs_finished_total{state="cancelled"} 1.0' in there.text


def test_many_who_hang_up_on_a_stream_take_nothing_from_others(client: httpx.Client) -> None:
    job = client.get("/jobs").json()["jobs"][0]["id"]
    threads = []
    for _ in range(30):

        def hang_up() -> None:
            with client.stream("GET", f"/jobs/{job}/events?", headers={"last-event-id": str(10**9)}) as response:
                assert response.status_code == 200

        threads.append(threading.Thread(target=hang_up))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
    started = time.monotonic()
    assert client.get("/jobs").status_code == 200
    assert time.monotonic() - started < 5


def test_service_that_runs_jobs_answers_no_images_and_the_other_does(client: httpx.Client, jobs: Server) -> None:
    assert client.post("/classify", content=picture("green")).json()["results"][0]["predictions"][0]["label"] == "green"
    refused = httpx.post(f"{jobs.url}/classify", content=picture("green"), headers=client.headers)
    assert refused.status_code == 400


def test_key_is_asked_for_on_both_sides(client: httpx.Client, jobs: Server) -> None:
    for url in (str(client.base_url), jobs.url):
        assert httpx.get(f"{url}/jobs").status_code == 401


def test_other_service_that_is_gone_is_said_to_be(home: Path) -> None:
    with serve(home / "alone", run="serve", registry=home / "registry", jobs_url="http://127.0.0.1:1") as server:
        response = httpx.get(f"{server.url}/jobs")
        assert (response.status_code, response.json()["code"]) == (503, "no_supervisor")
        assert httpx.post(f"{server.url}/classify", content=picture("green")).status_code == 200
