"""`/explain-confidence` behind the real service: how sure, how that is known, what else it could be; and what is refused."""

from __future__ import annotations

import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bentoml
import numpy as np
import pytest
from PIL import Image

from models.registry import Registry
from tests.support.evidence import TEMPERATURE, publish_judged
from tests.support.pictures import encode, picture
from tests.support.server import Server, serve
from tests.support.tiny import BRIGHTNESS, GAIN, LABELS, PRESENCE, SIZE, colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.e2e
PNG = {"content-type": "image/png"}
# Red, and nearly as much green: the model is not sure.
OLIVE = (140, 115, 0)
PARTS = ("prediction_set", "familiarity", "known_confusion")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("explain")
    registry = Registry(home / "registry")
    publish_judged(registry, home / "work", "colours", replace(colours(), breaks_on_black=True))
    publish_judged(registry, home / "work", "presence", PRESENCE)
    publish_judged(registry, home / "work", "brightness", BRIGHTNESS)
    publish_tiny(registry, home / "work", "bare", colours())
    with serve(home, run="serve", default_model="colours") as server:
        yield server


def olive(width: int = 40, height: int = 40) -> bytes:
    return encode(Image.new("RGB", (width, height), OLIVE), "PNG")


def ask(client: httpx.Client, image: bytes, **query: object) -> dict[str, Any]:
    response = client.post("/explain-confidence", params=query, content=image, headers=PNG)
    assert response.status_code == 200, response.text
    return response.json()


def unnamed(answer: dict[str, Any]) -> dict[str, Any]:
    """All but the request's id, which is new each time."""
    return {key: value for key, value in answer.items() if key != "request_id"}


def classified(client: httpx.Client, image: bytes, **query: object) -> dict[str, Any]:
    response = client.post("/classify", params=query, content=image, headers=PNG)
    assert response.status_code == 200, response.text
    return response.json()["results"][0]


def test_sure_answer_says_why_it_may_be_accepted(client: httpx.Client, server: Server) -> None:
    response = client.post("/explain-confidence", content=picture("red"), headers=PNG | {"x-request-id": "abc-1"})
    answer = response.json()
    assert (response.headers["x-model-version"], response.headers["x-request-id"]) == ("colours:1", "abc-1")
    assert answer["request_id"] == "abc-1"
    card = client.get("/models/colours").json()
    assert answer["model"].items() >= {"name": "colours", "version": 1, "precision": "fp32", "calibration": "ok"}.items()
    assert card["serving"] == answer["model"]["version"]
    assert re.fullmatch("[0-9a-f]{64}", answer["model"]["artifact_sha256"])
    assert (answer["prediction"]["label"], answer["prediction"]["index"]) == ("red", 0)
    assert answer["confidence"]["level"] == "high"
    assert answer["prediction_set"]["labels"] == ["red"]
    assert answer["familiarity"]["verdict"] == "familiar"
    assert answer["decision"] == {"action": "accept", "reasons": []}
    assert answer["summary"].startswith("over 99 % red; answers like this one are right over 99 % of the time.")
    assert answer["unavailable"] == {}


def test_doubtful_answer_names_what_else_it_could_be_and_the_map_adds_up(client: httpx.Client) -> None:
    answer = ask(client, olive(), versus="green", neighbors=7, top_k=2)
    assert answer["prediction"]["label"] == "red"
    assert [entry["label"] for entry in answer["alternatives"]] == ["green"]
    assert answer["decision"]["action"] == "review"
    assert "BELOW_AUTO_ACCEPT" in answer["decision"]["reasons"]
    assert len(answer["evidence"]["neighbors"]) == 7
    logits = GAIN * np.array(OLIVE) / 255
    heatmap, versus = answer["evidence"]["heatmap"], answer["evidence"]["versus"]
    assert (heatmap["rows"], heatmap["cols"], heatmap["image_box"]) == (SIZE, SIZE, [0, 0, 1, 1])
    assert np.mean(heatmap["values"]) + heatmap["bias"] == pytest.approx(logits[0], abs=1e-3)
    assert versus["logit_margin"] == pytest.approx(logits[0] - logits[1], abs=1e-3)
    assert np.mean(versus["heatmap"]["values"]) == pytest.approx(versus["logit_margin"], abs=1e-3)
    p = np.exp(logits / TEMPERATURE) / np.exp(logits / TEMPERATURE).sum()
    assert answer["prediction"]["probability"] == pytest.approx(p[0], abs=1e-4)
    # and without calibration it would have sounded surer
    assert answer["prediction"]["raw_softmax"] > answer["prediction"]["probability"]


