"""Feedback over HTTP: what is served is kept, reviewed, labelled, trained on and deleted; off, nothing of it happens."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from models.dataset import look
from models.dataset_store import DatasetStore
from models.registry import Registry
from service.datasets import locate
from service.jobs.schema import JobSpec
from tests.support.images import noise
from tests.support.pictures import encode, picture, side_by_side
from tests.support.server import Server, serve
from tests.support.tiny import PRESENCE, publish_colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

pytestmark = pytest.mark.e2e
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("feedback")
    publish_colours(Registry(home / "registry"), home / "work")
    publish_tiny(Registry(home / "registry"), home / "work", "presence", PRESENCE)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, keep_images=True, default_model="colours") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def classify(client: httpx.Client, *images: bytes, **query: str) -> httpx.Response:
    response = client.post("/classify", files=[("images", image) for image in images], params=query)
    assert response.status_code == 200, response.text
    return response


def queue(client: httpx.Client, **query: object) -> dict[str, Any]:
    response = client.get("/review-queue", params={"limit": 200, **query})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def find(client: httpx.Client, response: httpx.Response, index: int = 0, **query: object) -> dict[str, Any]:
    """The queue's item of an image that was answered: it is there soon."""
    until = time.monotonic() + 10
    request_id = response.headers["x-request-id"]
    while time.monotonic() < until:
        for item in queue(client, **query)["items"]:
            if (item["request_id"], item["index"]) == (request_id, index):
                return dict(item)
        time.sleep(0.02)
    raise AssertionError(f"image {index} of {request_id} is not in the queue: {queue(client, **query)}")


def outcome(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if f'candor_feedback_total{{outcome="{name}"}}' in line)
    return float(line.split()[-1])


def assert_problem(response: httpx.Response, status: int, code: str, words: str = "") -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert words in response.json()["detail"]


def test_an_answer_is_reviewed_labelled_and_leaves_the_queue(client: httpx.Client, home: Path) -> None:
    unsure = side_by_side("red", "green")
    answered = classify(client, b"no image", picture("red"), unsure)
    item = find(client, answered, 2)
    assert (item["model"], item["version"], item["size_bytes"]) == ("colours", 1, len(unsure))
    said = answered.json()["results"][2]
    assert item["prediction"]["label"] == said["predictions"][0]["label"]
    assert item["prediction"]["probability"] == pytest.approx(0.5, abs=1e-3)
    assert item["prediction"]["margin"] == pytest.approx(0, abs=1e-3)
    assert item["prediction"]["action"] == said["action"]
    # The bad image was not kept; the sure one is, behind this one.
    sure = find(client, answered, 1)
    items = [one["id"] for one in queue(client, strategy="margin")["items"]]
    assert items.index(item["id"]) < items.index(sure["id"])
    assert not [one for one in queue(client)["items"] if (one["request_id"], one["index"]) == (item["request_id"], 0)]

    shown = client.get(item["image"])
    assert (shown.content, shown.headers["content-type"]) == (unsure, "image/png")
    assert (shown.headers["x-content-type-options"], shown.headers["cache-control"]) == ("nosniff", "private, no-store")

    before = queue(client)
    labelled = client.post("/feedback", json={"request_id": item["request_id"], "index": 2, "label": "red"})
    assert labelled.status_code == 200, labelled.text
    assert labelled.json() == {
        "id": item["id"],
        "model": "colours",
        "label": "red",
        "is_new_label": False,
        "times_labelled": 1,
    }
    after = queue(client)
    assert (after["total"], after["labelled"]) == (before["total"] - 1, before["labelled"] + 1)
    assert item["id"] not in [one["id"] for one in after["items"]]
    again = client.post("/feedback", json={"id": item["id"], "label": "mauve"}).json()
    assert (again["label"], again["is_new_label"], again["times_labelled"]) == ("mauve", True, 2)
    audited = json.loads((home / "audit.jsonl").read_text().splitlines()[-1])
    assert (audited["action"], audited["result"], audited["image"]) == ("POST /feedback", "done", item["id"])


