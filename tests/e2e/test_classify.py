"""The three forms of a request, many clients at once, and a promotion under load."""

from __future__ import annotations

import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import bentoml
import httpx
import pytest

from models.registry import Registry
from tests.support.pictures import picture
from tests.support.server import Server, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
COLOURS = ("red", "green", "blue")


def labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["predictions"][0]["label"] for result in response.json()["results"]]


def metric(server: Server, name: str) -> float:
    text = httpx.get(server.url + "/metrics").text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))


def test_raw_body_answers_with_model_version_and_falling_probabilities(tiny: Server) -> None:
    with tiny.client() as client:
        response = client.post("/classify", content=picture("green"), headers={"content-type": "image/png"})
    answer = response.json()
    assert answer["model"] == {"name": "colours", "version": 1, "runtime": "onnxruntime", "precision": "fp32"}
    assert response.headers["x-model-version"] == "colours:1"
    probabilities = [entry["probability"] for entry in answer["results"][0]["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_multipart_answers_in_the_order_of_the_parts(tiny: Server) -> None:
    order = ["blue", "red", "red", "green"]
    files = [("images", (f"{number}.png", picture(colour))) for number, colour in enumerate(order)]
    with tiny.client() as client:
        response = client.post("/classify", files=files, data={"top_k": "1", "model": "colours:1"})
    assert labels(response) == order
    assert all(len(result["predictions"]) == 1 for result in response.json()["results"])


def test_json_answers_in_order_and_the_query_wins_over_the_fields(tiny: Server) -> None:
    images = [base64.b64encode(picture(colour)).decode() for colour in COLOURS]
    with tiny.client() as client:
        response = client.post("/classify?top_k=2", json={"images": images, "top_k": 3})
    assert labels(response) == list(COLOURS)
    assert {len(result["predictions"]) for result in response.json()["results"]} == {2}


def test_bad_image_among_good_ones_is_an_error_in_its_place(tiny: Server) -> None:
    files = [
        ("images", ("a", picture("red"))),
        ("images", ("b", b"no image")),
        ("images", ("c", b"")),
        ("images", ("d", picture("blue"))),
    ]
    with tiny.client() as client:
        response = client.post("/classify", files=files)
    assert response.status_code == 200
    first, second, third, fourth = response.json()["results"]
    assert first["predictions"][0]["label"] == "red"
    assert (second["error"]["code"], second["error"]["status"]) == ("unreadable_image", 422)
    assert (third["error"]["code"], third["error"]["status"]) == ("empty_body", 400)
    assert fourth["predictions"][0]["label"] == "blue"


def test_every_image_of_a_batch_answers_as_it_would_alone(real: Server, fashion_images: list[Path]) -> None:
    with real.client() as client:
        alone = [
            client.post(
                "/classify?model=fashion&top_k=10", content=path.read_bytes(), headers={"content-type": "image/png"}
            ).json()
            for path in fashion_images
        ]
        files = [("images", (path.name, path.read_bytes())) for path in fashion_images]
        together = client.post("/classify?model=fashion&top_k=10", files=files).json()
    for single, result in zip(alone, together["results"], strict=True):
        expected = {entry["label"]: entry["probability"] for entry in single["results"][0]["predictions"]}
        got = {entry["label"]: entry["probability"] for entry in result["predictions"]}
        assert got == pytest.approx(expected, abs=1e-5)


def test_64_clients_each_get_their_own_answer_and_batches_form(tiny: Server) -> None:
    before = metric(tiny, "candor_batch_size_sum"), metric(tiny, "candor_batch_size_count")
    wrong = []

    def ask(number: int) -> None:
        colour = COLOURS[number % 3]
        with tiny.client() as client:
            for _ in range(10):
                response = client.post("/classify", content=picture(colour), headers={"content-type": "image/png"})
                if labels(response) != [colour]:
                    wrong.append((colour, response.text))

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(64)))
    images = metric(tiny, "candor_batch_size_sum") - before[0]
    batches = metric(tiny, "candor_batch_size_count") - before[1]
    assert not wrong
    assert images == 640
    assert batches < images, "no batch held more than one image"


def test_bentoml_client_classifies_two_files_in_one_call(tiny: Server, tmp_path: Path) -> None:
    paths = []
    for colour in ("blue", "green"):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(picture(colour))
        paths.append(path)
    with bentoml.SyncHTTPClient(tiny.url) as client:
        answer = client.classify(images=paths, model="colours", top_k=2)
    assert [result["predictions"][0]["label"] for result in answer["results"]] == ["blue", "green"]
    assert [len(result["predictions"]) for result in answer["results"]] == [2, 2]


