"""The one document: it has every route, and what the routes answer is what it says."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from models.registry import Registry
from service.api.classify import ClassifyAnswer
from service.api.explain import ExplainAnswer, ExplainedLabel, ExplainedLabels, ExplainedValue
from service.api.infer import InferAnswer
from service.app import Classifier
from service.infer_request import InferRequest
from tests.support.evidence import publish_judged
from tests.support.pictures import picture
from tests.support.tiny import BRIGHTNESS, PRESENCE, colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {"colours": ExplainedLabel, "presence": ExplainedLabels, "brightness": ExplainedValue, "bare": ExplainedLabel}
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home: Path = tmp_path_factory.mktemp("openapi")
    registry = Registry(home / "registry")
    for name, tiny in (("colours", replace(colours(), breaks_on_black=True)), ("presence", PRESENCE), ("brightness", BRIGHTNESS)):
        publish_judged(registry, home / "work", name, tiny)
    publish_tiny(registry, home / "work", "bare", colours())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_HOME", str(home))
        patch.setenv("CANDOR_DEFAULT_MODEL", "colours")
        with TestClient(Classifier.to_asgi(), base_url="http://127.0.0.1:3000", raise_server_exceptions=False) as client:
            while client.get("/readyz").status_code != 200:
                pass
            yield client


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def test_every_route_is_in_the_document(document: dict[str, Any]) -> None:
    assert {"/classify", "/explain-confidence", "/models", "/metrics", "/livez", "/readyz"} <= document["paths"].keys()
    below = "/models/{name}/interpretation"
    assert {
        below,
        f"{below}/confusion-matrix",
        f"{below}/most-confused",
        f"{below}/reliability",
        f"{below}/review",
        f"{below}/thumbnails/{{image_id}}",
        "/models/{name}/versions/{version}/report",
    } <= document["paths"].keys()


def test_an_upload_is_documented_with_its_body_and_what_it_may_be_refused_for(document: dict[str, Any]) -> None:
    upload = document["paths"]["/datasets/{name}"]["put"]
    assert upload["requestBody"]["content"].keys() == {"application/zip"}
    assert {"200", "201", "400", "408", "413", "415", "422", "429", "507"} <= upload["responses"].keys()
    assert "`invalid_dataset`" in upload["responses"]["422"]["description"]
    assert "409" in document["paths"]["/datasets/{name}"]["delete"]["responses"]
    assert "422" not in document["paths"]["/datasets/{name}"]["get"]["responses"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    named = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))
    assert named <= schemas.keys()
    assert {"ClassifyAnswer", "ExplainAnswer", "Problem", "Interpretation", "ReviewPage"} <= named


@pytest.mark.parametrize("path", ["/classify", "/explain-confidence"])
def test_parameters_stand_in_the_query_and_beside_the_images_alike(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    in_query = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
    for form in ("multipart/form-data", "application/json"):
        properties = operation["requestBody"]["content"][form]["schema"]["properties"]
        assert properties.keys() - in_query == {"/classify": {"images"}, "/explain-confidence": {"image", "images"}}[path]
    assert {"200", "400", "404", "413", "415", "422", "429", "503", "504"} <= operation["responses"].keys()


@pytest.mark.parametrize("form", ["multipart/form-data", "application/json"])
def test_one_image_is_explained_by_either_name(document: dict[str, Any], form: str) -> None:
    schema = document["paths"]["/explain-confidence"]["post"]["requestBody"]["content"][form]["schema"]
    assert schema["oneOf"] == [{"required": ["image"]}, {"required": ["images"]}]
    assert schema["properties"]["image"]["type"] == "string"
    assert (schema["properties"]["images"]["minItems"], schema["properties"]["images"]["maxItems"]) == (1, 1)


@pytest.mark.parametrize("path", ["/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"])
def test_inference_is_documented_in_both_forms(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    forms = {"application/json", "application/octet-stream"}
    assert operation["requestBody"]["content"].keys() == operation["responses"]["200"]["content"].keys() == forms
    assert "Inference-Header-Content-Length" in {parameter["name"] for parameter in operation["parameters"]}
    assert operation["responses"]["200"]["headers"].keys() == {"X-Model-Version", "Inference-Header-Content-Length"}
    assert {"400", "401", "404", "413", "415", "422", "429", "503", "504"} <= operation["responses"].keys()


@pytest.mark.parametrize("name", ["colours", "presence", "brightness"])
def test_inferred_tensors_are_those_of_the_metadata_and_of_the_form_that_is_promised(client: TestClient, name: str) -> None:
    image = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture("red")).decode()]}
    asked = InferRequest.model_validate({"id": "7", "inputs": [image]}).model_dump(mode="json")
    answer = client.post(f"/v2/models/{name}/infer", json=asked)
    read = InferAnswer.model_validate_json(answer.content)
    assert read.model_dump(exclude_unset=True, mode="json") == answer.json()
    described = client.get(f"/v2/models/{name}").json()["outputs"]
    assert [(output.name, output.datatype, output.shape) for output in read.outputs] == [
        (output["name"], output["datatype"], [1, *output["shape"][1:]]) for output in described
    ]
    assert [len(output.data or ()) for output in read.outputs] == [output["shape"][1] for output in described]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/models/{name}/interpretation/thumbnails/{image_id}", "image/jpeg"),
        ("/models/{name}/versions/{version}/report", "text/html"),
        ("/metrics", "text/plain"),
    ],
)
def test_what_is_no_json_says_what_it_is(document: dict[str, Any], path: str, media_type: str) -> None:
    assert list(document["paths"][path]["get"]["responses"]["200"]["content"]) == [media_type]


def test_why_a_part_is_null_is_explained(document: dict[str, Any]) -> None:
    for kind in ("ExplainedLabel", "ExplainedLabels", "ExplainedValue"):
        said = document["components"]["schemas"][kind]["properties"]["unavailable"]["description"]
        for part in ("conformal", "head", "bank", "interval", "versus"):
            assert part in said


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_explanations_are_of_the_form_that_is_promised(client: TestClient, name: str, kind: type) -> None:
    for query in ("", "&heatmap=png&versus=", "&heatmap=none&neighbors=0&confidence_level=0.999"):
        response = client.post(f"/explain-confidence?model={name}{query}", content=picture("red"), headers=PNG)
        assert response.status_code == 200, response.text
        assert response.headers["x-model-version"] == f"{name}:1"
        assert isinstance(ExplainAnswer.model_validate_json(response.content).root, kind)


@pytest.mark.parametrize("name", KINDS)
def test_results_are_of_the_form_that_is_promised(client: TestClient, name: str) -> None:
    response = client.post(f"/classify?model={name}", content=picture("red"), headers=PNG)
    (result,) = ClassifyAnswer.model_validate_json(response.content).results
    assert result.model_dump(exclude_unset=True, mode="json") == response.json()["results"][0]
    assert {"action", "familiarity"} <= response.json()["results"][0].keys()


def test_output_that_is_not_finite_is_answered_without_a_number(client: TestClient) -> None:
    black = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture("black")).decode()]}
    for path in ("/classify", "/explain-confidence", "/v2/models/colours/infer"):
        sent: dict[str, Any] = {"json": {"inputs": [black]}} if "v2" in path else {"content": picture("black"), "headers": PNG}
        broken = client.post(path, **sent)
        assert (broken.status_code, broken.json()["code"]) == (500, "internal")
        assert "nan" not in broken.text.lower()
        assert not re.search(r"\d\.\d", broken.text)
        assert client.post("/classify", content=picture("red"), headers=PNG).status_code == 200