def test_explained_images_are_kept_like_classified_ones(client: httpx.Client) -> None:
    explained = client.post("/explain-confidence", content=side_by_side("green", "blue"), headers=PNG)
    item = find(client, explained)
    assert item["prediction"]["label"] == explained.json()["prediction"]["label"]
    assert item["prediction"]["margin"] == pytest.approx(explained.json()["confidence"]["margin"], abs=1e-9)
    several = client.post("/explain-confidence?model=presence", content=picture("blue"), headers=PNG)
    item = find(client, several, model="presence")
    assert item["prediction"]["selected"] == several.json()["selected"]


def test_raw_probabilities_and_few_labels_are_the_callers_wish_and_not_what_is_kept(client: httpx.Client) -> None:
    item = find(client, classify(client, side_by_side("blue", "black"), raw="true", top_k="1", trust="false"))
    assert item["prediction"]["probability"] > 0.9
    assert 0 < item["prediction"]["margin"] < item["prediction"]["probability"]


def test_one_image_asked_twice_waits_once_and_is_labelled_by_either_request(client: httpx.Client) -> None:
    image = encode(noise(20, 20, 1), "PNG")
    first, second = classify(client, image), classify(client, image)
    item = find(client, first)
    kept = outcome(client, "duplicate")
    classify(client, image)
    until = time.monotonic() + 10
    while outcome(client, "duplicate") == kept and time.monotonic() < until:
        time.sleep(0.02)
    assert [one["id"] for one in queue(client)["items"]].count(item["id"]) == 1
    answer = client.post("/feedback", json={"request_id": second.headers["x-request-id"], "label": "red"})
    assert answer.json()["id"] == item["id"]


def test_images_of_ones_own_are_labelled_in_every_form(client: httpx.Client) -> None:
    images = [encode(noise(20, 20, seed), "PNG") for seed in (10, 11, 12)]
    form = client.post("/feedback", files={"image": images[0]}, data={"label": "red", "model": "colours"})
    coded = base64.b64encode(images[1]).decode()
    plain = client.post("/feedback", json={"image": coded, "label": ["red", "pink"], "model": "presence:1"})
    raw = client.post("/feedback", content=images[2], params={"label": "green"}, headers=PNG)
    assert [response.status_code for response in (form, plain, raw)] == [200] * 3, plain.text
    assert [response.json()["model"] for response in (form, plain, raw)] == ["colours", "presence", "colours"]
    assert (plain.json()["label"], plain.json()["is_new_label"]) == (["red", "pink"], True)
    # Whoever has the image can tell its id.
    digest = hashlib.sha256(images[2]).hexdigest()
    assert raw.json()["id"] == hashlib.sha256(f"colours\0{digest}".encode()).hexdigest()[:32]
    assert client.get(f"/review-queue/{raw.json()['id']}/image").content == images[2]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"id": "0" * 32, "label": "red"}, 404, "unknown_image", "send the image itself"),
        ({"id": "../../audit.jsonl", "label": "red"}, 404, "unknown_image", ""),
        ({"request_id": "never", "index": 0, "label": "red"}, 404, "unknown_image", ""),
        ({"id": "0" * 32}, 400, "invalid_parameter", "label is missing"),
        ({"label": "red"}, 400, "invalid_parameter", "expected one of: id"),
        ({"id": "0" * 32, "request_id": "x", "label": "red"}, 400, "invalid_parameter", "2 ways"),
        ({"id": "0" * 32, "label": "red", "model": "colours"}, 400, "invalid_parameter", "leave it out"),
        ({"request_id": "x", "index": -1, "label": "red"}, 400, "invalid_parameter", "from 0"),
        ({"id": "0" * 32, "label": "red", "who": "me"}, 400, "invalid_parameter", "'who' is not a parameter"),
        ({"image": "aGVsbG8=", "label": "red"}, 422, "unreadable_image", ""),
        ({"image": "https://example.org/cat.jpg", "label": "red"}, 422, "unreadable_image", "never fetched"),
        (
            {"image": base64.b64encode(picture()).decode(), "label": "red", "model": "no"},
            404,
            "unknown_model",
            "there are: colours",
        ),
        ({"image": base64.b64encode(picture()).decode(), "label": 3}, 400, "invalid_parameter", "expected a text"),
    ],
)
def test_what_is_wrong_with_a_label_is_said(client: httpx.Client, body: Any, status: int, code: str, words: str) -> None:
    assert_problem(client.post("/feedback", json=body), status, code, words)


