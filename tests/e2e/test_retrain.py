"""Retraining over HTTP with the real trainer: from a zip to a version in production, and every way that it does not get there."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
import httpx
import pytest

from models.registry import Registry
from tests.support.folders import write_colours
from tests.support.pictures import picture
from tests.support.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(900)]
# A network of random weights that learns three colours in seconds.
RECIPE = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "batch_size": 8, "epochs": 2}
JOB_S = 400.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrain")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, mutations_per_minute=1000) as server:
        yield server


@pytest.fixture(scope="module")
def colours(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of three colours, uploaded as a zip."""
    folder = tmp_path_factory.mktemp("colours")
    return upload(client, "colours", write_colours(folder / "photos", {"": 40}))


def upload(client: httpx.Client, name: str, folder: Path) -> str:
    data = shutil.make_archive(str(folder), "zip", folder)
    zipped = Path(data).read_bytes()
    response = client.put(f"/datasets/{name}", content=zipped, headers={"content-type": "application/zip"})
    assert response.status_code == 201, response.text
    return name


def retrain(client: httpx.Client, key: str, **changes: Any) -> httpx.Response:
    asked = {"model": "colours", "dataset": "colours", "recipe": RECIPE} | changes
    return client.post("/retrain", json=asked, headers={"idempotency-key": key})


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    until = time.monotonic() + JOB_S
    while True:
        job = client.get(f"/jobs/{job_id}").json()
        if job["finished"]:
            return job
        assert time.monotonic() < until, job
        time.sleep(0.2)


@pytest.fixture(scope="module")
def first(client: httpx.Client, colours: str) -> str:
    """The job that made the first version, while it runs or after."""
    accepted = retrain(client, "first")
    assert accepted.status_code == 202, accepted.text
    job_id = str(accepted.json()["id"])
    assert accepted.headers["location"] == f"/jobs/{job_id}"
    return job_id


