"""Each behaviour of BentoML that `service.bento` says it relies on. A new version of BentoML that breaks one fails here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import bentoml
import pytest
from starlette.testclient import TestClient

from models.registry import Registry
from service.app import Classifier, guarded
from service.bento import without_layers
from tests.support.pictures import picture
from tests.support.tiny import publish_colours
from tests.support.zips import class_folders, zipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

LOOPBACK = "http://127.0.0.1:3000"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service in this process, as `Classifier.to_asgi()` gives it, over a tiny model."""
    home: Path = tmp_path_factory.mktemp("bentoml")
    publish_colours(Registry(home / "registry"), home / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_HOME", str(home))
        with TestClient(Classifier.to_asgi(), base_url=LOOPBACK, raise_server_exceptions=False) as client:
            while client.get("/readyz").status_code != 200:
                pass
            yield client


def test_version_is_the_one_that_was_tried() -> None:
    assert bentoml.__version__ == "1.4.39"


def test_1_our_spec_reads_the_request_so_a_raw_image_is_not_parsed_by_bentoml(client: TestClient) -> None:
    response = client.post("/classify", content=picture("green"), headers={"content-type": "image/png"})
    assert response.json()["results"][0]["predictions"][0]["label"] == "green"
    refused = client.post("/classify", content=b"\x80\x04N.", headers={"content-type": "application/vnd.bentoml+pickle"})
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")


def test_2_what_our_spec_returns_becomes_the_methods_argument(client: TestClient) -> None:
    refused = client.post("/classify", content=b"", headers={"content-type": "image/png"})
    # The error that the spec returned was answered by the method: BentoML would have answered a 500.
    assert (refused.status_code, refused.json()["code"]) == (400, "empty_body")


def test_3_schema_declares_files_for_bentomls_client(client: TestClient) -> None:
    route: dict[str, Any] = next(r for r in client.get("/schema.json").json()["routes"] if r["name"] == "classify")
    assert route["route"] == "/classify"
    assert route["input"]["properties"]["images"]["items"]["type"] == "file"
    assert {"model", "top_k"} <= route["input"]["properties"].keys()
    assert (route["batchable"], route["is_task"]) == (False, False)


def test_3_an_image_to_explain_is_one_file_and_not_a_list(client: TestClient) -> None:
    route = next(r for r in client.get("/schema.json").json()["routes"] if r["name"] == "explain_confidence")
    assert route["route"] == "/explain-confidence"
    fields = route["input"]["properties"]
    assert fields["image"]["type"] == "file"
    assert fields.keys() == {"image", "model", "confidence_level", "top_k", "neighbors", "heatmap", "versus"}
    assert route["input"]["required"] == ["image"]


def test_4_response_of_the_method_is_the_answer(client: TestClient) -> None:
    response = client.post("/classify", content=picture("red"), headers={"content-type": "image/png"})
    assert response.headers["x-model-version"] == "colours:1"
    assert response.headers["content-type"] == "application/json"


def test_5_mounted_application_answers_first_and_passes_on_what_it_does_not_know(client: TestClient) -> None:
    assert "candor_requests_total" in client.get("/metrics").text
    assert "bentoml_" not in client.get("/metrics").text
    assert "googletagmanager" not in client.get("/").text
    assert client.get("/livez").status_code == 200
    assert client.get("/static_content/swagger-ui.css").status_code == 200
    assert client.get("/no-such-route").json()["code"] == "not_found"


def test_6_timer_counts_while_a_body_arrives_and_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(Classifier.config, "traffic", {"timeout": 1})
    body = zipped(class_folders(tmp_path / "photos"))

    async def run() -> tuple[int, int]:
        service, bare = Classifier.to_asgi(), guarded(without_layers(Classifier.to_asgi()))
        messages, started = asyncio.Queue[dict[str, Any]](), asyncio.Event()

        async def send(_: object) -> None:
            started.set()

        lifespan = asyncio.create_task(service({"type": "lifespan", "asgi": {"version": "3.0"}}, messages.get, send))
        await messages.put({"type": "lifespan.startup"})
        await started.wait()
        statuses = await upload_slowly(service, body), await upload_slowly(bare, body)
        await messages.put({"type": "lifespan.shutdown"})
        await lifespan
        return statuses

    assert asyncio.run(run()) == (504, 201)


def test_7_layers_that_are_taken_out_are_the_ones_that_are_there() -> None:
    app = Classifier.to_asgi()
    before = [layer.cls.__name__ for layer in app.user_middleware]
    assert before == ["OpenTelemetryMiddleware", "TimeoutMiddleware", "Guard", "ContextMiddleware"]
    assert [layer.cls.__name__ for layer in without_layers(app).user_middleware] == ["ContextMiddleware"]
    with pytest.raises(RuntimeError, match="TimeoutMiddleware among them"):
        without_layers(app)


async def upload_slowly(app: ASGIApp, body: bytes) -> int:
    """Send half of a body, and the rest after two seconds; the status of the answer."""
    chunks = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if len(chunks) == 1:
            await asyncio.sleep(2)
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    request = {"type": "http", "http_version": "1.1", "scheme": "http", "method": "PUT", "path": "/datasets/slow"}
    where = {"raw_path": b"/datasets/slow", "query_string": b"", "server": ("127.0.0.1", 3000), "client": ("127.0.0.1", 4000)}
    await app({**request, **where, "headers": [(b"host", b"localhost")], "asgi": {"version": "3.0"}}, receive, send)
    return int(sent[0]["status"])


def test_8_outside_a_bento_the_service_has_none() -> None:
    # Inside one it has it: tests/e2e/test_bento.py.
    assert Classifier.bento is None