def test_queue_is_turned_page_by_page_and_says_what_is_wrong_with_a_page(client: httpx.Client) -> None:
    find(client, classify(client, *(encode(noise(20, 20, seed), "PNG") for seed in range(20, 26))), 5)
    for strategy in ("margin", "random"):
        whole = queue(client, strategy=strategy)
        items, cursor = [], None
        while cursor is not None or not items:
            page = queue(client, strategy=strategy, limit=4, **({} if cursor is None else {"cursor": cursor}))
            items, cursor = items + page["items"], page["next_cursor"]
        assert items == whole["items"]
        assert len(items) == whole["total"] >= 6
    # A model that was published without a familiarity model.
    strange = queue(client, strategy="unknown")
    assert (strange["items"], strange["total"]) == ([], 0)
    assert "none of them has p_familiar" in strange["reason"]
    assert_problem(client.get("/review-queue?cursor=x"), 400, "invalid_parameter", "begin again without one")
    assert_problem(client.get("/review-queue?strategy=hard"), 400, "invalid_parameter", "strategy")
    assert_problem(client.get("/review-queue?model=no"), 404, "unknown_model", "there are: colours")


def test_deleting_takes_everything_and_says_what_it_could_not_take(client: httpx.Client, home: Path) -> None:
    answered = classify(client, encode(noise(20, 20, 30), "PNG"))
    item = find(client, answered)
    assert client.delete(f"/feedback/{item['id']}").json() == {"deleted": item["id"], "still_in": []}
    assert not [path for path in (home / "feedback").rglob("*") if item["id"] in path.name]
    for response in (
        client.get(item["image"]),
        client.delete(f"/feedback/{item['id']}"),
        client.post("/feedback", json={"request_id": answered.headers["x-request-id"], "label": "red"}),
    ):
        assert_problem(response, 404, "unknown_image")
    assert_problem(client.delete("/feedback/..%2f..%2faudit.jsonl"), 404, "not_found")
    assert_problem(client.delete("/feedback/nothing"), 400, "invalid_parameter")


def test_labels_become_a_data_set_that_a_job_is_pinned_to(client: httpx.Client, home: Path) -> None:
    images = {colour: encode(noise(20, 20, seed), "PNG") for seed, colour in enumerate(("red", "ultraviolet"), 40)}
    ids = {}
    for colour, image in images.items():
        answered = classify(client, image)
        find(client, answered)
        labelled = client.post("/feedback", json={"request_id": answered.headers["x-request-id"], "label": colour})
        ids[labelled.json()["id"]] = colour
    body = {"model": "colours", "dataset": "feedback", "recipe": {"epochs": 1}, "idempotency_key": "once"}
    accepted = client.post("/retrain", json=body)
    assert accepted.status_code == 202, accepted.text
    (reference,) = accepted.json()["dataset"]
    assert_problem(client.delete("/datasets/feedback-colours"), 409, "in_use", accepted.json()["id"])
    # Asked again, with more labels by now: the same job, and no other data set.
    client.post("/feedback", json={"id": next(iter(ids)), "label": "infrared"})
    assert client.post("/retrain", json=body).json()["id"] == accepted.json()["id"]
    (summary,) = client.get("/datasets").json()["datasets"]
    assert f"{summary['name']}@{summary['version']}" == reference
    with sqlite3.connect(home / "jobs" / "jobs.sqlite3") as database:
        spec = JobSpec.model_validate_json(database.execute("SELECT spec FROM jobs").fetchone()[0])
    assert spec.dataset == (reference,)
    _, targets = look(locate(reference, DatasetStore(home / "datasets"), ()), spec.recipe)
    read = {image.path.stem: targets.labels[int(image.target)] for image in targets.images}  # type: ignore[arg-type]
    assert {image: read[image] for image in ids} == ids
    client.post(f"/jobs/{accepted.json()['id']}/cancel")
    assert client.delete(f"/feedback/{next(iter(ids))}").json()["still_in"] == [reference]
    nothing = {**body, "model": "nobody", "idempotency_key": "other"}
    assert_problem(client.post("/retrain", json=nothing), 422, "invalid_dataset", "nothing is labelled for nobody")
    taken = client.put("/datasets/feedback", content=b"x", headers={"content-type": "application/zip"})
    assert_problem(taken, 400, "invalid_parameter", "call the data set something else")
