"""Models of the three tasks, each behind the real service: every form of a request, and what is told about them."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import bentoml
import pytest

from models.registry import Registry
from service.api.classify import ClassifyAnswer
from tests.support.pictures import picture, side_by_side
from tests.support.server import ROOT, Server, environment, serve
from tests.support.tiny import BRIGHTNESS, PRESENCE, colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.e2e
TASKS = {"colours": colours(), "presence": PRESENCE, "brightness": BRIGHTNESS}
# What is said of an image by a version that was published without evidence.
UNKNOWN = {"action": "review", "familiarity": None}
HALF, NONE = 0.997527, 0.002473  # sigmoid of 6 and of -6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tasks")
    for name, tiny in TASKS.items():
        publish_tiny(Registry(home / "registry"), home / "work", name, tiny)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, run="serve", default_model="colours") as server:
        yield server


def raw(client: httpx.Client, model: str, image: bytes, top_k: int = 5) -> dict[str, Any]:
    query = {"model": model, "top_k": top_k}
    return results(client.post("/classify", params=query, content=image, headers={"content-type": "image/png"}))[0]


def results(response: httpx.Response) -> list[dict[str, Any]]:
    """The results, after the document's own schema has found nothing wrong with the answer."""
    assert response.status_code == 200, response.text
    ClassifyAnswer.model_validate(response.json())
    return response.json()["results"]


def pairs(result: dict[str, Any]) -> list[tuple[str, float]]:
    return [(entry["label"], entry["probability"]) for entry in result["predictions"]]


def value(percent: float) -> dict[str, Any]:
    interval = {"level": 0.9, "low": pytest.approx(percent - 2.5, rel=1e-4), "high": pytest.approx(percent + 2.5, rel=1e-4)}
    return {"value": pytest.approx(percent, rel=1e-4, abs=1e-4), "unit": "percent", "interval": interval, **UNKNOWN}


def test_single_label_answers_predictions_and_nothing_else(client: httpx.Client) -> None:
    result = raw(client, "colours", picture("green"), top_k=1)
    green = {"label": "green", "probability": pytest.approx(0.999988, abs=2e-6)}
    assert result == {"predictions": [green], **UNKNOWN}


def test_several_labels_are_selected_by_their_own_thresholds(client: httpx.Client) -> None:
    """Red and green from 0.5 on, blue from 0.999: half an image of it is 0.9975 sure."""
    both = raw(client, "presence", side_by_side("red", "green"))
    assert both.keys() == {"predictions", "selected", *UNKNOWN}
    assert pairs(both) == [("red", HALF), ("green", HALF), ("blue", NONE)]
    assert both["selected"] == ["red", "green"]
    assert raw(client, "presence", side_by_side("blue", "green"))["selected"] == ["green"]
    assert raw(client, "presence", picture("blue"))["selected"] == ["blue"]


def test_top_k_cuts_predictions_and_not_what_is_selected(client: httpx.Client) -> None:
    result = raw(client, "presence", side_by_side("red", "green"), top_k=1)
    assert pairs(result) == [("red", HALF)]
    assert result["selected"] == ["red", "green"]


@pytest.mark.parametrize(("colour", "percent"), [("red", 100 / 3), ("black", 0.0), ("white", 100.0)])
def test_number_is_answered_with_unit_and_interval(client: httpx.Client, colour: str, percent: float) -> None:
    assert raw(client, "brightness", picture(colour)) == value(percent)


@pytest.mark.parametrize("form", ["multipart", "json"])
def test_several_images_are_answered_in_order_and_a_bad_one_is_an_error_in_its_place(client: httpx.Client, form: str) -> None:
    images = [side_by_side("red", "green"), b"no image", picture("white")]

    def ask(model: str) -> list[dict[str, Any]]:
        if form == "json":
            body = {"images": [base64.b64encode(image).decode() for image in images], "model": model}
            return results(client.post("/classify", json=body))
        files = [("images", (f"{number}.png", image)) for number, image in enumerate(images)]
        return results(client.post("/classify", files=files, data={"model": model}))

    first, bad, last = ask("presence")
    assert first["selected"] == ["red", "green"]
    assert bad.keys() == {"error"}
    assert bad["error"]["code"] == "unreadable_image"
    assert last["selected"] == ["red", "green", "blue"]

    first, bad, last = ask("brightness")
    assert first == value(100 / 3)
    assert bad["error"]["code"] == "unreadable_image"
    assert last == value(100.0)


def test_bentoml_client_gets_what_http_gets(server: Server, tmp_path: Path) -> None:
    paths = []
    for name, image in (("pair", side_by_side("red", "green")), ("white", picture("white"))):
        paths.append(tmp_path / f"{name}.png")
        paths[-1].write_bytes(image)
    with bentoml.SyncHTTPClient(server.url) as client:
        tags = client.classify(images=paths, model="presence", top_k=1)
        numbers = client.classify(images=paths, model="brightness")
    assert [result["selected"] for result in tags["results"]] == [["red", "green"], ["red", "green", "blue"]]
    assert numbers["results"] == [value(100 / 3), value(100.0)]


def test_errors_are_the_same_for_every_task(client: httpx.Client) -> None:
    for model in TASKS:
        refused = client.post(f"/classify?model={model}", content=b"no image", headers={"content-type": "image/png"})
        assert (refused.status_code, refused.json()["code"]) == (422, "unreadable_image")
        wrong = client.post(f"/classify?model={model}&top_k=0", content=picture(), headers={"content-type": "image/png"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_parameter")


def test_models_show_task_labels_unit_and_thresholds(client: httpx.Client) -> None:
    shown = {name: client.get(f"/models/{name}").json() for name in TASKS}
    for name, tiny in TASKS.items():
        card = shown[name]
        assert (card["task"], card["labels"]) == (tiny.task, list(tiny.labels))
        assert (card["unit"], card["thresholds"]) == (tiny.unit, tiny.thresholds)
        (detail,) = card["details"]
        assert (detail["task"], detail["unit"], detail["score"], detail["score_name"]) == (tiny.task, tiny.unit, None, None)


def test_document_describes_what_each_task_answers(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    kinds = [kind["$ref"].rsplit("/", 1)[1] for kind in schemas["ClassifyAnswer"]["properties"]["results"]["items"]["anyOf"]]
    assert [schemas[kind]["required"] for kind in kinds] == [
        ["predictions"],
        ["predictions", "selected"],
        ["value", "unit", "interval"],
        ["error"],
    ]


def test_command_line_lists_them(home: Path) -> None:
    command = [sys.executable, "-m", "models", "list"]
    done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=True, timeout=60)
    assert [" ".join(line.split()[:4]) for line in done.stdout.splitlines()] == [
        "brightness:1 colour_mean a number",
        "colours:1 colour_mean 3 labels",
        "presence:1 colour_mean 3 labels",
    ]