def test_zip_becomes_a_version_in_production_and_the_next_must_be_better(
    server: Server, client: httpx.Client, first: str, home: Path
) -> None:
    job_id = first
    # Asked again it is the same job, and another request by that key is refused.
    assert retrain(client, "first").json()["id"] == job_id
    assert retrain(client, "first", promote="manual").json()["code"] == "idempotency_key_reused"
    assert client.delete("/datasets/colours").json()["code"] == "in_use"

    events = read_events(client, job_id)
    states = [data["state"] for _, kind, data in events if kind == "state"]
    assert states == ["preparing", "running", "evaluating", "publishing", "succeeded"]
    assert [data["epoch"] for _, kind, data in events if kind == "epoch"] == [1, 2]
    # Whoever was cut off goes on where that was.
    middle = events[len(events) // 2][0]
    assert read_events(client, job_id, middle) == [event for event in events if event[0] > middle]

    job = finished(client, job_id)
    assert (job["state"], job["version"], job["promoted"], job["code"]) == ("succeeded", 1, True, "promoted")
    assert job["gate"]["verdict"] == "promote"
    assert [check["name"] for check in job["gate"]["checks"] if not check["passed"]] == []
    assert client.get("/models/colours/versions/1/gate").json() == job["gate"]
    assert "published colours:1" in client.get(f"/jobs/{job_id}/log").text
    manifest = Registry(home / "registry").manifest("colours", 1)
    assert manifest.run == job_id

    server.wait_for_version("colours", 1, 10)
    answer = client.post("/classify?model=colours", content=picture("green")).json()
    assert answer["results"][0]["predictions"][0]["label"] == "green"

    # The same again is no better, and so is not promoted.
    again = finished(client, retrain(client, "again").json()["id"])
    assert (again["state"], again["version"], again["promoted"]) == ("rejected", 2, False)
    assert "not surely better" in again["reason"]
    shown = client.get("/models/colours").json()
    assert (shown["production"], shown["candidate"]) == (1, None)


def read_events(client: httpx.Client, job_id: str, after: int = 0) -> list[tuple[int, str, dict[str, Any]]]:
    """Follow a job to its end: id, kind and data of each event."""
    events = []
    headers = {"last-event-id": str(after)}
    with client.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=JOB_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for block in "".join(response.iter_text()).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


def test_data_with_its_labels_swapped_is_rejected_and_production_stays(client: httpx.Client, first: str, tmp_path: Path) -> None:
    """Whoever may train is not thereby trusted: what the labels mean is decided on images that they cannot touch."""
    folder = write_colours(tmp_path / "swapped", {"": 40}, seed=7)
    (folder / "red").rename(folder / "held")
    (folder / "green").rename(folder / "red")
    (folder / "held").rename(folder / "green")
    assert finished(client, first)["promoted"]
    before = client.get("/models/colours").json()
    upload(client, "swapped", folder)
    job = finished(client, retrain(client, "swapped", dataset="swapped").json()["id"])
    assert job["state"] == "rejected"
    assert {check["name"] for check in job["gate"]["checks"] if not check["passed"]} >= {"accuracy", "recall"}
    assert client.get("/models/colours").json()["production"] == before["production"]


def test_cancelled_job_ends_soon_and_leaves_nothing(client: httpx.Client, colours: str, home: Path) -> None:
    job_id = retrain(client, "cancelled", recipe=RECIPE | {"epochs": 500}).json()["id"]
    until = time.monotonic() + JOB_S
    while not client.get(f"/jobs/{job_id}").json()["epochs"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    asked = time.monotonic()
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 202
    job = finished(client, job_id)
    assert job["state"] == "cancelled"
    assert time.monotonic() - asked < 10
    assert not (home / "runs" / job_id).exists()
    late = client.post(f"/jobs/{job_id}/cancel")
    assert (late.status_code, late.json()["code"]) == (409, "too_late")


def test_bentoml_client_retrains_and_several_data_sets_are_merged(
    server: Server, client: httpx.Client, colours: str, home: Path, tmp_path: Path
) -> None:
    upload(client, "more", write_colours(tmp_path / "more", {"": 10}, seed=3))
    with bentoml.SyncHTTPClient(server.url) as caller:
        job = caller.retrain(
            model="by-client",
            dataset=["colours", "more"],
            recipe=RECIPE | {"epochs": 0},
            promote="manual",
            idempotency_key="bento",
        )
    assert job["state"] == "queued"
    assert [reference.partition("@")[0] for reference in job["dataset"]] == ["colours", "more"]
    ended = finished(client, job["id"])
    assert (ended["state"], ended["code"], ended["version"]) == ("succeeded", "candidate", 1), ended
    shown = client.get("/models/by-client").json()
    assert (shown["production"], shown["candidate"]) == (None, 1)
    # By hand, and only from where it was seen.
    tag = client.get("/models/by-client").headers["etag"]
    stale = client.post("/models/by-client/promote", json={"version": 1}, headers={"if-match": '"999"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    moved = client.post("/models/by-client/promote", json={"version": 1}, headers={"if-match": tag})
    assert (moved.status_code, moved.json()["production"]) == (200, 1)
    assert moved.headers["etag"] != tag
    lines = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
    (asked,) = [line for line in lines if line.get("job") == ended["id"]]
    assert (asked["model"], asked["dataset"]) == ("by-client", " ".join(ended["dataset"]))
    last = [line for line in lines if line["action"] == "POST /models/{name}/promote"][-1]
    assert (last["object"], last["from_version"], last["to_version"]) == ("by-client", None, 1)
    stored = [line for line in lines if line["action"] == "PUT /datasets/{name}" and line["object"] == "more"][-1]
    assert f"more@{stored['version']}" in ended["dataset"]
    server.wait_for_version("by-client", 1, 10)
    nothing = client.post("/models/by-client/rollback")
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_to_roll_back")


def test_sixteen_who_ask_the_same_at_once_get_one_job(server: Server, client: httpx.Client, colours: str) -> None:
    def ask(_: int) -> httpx.Response:
        return httpx.post(
            f"{server.url}/retrain",
            json={"model": "once", "dataset": "colours", "recipe": RECIPE},
            headers={"idempotency-key": "sixteen"},
            timeout=30,
        )

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert {answer.status_code for answer in answers} == {202}
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == 1
    client.post(f"/jobs/{ids.pop()}/cancel")


@pytest.mark.parametrize(
    ("changes", "status", "code", "says"),
    [
        ({"recipe": {"epochz": 3, "lr": 9}}, 422, "invalid_recipe", "recipe.lr"),
        ({"recipe": {"weights": "/etc/passwd"}}, 422, "invalid_recipe", "start_from"),
        ({"dataset": "nothing"}, 404, "unknown_dataset", "nothing"),
        ({"dataset": "../../etc"}, 404, "unknown_dataset", ""),
        ({"dataset": "/etc"}, 403, "not_allowed", "CANDOR_DATASET_ROOTS"),
        ({"dataset": []}, 400, "invalid_parameter", "dataset"),
        ({"start_from": "colours:99"}, 404, "unknown_model", "start_from"),
        ({"start_from": "somewhere"}, 400, "invalid_parameter", "start_from"),
        ({"model": "Not A Name"}, 400, "invalid_parameter", "model"),
        ({"promote": "always"}, 400, "invalid_parameter", "promote"),
        ({"colour": "red"}, 400, "invalid_parameter", "colour"),
    ],
)
def test_what_can_be_known_beforehand_is_answered_beforehand(
    client: httpx.Client, colours: str, changes: dict[str, Any], status: int, code: str, says: str
) -> None:
    before = len(client.get("/jobs").json()["jobs"])
    response = retrain(client, f"wrong {changes}", **changes)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert says in response.json()["detail"]
    assert len(client.get("/jobs").json()["jobs"]) == before


def test_key_that_makes_asking_twice_harmless_is_required(client: httpx.Client, colours: str) -> None:
    response = client.post("/retrain", json={"model": "colours", "dataset": "colours"})
    assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_required")
    both = {"model": "colours", "dataset": "colours", "idempotency_key": "a"}
    assert client.post("/retrain", json=both, headers={"idempotency-key": "b"}).status_code == 400
    assert client.post("/retrain", content=b"model=colours").status_code == 415
    assert client.post("/retrain", content=b"{", headers={"content-type": "application/json"}).status_code == 400


def test_pattern_that_never_ends_holds_up_its_trainer_and_nobody_else(client: httpx.Client, colours: str) -> None:
    """Pattern and names are both the caller's; here they are not tried on each other."""
    answer = retrain(client, "pattern", model="slow", recipe={"label_pattern": "^(a+)+$"})
    assert answer.status_code == 202
    client.post(f"/jobs/{answer.json()['id']}/cancel")


def test_jobs_that_are_not_there(client: httpx.Client) -> None:
    for path in ("/jobs/nothing", f"/jobs/{'0' * 32}", f"/jobs/{'0' * 32}/events", f"/jobs/{'0' * 32}/log"):
        assert client.get(path).json()["code"] == "unknown_job", path
    assert client.post(f"/jobs/{'0' * 32}/cancel").status_code == 404
    assert client.get("/jobs?state=dancing").status_code == 400


def test_jobs_are_in_the_metrics(client: httpx.Client, colours: str) -> None:
    text = client.get("/metrics").text
    assert 'candor_jobs{state="queued"}' in text
    assert 'candor_jobs_finished_total{state="failed"}' in text