def test_strange_image_is_rejected_however_probable_its_label_is(client: httpx.Client) -> None:
    answer = ask(client, picture("white"))
    assert answer["familiarity"]["verdict"] == "unknown"
    assert (answer["confidence"]["level"], answer["confidence"]["p_correct"]) == ("unknown", None)
    assert answer["decision"]["action"] == "reject"
    assert answer["decision"]["reasons"][0] == "UNFAMILIAR"
    assert "none of the images that the model knows" in answer["summary"]


def test_sets_grow_with_the_level(client: httpx.Client) -> None:
    sizes = [ask(client, olive(), confidence_level=level)["prediction_set"]["size"] for level in (0.5, 0.9, 0.999)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 3
    assert ask(client, olive(), confidence_level=0.999)["prediction_set"]["pooled"] == ["red", "green", "blue"]


def test_map_says_which_part_of_the_image_the_model_saw(client: httpx.Client) -> None:
    heatmap = ask(client, olive(width=80, height=40))["evidence"]["heatmap"]
    assert heatmap["image_box"] == [0.25, 0, 0.75, 1]


def test_png_is_laid_over_what_the_model_saw(client: httpx.Client) -> None:
    heatmap = ask(client, olive(), heatmap="png")["evidence"]["heatmap"]
    assert heatmap["values"] is None
    image = Image.open(io.BytesIO(base64.b64decode(heatmap["png"])))
    assert (image.format, image.size) == ("PNG", (SIZE, SIZE))
    without = ask(client, olive(), heatmap="none", versus="green")["evidence"]
    assert (without["heatmap"], without["versus"]) == (None, None)


def test_same_image_and_version_give_the_identical_body_whatever_is_asked_meanwhile(client: httpx.Client, server: Server) -> None:
    """All but the request's id, which is the same here."""
    query, headers = {"versus": "blue", "confidence_level": 0.9}, PNG | {"x-request-id": "same"}
    first = client.post("/explain-confidence", params=query, content=olive(), headers=headers).content

    def body(number: int) -> bytes:
        with server.client() as own:
            own.post("/classify", content=picture(("red", "green", "blue")[number % 3]), headers=PNG)
            return own.post("/explain-confidence", params=query, content=olive(), headers=headers).content

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(body, range(24))) == {first}


def test_every_form_of_a_body_is_answered_alike(client: httpx.Client) -> None:
    raw = ask(client, olive(), top_k=2, heatmap="none")
    coded = base64.b64encode(olive()).decode()
    fields = {"top_k": 2, "heatmap": "none"}
    form = {name: str(value) for name, value in fields.items()}
    for field in ("image", "images"):
        for value in (coded, [coded]):
            assert unnamed(client.post("/explain-confidence", json={field: value, **fields}).json()) == unnamed(raw)
        assert unnamed(client.post("/explain-confidence", files={field: olive()}, data=form).json()) == unnamed(raw)