def test_promotion_and_rollback_on_the_command_line_are_followed_and_no_request_fails(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish_colours(registry, tmp_path / "work")
    publish_colours(registry, tmp_path / "work", gain=6.0)
    certainty = {1: 0.99, 2: 0.9}
    failures: list[str] = []
    versions: set[int] = set()
    done = threading.Event()
    with serve(tmp_path, run="serve") as server:

        def load() -> None:
            with server.client() as client:
                while not done.is_set():
                    response = client.post("/classify", content=picture("red"), headers={"content-type": "image/png"})
                    if response.status_code != 200:
                        failures.append(response.text)
                        continue
                    answer = response.json()
                    version = answer["model"]["version"]
                    versions.add(version)
                    probability = answer["results"][0]["predictions"][0]["probability"]
                    # Gain 12 gives 0.99998, gain 6 gives 0.995: the answer is the version's that it names.
                    if (probability > 0.999) != (version == 1) or probability < certainty[version]:
                        failures.append(response.text)

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(load) for _ in range(8)]
            for version, change in ((2, lambda: registry.promote("colours", 2)), (1, lambda: registry.rollback("colours"))):
                change()
                server.wait_for_version("colours", version, seconds=5)
            done.set()
            for future in running:
                future.result()
    assert not failures
    assert versions == {1, 2}


def test_model_required_when_several_are_served_and_none_is_the_default(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    for name in ("apples", "pears"):
        publish_colours(registry, tmp_path / "work", name=name)
    with serve(tmp_path, run="serve") as server, server.client() as client:
        refused = client.post("/classify", content=picture("red"), headers={"content-type": "image/png"})
        named = client.post("/classify?model=pears", content=picture("red"), headers={"content-type": "image/png"})
        listed = client.get("/models").json()
        shown = client.get("/models/apples").json()
    assert (refused.status_code, refused.json()["code"]) == (400, "model_required")
    assert "apples, pears" in refused.json()["detail"]
    assert labels(named) == ["red"]
    assert [(model["name"], model["production"], model["serving"]) for model in listed["models"]] == [
        ("apples", 1, 1),
        ("pears", 1, 1),
    ]
    assert shown["labels"] == ["red", "green", "blue"]


def test_service_is_not_ready_until_its_models_are_and_serves_what_is_published_later(tmp_path: Path) -> None:
    with serve(tmp_path, ready=False, run="serve") as server:
        # An empty registry has nothing to wait for.
        server.wait("/readyz", 200)
        publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
        server.wait_for_version("colours", 1, seconds=5)


def test_metrics_have_the_promised_series_and_no_caller_makes_more(tiny: Server) -> None:
    with tiny.client() as client:
        client.post("/classify", content=picture("red"), headers={"content-type": "image/png"})
        client.get("/models/colours")
        text = client.get("/metrics").text
        for number in range(50):
            client.get(f"/nope/{number}")
            client.get(f"/models/none{number}")
            client.request(f"METHOD{number}", "/classify")
        after = client.get("/metrics").text
    for name in (
        'candor_requests_total{method="POST",route="/classify",status="200"}',
        'candor_requests_total{method="GET",route="/models/{name}",status="200"}',
        'candor_request_duration_seconds_bucket{le="0.01",route="/classify"}',
        "candor_queue_depth",
        'candor_queue_duration_seconds_count{model="colours"}',
        'candor_batch_size_count{model="colours"}',
        "candor_decode_duration_seconds_count",
        'candor_inference_duration_seconds_count{model="colours"}',
        'candor_model_info{backbone="colour_mean",model="colours",precision="fp32",runtime="onnxruntime",version="1"} 1.0',
        'candor_provider_info{provider="cpu"} 1.0',
    ):
        assert name in text
    grown = {line.split(" ")[0] for line in after.splitlines()} - {line.split(" ")[0] for line in text.splitlines()}
    # A few statuses and methods are new; a path, a name or a made-up method is never a label.
    assert not [line for line in grown if "none" in line or "nope" in line or "METHOD" in line]
    assert len(grown) < 60


def test_docs_and_openapi_need_no_other_machine(tiny: Server) -> None:
    with tiny.client() as client:
        docs = client.get("/docs").text
        assert client.get("/", follow_redirects=True).text == docs
        document = client.get("/openapi.json").json()
        assert client.get("/static_content/swagger-ui-bundle.js").status_code == 200
    assert "http" not in re.sub(r"https?://127\.0\.0\.1", "", docs)
    assert {"/classify", "/models", "/models/{name}", "/metrics", "/livez", "/readyz"} <= document["paths"].keys()
    assert {"image/*", "multipart/form-data", "application/json"} <= document["paths"]["/classify"]["post"]["requestBody"][
        "content"
    ].keys()
