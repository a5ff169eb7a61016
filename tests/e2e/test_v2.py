"""The Open Inference Protocol as its users speak it: Triton's own client, and JSON as clients of KServe send it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton

import service
from models.registry import Registry
from tests.support.inference import (
    FILES,
    INFER,
    SETTINGS,
    TASKS,
    address,
    assert_refused,
    files_in,
    one_image,
    pixels_in,
    pixels_of,
    publish_tasks,
    soon,
)
from tests.support.pictures import picture
from tests.support.server import ROOT, Server, serve
from tests.support.tiny import SIZE, colours, publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.e2e
DOCUMENT = (ROOT / "docs" / "v2.md").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("v2")
    publish_tasks(home)
    publish_colours(Registry(home / "registry"), home / "work", "two")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, **SETTINGS, keep_images=True) as server:
        yield server


@pytest.fixture(scope="module")
def asking(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(server)) as client:
        yield client


def classified(client: httpx.Client, model: str, file: bytes) -> list[float]:
    """What /classify says, in the order of the labels."""
    answer = client.post("/classify", params={"model": model}, content=file, headers={"content-type": "image/png"})
    (result,) = answer.json()["results"]
    if "value" in result:
        return [result["value"]]
    found = {entry["label"]: entry["probability"] for entry in result["predictions"]}
    return [found[label] for label in TASKS[model].labels]


# --- what there is


def test_server_and_models_say_what_they_are(asking: triton.InferenceServerClient) -> None:
    assert asking.is_server_live()
    assert asking.is_server_ready()
    extensions = ["classification", "binary_tensor_data", "model_repository"]
    assert asking.get_server_metadata() == {"name": "candor", "version": service.__version__, "extensions": extensions}
    for name in TASKS:
        assert asking.is_model_ready(name)
        assert asking.is_model_ready(name, "1")
        assert asking.get_model_metadata(name, "1") == asking.get_model_metadata(name)
    assert not asking.is_model_ready("colours", "2")
    assert not asking.is_model_ready("nope")


@pytest.mark.parametrize("name", TASKS)
def test_metadata_lists_the_tensors_of_the_task(asking: triton.InferenceServerClient, name: str) -> None:
    card = asking.get_model_metadata(name)
    assert (card["name"], card["versions"], card["platform"]) == (name, ["1"], "onnxruntime_onnx")
    tensors = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in card["inputs"]}
    assert tensors == {"images": ("BYTES", [-1]), "pixels": ("UINT8", [-1, SIZE, SIZE, 3])}
    assert all(tensor["parameters"]["optional"] and tensor["parameters"]["description"] for tensor in card["inputs"])
    outputs = [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in card["outputs"]]
    if name == "brightness":
        assert outputs == [("value", "FP32", [-1, 1])]
    else:
        assert outputs == [("probabilities", "FP32", [-1, 3]), ("logits", "FP32", [-1, 3])]


# --- what is answered


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("form", ["files", "files in JSON", "pixels", "pixels in JSON"])
def test_answers_are_those_of_classify(client: httpx.Client, asking: triton.InferenceServerClient, name: str, form: str) -> None:
    binary = not form.endswith("JSON")
    sent = files_in(FILES, binary=binary) if form.startswith("files") else pixels_in(pixels_of(FILES), binary=binary)
    answer = asking.infer(name, [sent], request_id="request 7")
    head = answer.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == (name, "1", "request 7")
    expected = [classified(client, name, file) for file in FILES]
    logits = TASKS[name].logits(pixels_of(FILES))
    if name == "brightness":
        assert [output["name"] for output in head["outputs"]] == ["value"]
        np.testing.assert_allclose(answer.as_numpy("value"), expected, rtol=1e-5)
        return
    assert answer.as_numpy("probabilities").dtype == np.float32
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer.as_numpy("logits"), logits, rtol=1e-5, atol=1e-5)


def test_outputs_come_in_the_order_and_the_form_in_which_they_are_asked_for(asking: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput("logits", binary_data=False), triton.InferRequestedOutput("probabilities")]
    answer = asking.infer("colours", [files_in(FILES)], outputs=wanted)
    first, second = answer.get_response()["outputs"]
    assert (first["name"], second["name"]) == ("logits", "probabilities")
    assert "parameters" not in first
    assert len(first["data"]) == 12
    assert second["parameters"] == {"binary_data_size": 48}
    assert "id" not in answer.get_response()
    both = asking.infer("colours", [files_in(FILES)])
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(answer.as_numpy(name), both.as_numpy(name), rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_classes_are_named_with_value_and_index(asking: triton.InferenceServerClient, binary: bool) -> None:
    wanted = [
        triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2),
        triton.InferRequestedOutput("logits", binary_data=binary, class_count=99),
    ]
    answer = asking.infer("colours", [files_in([FILES[1], picture("red")])], outputs=wanted)
    assert [output["datatype"] for output in answer.get_response()["outputs"]] == ["BYTES", "BYTES"]
    texts = [[as_text(entry) for entry in row] for row in answer.as_numpy("probabilities")]
    # Half green and half blue, whose tie is in the labels' order; then all red.
    assert [[text.split(":", 1)[1] for text in row] for row in texts] == [["1:green", "2:blue"], ["0:red", "1:green"]]
    assert [float(text.split(":")[0]) for text in texts[0]] == pytest.approx([1 / (2 + np.exp(-6))] * 2, abs=1e-6)
    assert answer.as_numpy("logits").shape == (2, 3)
    assert as_text(answer.as_numpy("logits")[1, 0]) == "12.000000:0:red"


def as_text(entry: bytes | str) -> str:
    return entry.decode() if isinstance(entry, bytes) else entry


def test_many_images_are_answered_each_for_itself(asking: triton.InferenceServerClient, client: httpx.Client) -> None:
    names = ["red", "green", "blue", "red", "blue", "green", "red", "white"]
    counted = series(client, 'candor_predictions_total{label="red",model="colours"}')
    decided = series(client, 'candor_decisions_total{action="review",model="colours"}')
    answer = asking.infer("colours", [files_in([picture(name) for name in names])])
    best = answer.as_numpy("probabilities").argmax(axis=1)
    assert [colours().labels[index] for index in best[:-1]] == names[:-1]
    assert series(client, 'candor_predictions_total{label="red",model="colours"}') == counted + 4
    assert series(client, 'candor_decisions_total{action="review",model="colours"}') == decided + 8
    pending = [asking.async_infer("colours", [files_in([picture(name)])]) for name in names[:3]]
    together = [int(result.get_result().as_numpy("probabilities").argmax()) for result in pending]
    assert together == [0, 1, 2]


def series(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_files_are_kept_for_labelling_as_those_of_classify_are(
    asking: triton.InferenceServerClient, client: httpx.Client
) -> None:
    asking.infer("presence", [files_in([picture("green", size=(77, 77))])], headers={"X-Request-Id": "kept-by-v2"})
    asking.infer("presence", [pixels_in(np.zeros((1, SIZE, SIZE, 3), np.uint8))], headers={"X-Request-Id": "pixels"})

    def items_once_it_is_there() -> list[dict[str, Any]] | None:
        items = client.get("/review-queue", params={"model": "presence", "limit": 100}).json()["items"]
        return items if "kept-by-v2" in {item["request_id"] for item in items} else None

    items = soon(items_once_it_is_there)
    (kept,) = [item for item in items if item["request_id"] == "kept-by-v2"]
    assert kept["size_bytes"] == len(picture("green", size=(77, 77)))
    assert "pixels" not in {item["request_id"] for item in items}


def test_json_as_a_kserve_client_sends_it(client: httpx.Client) -> None:
    request = {"id": "42", "model_name": "colours", "inputs": [one_image()]}
    answer = client.post(INFER, json=request)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-model-version"] == "colours:1"
    assert "inference-header-content-length" not in answer.headers
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("colours", "1", "42")
    probabilities, logits = body["outputs"]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [1, 3])
    assert probabilities["data"] == pytest.approx(classified(client, "colours", FILES[0]), abs=1e-6)
    assert logits["data"] == pytest.approx([6, 0, 0], abs=0.05)
    nested = {
        "inputs": [{"name": "pixels", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8", "data": pixels_of(FILES[:1]).tolist()}]
    }
    assert client.post(INFER, json=nested).json()["outputs"][0]["data"] == pytest.approx(probabilities["data"], abs=1e-6)
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}


def test_binary_answer_to_a_request_in_json_says_how_much_of_it_is_json(client: httpx.Client) -> None:
    answer = client.post(INFER, json={"inputs": [one_image()], "parameters": {"binary_data_output": True}})
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    outputs = json.loads(answer.content[:length])["outputs"]
    assert [output["parameters"]["binary_data_size"] for output in outputs] == [12, 12]
    assert np.frombuffer(answer.content[length : length + 12], "<f4").sum() == pytest.approx(1, abs=1e-6)
    assert len(answer.content) == length + 24


def test_a_version_is_asked_for_by_number_and_the_index_follows(
    home: Path, server: Server, asking: triton.InferenceServerClient, client: httpx.Client
) -> None:
    registry = Registry(home / "registry")
    publish_colours(registry, home / "work", "two", gain=6.0)
    registry.promote("two", 2)
    server.wait_for_version("two", 2, 20)
    first, second, meant = (asking.infer("two", [files_in(FILES[:1])], version) for version in ("1", "2", ""))
    assert [a.get_response()["model_version"] for a in (first, second, meant)] == ["1", "2", "2"]
    assert first.as_numpy("logits")[0, 0] == pytest.approx(2 * second.as_numpy("logits")[0, 0])
    np.testing.assert_array_equal(second.as_numpy("logits"), meant.as_numpy("logits"))
    assert asking.get_model_metadata("two")["versions"] == ["2", "1"]
    publish_colours(registry, home / "work", "broken", golden_gain=3.0)

    def index_once_it_failed() -> dict[tuple[str, str], Any] | None:
        index = {(entry["name"], entry["version"]): entry for entry in asking.get_model_repository_index()}
        return index if index.get(("broken", "1"), {}).get("state") == "UNAVAILABLE" else None

    index = soon(index_once_it_failed)
    assert "golden" in index["broken", "1"]["reason"]
    assert {key for key, entry in index.items() if entry["state"] == "READY"} == {
        *((n, "1") for n in (*TASKS, "two")),
        ("two", "2"),
    }
    assert not asking.is_model_ready("broken")
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert "broken" not in {entry["name"] for entry in ready}
    for body in (b"{", b"[]", b'{"ready": 1}'):
        assert_refused(client.post("/v2/repository/index", content=body), 400, "invalid_parameter")
    assert_refused(client.post("/v2/repository/index", content=b" " * 2000), 413, "body_too_large")
    assert_refused(client.post("/v2/models/broken/infer", json={"inputs": [one_image()]}), 503, "not_ready")


# --- what the page shows


def test_what_the_page_shows_runs(server: Server) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^```sh\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    code, command = (shown.replace("localhost:3000", address(server)).replace("imagenet", "colours") for shown in (code, command))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert re.fullmatch(r"\(2, 3\)\n0\.\d{6}:\d:(red|green|blue)\n", done.stdout)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    (output,) = json.loads(done.stdout)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 3])