def test_bentoml_client_gets_what_http_gets(client: httpx.Client, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "olive.png"
    path.write_bytes(olive())
    with bentoml.SyncHTTPClient(server.url) as bento:
        plain = bento.explain_confidence(image=path)
        asked = bento.explain_confidence(
            image=path, model="colours:1", confidence_level=0.8, top_k=2, neighbors=1, heatmap="none", versus="green"
        )
        trusted = bento.classify(images=[path], raw=True, trust=False)
    assert unnamed(plain) == unnamed(ask(client, olive()))
    expected = ask(client, olive(), confidence_level=0.8, top_k=2, neighbors=1, heatmap="none", versus="green")
    assert unnamed(asked) == unnamed(expected)
    assert trusted["results"] == [classified(client, olive(), raw="true", trust="false")]


def test_other_tasks_are_explained_in_their_own_words(client: httpx.Client) -> None:
    tags = ask(client, picture("red"), model="presence", versus="blue")
    assert tags["selected"] == ["red"]
    assert tags["decision"]["action"] == "review"
    assert tags["heatmap"]["bias"] == -6
    number = ask(client, picture("red"), model="brightness", confidence_level=0.8)
    assert number["interval"]["confidence_level"] == 0.8
    assert number["interval"]["low"] < number["value"] < number["interval"]["high"]
    assert number["unit"] == "percent"
    too_sure = ask(client, picture("red"), model="brightness", confidence_level=0.999)
    assert too_sure["interval"] is None
    assert "it takes 999 calibration images, and there are 200" in too_sure["unavailable"]["interval"]
    for model in ("presence", "brightness"):
        assert ask(client, picture("white"), model=model)["decision"]["action"] == "reject"


def test_version_without_evidence_says_what_it_lacks(client: httpx.Client) -> None:
    answer = ask(client, olive(), model="bare", versus="green")
    assert [answer[part] for part in PARTS] == [None] * 3
    assert (answer["evidence"]["heatmap"], answer["evidence"]["versus"]) == (None, None)
    assert answer["evidence"]["neighbors"] == []
    assert answer["unavailable"] == {"evidence": "made for a test"}
    assert answer["decision"]["action"] == "review"
    assert classified(client, olive(), model="bare").items() >= {"action": "review", "familiarity": None}.items()


# --- /classify


def test_results_say_what_to_do_with_them(client: httpx.Client) -> None:
    assert classified(client, picture("red")).items() >= {"action": "accept", "familiarity": "familiar"}.items()
    assert classified(client, picture("white")).items() >= {"action": "reject", "familiarity": "unknown"}.items()
    assert classified(client, picture("white"), model="presence").items() >= {"action": "reject"}.items()
    assert classified(client, picture("red"), model="brightness").items() >= {"familiarity": "familiar"}.items()
    assert classified(client, picture("red"), trust="false").keys() == {"predictions"}


def test_raw_is_the_networks_own_softmax(client: httpx.Client) -> None:
    explained = ask(client, olive())["prediction"]
    for query, key in (({}, "probability"), ({"raw": "false"}, "probability"), ({"raw": "true"}, "raw_softmax")):
        best = classified(client, olive(), **query)["predictions"][0]
        assert best["label"] == "red"
        assert best["probability"] == pytest.approx(explained[key], abs=2e-6)


# --- what is refused


def refused(client: httpx.Client, status: int, code: str, *words: str, **request: Any) -> None:
    response = client.post("/explain-confidence", **({"content": picture(), "headers": PNG} | request))
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem = response.json()
    assert problem["code"] == code
    for word in words:
        assert word in problem["detail"]


def test_unknown_label_to_contrast_with_names_some(client: httpx.Client) -> None:
    refused(client, 400, "invalid_parameter", "'mauve'", *LABELS, params={"versus": "mauve"})


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"confidence_level": "1"}, "0.999"),
        ({"confidence_level": "nan"}, "0.999"),
        ({"neighbors": "21"}, "0 to 20"),
        ({"top_k": "0"}, "1 to 1000"),
        ({"heatmap": "jpeg"}, "grid, png, none"),
        ({"level": "0.9"}, "confidence_level"),
        ({"trust": "false"}, "heatmap"),
    ],
)
def test_parameter_out_of_range_is_refused(client: httpx.Client, query: dict[str, str], word: str) -> None:
    refused(client, 400, "invalid_parameter", word, params=query)


def test_anything_but_one_image_is_refused(client: httpx.Client) -> None:
    two = {"files": [("images", ("a", picture())), ("images", ("b", picture()))], "content": None, "headers": None}
    refused(client, 400, "invalid_parameter", "2 images", **two)
    coded = base64.b64encode(picture()).decode()
    both = {"json": {"image": coded, "images": [coded]}, "content": None, "headers": None}
    refused(client, 400, "invalid_parameter", "2 images", **both)
    refused(client, 400, "empty_body", content=b"")
    refused(client, 422, "unreadable_image", content=b"a cat, I promise")
    refused(client, 422, "unreadable_image", content=None, headers=None, json={"images": ["?"]})
    refused(client, 415, "unsupported_media_type", headers={"content-type": "text/plain"})
    refused(client, 404, "unknown_model", params={"model": "birds"})
    assert client.get("/explain-confidence").json()["code"] == "method_not_allowed"


def test_network_that_answers_no_number_is_an_error_without_one(client: httpx.Client, server: Server) -> None:
    for path in ("/explain-confidence", "/classify"):
        broken = client.post(path, content=picture("black"), headers=PNG | {"x-request-id": "broken-1"})
        assert (broken.status_code, broken.json()["code"]) == (500, "internal")
        assert "finite" not in broken.text
    assert "request broken-1 failed" in server.log.read_text()
    assert ask(client, picture("red"))["prediction"]["label"] == "red"


def test_metrics_show_how_far_answers_were_trusted(client: httpx.Client) -> None:
    def counted(name: str) -> float:
        text = client.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    series = {
        'candor_familiarity_total{model="colours",verdict="unknown"}': 2,
        'candor_decisions_total{action="reject",model="colours"}': 2,
        'candor_confidence_ratio_count{model="colours"}': 2,
        'candor_prediction_set_size_count{model="colours"}': 1,
        'candor_explain_duration_seconds_count{model="colours"}': 1,
        'candor_requests_total{method="POST",route="/explain-confidence",status="200"}': 1,
    }
    before = {name: counted(name) for name in series}
    ask(client, picture("white"))
    classified(client, picture("white"))
    assert {name: counted(name) - before[name] for name in series} == series
    for _ in range(100):
        classified(client, picture("green"))
    text = client.get("/metrics").text
    assert re.search(r'^candor_drift_ks_ratio\{model="colours"\} [01]', text, re.MULTILINE)
    assert re.search(r'^candor_estimated_accuracy_ratio\{model="colours"\} ', text, re.MULTILINE)
