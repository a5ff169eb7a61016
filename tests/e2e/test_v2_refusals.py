"""What a client of the Open Inference Protocol can send wrong: it is told, and the next request is answered."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton

from models.registry import Registry
from service.keys import create_key
from tests.support.inference import (
    FILES,
    INFER,
    MAX_IMAGES,
    MAX_JSON,
    SETTINGS,
    address,
    assert_refused,
    files_in,
    one_image,
    pixels_in,
    publish_tasks,
    soon,
)
from tests.support.pictures import picture
from tests.support.server import Server, serve
from tests.support.tiny import SIZE, publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("v2-refusals")
    publish_tasks(home)
    with serve(home, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def asking(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(server)) as client:
        yield client


@pytest.mark.parametrize(
    ("model", "sent", "options", "status", "says"),
    [
        ("nope", files_in(FILES), {}, "404", "no model named 'nope' is served"),
        ("colours", files_in(FILES), {"model_version": "9"}, "404", "colours:9 is not loaded"),
        ("colours", files_in(FILES), {"model_version": "first"}, "404", "is not a model"),
        ("colours", files_in([picture()] * (MAX_IMAGES + 1)), {}, "400", "holds 9 images; at most 8"),
        ("colours", files_in([FILES[0], b"a cat, I promise"]), {}, "422", "images[1]: the content is not an image"),
        ("colours", files_in([FILES[0], FILES[1][:60]]), {}, "422", "images[1]: "),
        ("colours", files_in([FILES[0], b""]), {}, "400", "images[1]: the image is empty"),
        ("colours", pixels_in(np.zeros((1, SIZE, SIZE - 1, 3), np.uint8)), {}, "400", "expected [-1, 32, 32, 3]"),
        ("colours", pixels_in(np.zeros((1, 3, SIZE, SIZE), np.uint8)), {}, "400", "has shape [1, 3, 32, 32]"),
        ("colours", pixels_in(np.zeros((0, SIZE, SIZE, 3), np.uint8)), {}, "400", "holds no image"),
        ("colours", triton.InferInput("images", [1], "BYTES").set_shared_memory("region", 8), {}, "400", "shared memory"),
        ("colours", files_in(FILES), {"sequence_id": 3}, "400", "no sequences"),
        ("colours", files_in(FILES), {"priority": 2}, "400", "priority"),
        ("colours", files_in(FILES), {"parameters": {"tempo": 2}}, "400", "'tempo'"),
        ("colours", files_in(FILES), {"timeout": 1}, "504", "time was over before"),
        ("colours", files_in(FILES), {"request_compression_algorithm": "gzip"}, "415", "content encoding 'gzip'"),
        ("colours", files_in(FILES), {"outputs": [triton.InferRequestedOutput("value")]}, "400", "no output 'value'"),
        ("brightness", files_in(FILES), {"outputs": [triton.InferRequestedOutput("logits")]}, "400", "it has value"),
        ("brightness", files_in(FILES), {"outputs": [triton.InferRequestedOutput("value", class_count=1)]}, "400", "no classes"),
    ],
)
def test_the_client_is_told_what_is_wrong(
    asking: triton.InferenceServerClient, model: str, sent: triton.InferInput, options: dict[str, Any], status: str, says: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as refused:
        asking.infer(model, [sent], **options)
    assert refused.value.status() == status
    assert says in refused.value.message()
    assert asking.infer("colours", [files_in(FILES)]).as_numpy("logits").shape == (4, 3)


def test_what_is_not_offered_is_not_there(asking: triton.InferenceServerClient) -> None:
    calls = (asking.load_model, asking.unload_model, asking.get_model_config, asking.get_inference_statistics)
    for call in calls:
        with pytest.raises(triton.InferenceServerException, match="there is no such route") as refused:
            call("colours")
        assert refused.value.status() == "404"


@pytest.mark.parametrize(
    ("request_body", "says"),
    [
        ({"inputs": [one_image(), one_image()]}, "there are 2 inputs; expected one"),
        ({"inputs": [one_image(name="picture")]}, "no input 'picture'; it has images and pixels"),
        ({"inputs": [one_image(datatype="FP32")]}, "input images is 'FP32', expected BYTES"),
        ({"inputs": [one_image(shape=[1, 1])]}, "has shape [1, 1], expected [-1]"),
        ({"inputs": [one_image(shape=[])]}, "has shape [], expected [-1]"),
        ({"inputs": [one_image(shape=[0], data=[])]}, "holds no image"),
        ({"inputs": [one_image(shape=[2])]}, "has 1 entries; shape [2] takes 2"),
        ({"inputs": [one_image(shape=[2**40])]}, "inputs.0.shape.0"),
        ({"inputs": [one_image(data=[7])]}, "else than texts"),
        ({"inputs": [one_image()], "outputs": [{"name": "logits"}, {"name": "logits"}]}, "asked for more than once"),
        ([], "the JSON"),
    ],
)
def test_malformed_request_is_the_callers_fault(client: httpx.Client, request_body: Any, says: str) -> None:
    code = "empty_body" if "holds no image" in says else "invalid_parameter"
    assert_refused(client.post(INFER, json=request_body), 400, code, says)


@pytest.mark.parametrize("length", ["", "x", "-1", "1.5", "9" * 5000, "0", "99999", "²"])
def test_length_of_the_json_that_is_none_is_refused(client: httpx.Client, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode("latin-1")}
    body = json.dumps({"inputs": [one_image()]}).encode()
    assert_refused(client.post(INFER, content=body, headers=headers), 400, "invalid_parameter")


def test_sizes_are_bounded_as_elsewhere(client: httpx.Client, asking: triton.InferenceServerClient) -> None:
    large = one_image(b"x" * MAX_JSON)
    assert_refused(client.post(INFER, json={"inputs": [large]}), 413, "body_too_large", str(MAX_JSON))
    body = json.dumps({"inputs": [large]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    assert_refused(client.post(INFER, content=body, headers=headers), 413, "body_too_large", str(MAX_JSON))
    # In binary form a body may be larger than JSON, and not larger than any.
    photograph = picture("green", "BMP", size=(300, 300))
    assert len(photograph) > MAX_JSON
    assert asking.infer("colours", [files_in([photograph])]).as_numpy("probabilities").argmax() == 1
    with pytest.raises(triton.InferenceServerException, match="1000000") as refused:
        asking.infer("colours", [files_in([photograph] * 4)])
    assert refused.value.status() == "413"


def test_text_that_is_no_base64_is_unreadable(client: httpx.Client) -> None:
    request = {"inputs": [one_image(shape=[2], data=[base64.b64encode(FILES[0]).decode(), "http://localhost/cat.jpg"])]}
    assert_refused(client.post(INFER, json=request), 422, "unreadable_image", "images[1] is not base64", "never fetched")


def test_methods_hosts_and_other_sites_are_refused_in_words_too(client: httpx.Client) -> None:
    assert_refused(client.get(INFER), 405, "method_not_allowed")
    assert_refused(client.delete("/v2/models/colours"), 405, "method_not_allowed")
    assert_refused(client.get("/v2/nope"), 404, "not_found")
    assert_refused(client.get("/v2", headers={"host": "evil.example"}), 403, "unknown_host")
    assert_refused(client.post(INFER, headers={"origin": "https://evil.example"}), 403, "foreign_origin")
    assert "error" not in client.get("/models/nope").json()


def test_mutated_requests_never_break_it(client: httpx.Client) -> None:
    rng = np.random.default_rng(3)
    whole, length = triton.InferenceServerClient.generate_request_body([files_in([picture("red", "BMP", size=(9, 9))] * 2)])
    statuses = set()
    for _ in range(300):
        data = bytearray(whole)
        for position in rng.integers(0, length + 8 if rng.random() < 0.5 else len(data), 3):
            data[position] = rng.integers(0, 256)
        shift = int(rng.integers(-2, 3)) if rng.random() < 0.2 else 0
        answer = client.post(INFER, content=bytes(data), headers={"Inference-Header-Content-Length": str(length + shift)})
        statuses.add(answer.status_code)
        assert answer.status_code in {200, 400, 413, 422}, answer.text
    assert {200, 400} <= statuses


def test_a_key_needs_its_scope_and_health_needs_none(tmp_path: Path) -> None:
    publish_tasks(tmp_path)
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work", "broken", golden_gain=3.0)
    keys = tmp_path / "keys.json"
    tokens = {scope: create_key(keys, (scope,), scope)[1] for scope in ("predict", "explain")}
    with serve(tmp_path, run="serve", ready=False, keys=keys) as server, triton.InferenceServerClient(address(server)) as asking:
        server.wait("/v2/health/live", 200)
        # One of its models may not serve, and health says so.
        assert not asking.is_server_ready()
        for headers, status in ((None, "401"), ({"X-API-Key": tokens["explain"]}, "403"), ({"X-API-Key": "x"}, "401")):
            with pytest.raises(triton.InferenceServerException) as refused:
                asking.infer("presence", [files_in(FILES)], headers=headers)
            assert refused.value.status() == status
            assert "key" in refused.value.message()
        allowed = {"Authorization": f"Bearer {tokens['predict']}"}
        assert asking.get_server_metadata(headers=allowed)["name"] == "candor"
        soon(lambda: asking.is_model_ready("presence", headers=allowed))
        assert asking.infer("presence", [files_in(FILES)], headers=dict(allowed)).as_numpy("logits").shape == (4, 3)
        assert not (tmp_path / "audit.jsonl").exists()
