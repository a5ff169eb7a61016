"""The interpretation routes, over versions as training publishes them, and over versions that lack what is asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from models.manifest import Manifest
from models.registry import Registry
from models.review_schema import MultiLabelReview, RegressionReview, SingleLabelReview
from service.api.app import build_app
from service.engine import Engine, EngineRef
from service.settings import Settings
from tests.support.artifacts import make_manifest, write_files
from tests.support.judged import images_of, made_up
from tests.support.reported import HISTORY_OF, LABELS, make_card, write_all
from training.interpret import interpret
from training.report import REPORT
from training.subject import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from training.subject import Subject

SUBJECT = made_up(4, labels=LABELS, findings=("2 images are nearly the same",))
BASE = "/models/birds/interpretation"


def tags() -> Subject:
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 2, (60, 3)).astype(np.float32)
    logits = (targets * 4 - 2 + rng.normal(size=targets.shape) * 2).astype(np.float32)
    outputs = {"test": Outputs(images_of("test", targets), logits, np.zeros((60, 4), dtype=np.float32))}
    return made_up(
        task="multi_label", labels=("a", "b", "c"), outputs=outputs, thresholds=dict.fromkeys("abc", 0.5), temperature=1.0
    )


def numbers() -> Subject:
    targets = np.linspace(0, 10, 40, dtype=np.float32)[:, None]
    noise = np.random.default_rng(6).normal(size=targets.shape).astype(np.float32)
    outputs = {"test": Outputs(images_of("test", targets), targets + noise, np.zeros((40, 4), dtype=np.float32))}
    return made_up(task="regression", labels=("angle",), unit="degrees", outputs=outputs, temperature=1.0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    work = tmp_path_factory.mktemp("interpretation")
    registry = Registry(work / "registry")
    folder = write_all(work / "first", SUBJECT, HISTORY_OF)
    (folder / REPORT).write_text("<!doctype html><title>birds</title>")
    registry.publish(folder, make_card())
    registry.publish(write_files(work / "second"), make_card())
    for name, subject in (("tags", tags()), ("angle", numbers())):
        manifest = make_manifest(name=name, task=subject.task, labels=subject.labels)
        registry.publish(write_all(work / name, subject), manifest)
    return registry


@pytest.fixture(scope="module")
def client(registry: Registry) -> Iterator[TestClient]:
    engine = EngineRef()
    engine.set(Engine(Settings(home=registry.root.parent)))
    with TestClient(build_app(engine)) as client:
        yield client


def get(client: TestClient, path: str, **query: object) -> dict[str, Any]:
    response = client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, path: str, status: int, code: str, **query: object) -> str:
    response = client.get(path, params=query)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    return response.json()["detail"]


def review() -> SingleLabelReview:
    found = interpret(SUBJECT)
    assert isinstance(found, SingleLabelReview)
    return found


def test_interpretation_says_all_that_is_known_of_a_version(client: TestClient) -> None:
    shown, expected = get(client, BASE), review()
    assert shown["model"] == {"name": "birds", "version": 1, "task": "single_label"}
    assert shown["judged_on"] == "test"
    assert shown["splits"] == {"train": 60, "test": 80}
    assert shown["scores"]["test"] == expected.scores["test"].model_dump(mode="json")
    assert [entry["label"] for entry in shown["per_label"]] == list(LABELS)
    assert shown["confidence"]["temperature"]["value"] == 1.5
    assert shown["overfit"] == {"verdict": "none", "best_epoch": 3, "sentence": "No sign of overfitting."}
    assert shown["findings"] == ["2 images are nearly the same"]
    # what confidence.json says of what it lacks
    assert shown["unavailable"] == {**expected.unavailable, "evidence": "made for a test"}


def test_what_a_version_lacks_is_null_with_a_reason(client: TestClient) -> None:
    shown = get(client, BASE, version=2)
    assert [shown[key] for key in ("judged_on", "scores", "per_label", "overfit", "findings")] == [None] * 5
    assert shown["unavailable"]["review"] == "published without review.json"
    assert shown["unavailable"]["overfit"] == "published without history.json"
    for route, part in (("confusion-matrix", "matrix"), ("most-confused", "pairs"), ("reliability", "reliability")):
        answer = get(client, f"{BASE}/{route}", version=2)
        assert (answer[part], answer["unavailable"]["review"]) == (None, "published without review.json")
    page = get(client, f"{BASE}/review", version=2, list="top_losses")
    assert (page["items"], page["total"], page["next_cursor"]) == (None, None, None)
    assert refused(client, "/models/birds/versions/2/report", 404, "not_found") == "birds:2 has no report"


def test_confusion_matrix_counts_or_shares(client: TestClient) -> None:
    counts = review().confusion_matrix()
    shown = get(client, f"{BASE}/confusion-matrix")
    assert (shown["matrix"], shown["labels"], shown["split"]) == (counts.tolist(), list(LABELS), "test")
    by_actual = np.array(get(client, f"{BASE}/confusion-matrix", normalize="actual")["matrix"])
    np.testing.assert_allclose(by_actual, counts / counts.sum(axis=1, keepdims=True), atol=1e-6)
    by_predicted = np.array(get(client, f"{BASE}/confusion-matrix", normalize="predicted")["matrix"])
    np.testing.assert_allclose(by_predicted, counts / counts.sum(axis=0, keepdims=True), atol=1e-6)
    assert "normalize" in refused(client, f"{BASE}/confusion-matrix", 400, "invalid_parameter", normalize="all")


def test_most_confused_are_those_of_at_least_so_many(client: TestClient) -> None:
    expected = review()
    for least in (1, 3):
        pairs = get(client, f"{BASE}/most-confused", min_val=least)["pairs"]
        assert pairs == [pair.model_dump() for pair in expected.most_confused(least)]
    assert len(expected.most_confused(1)) > len(expected.most_confused(3)) > 0
    refused(client, f"{BASE}/most-confused", 400, "invalid_parameter", min_val=0)


def test_reliability_is_the_reviews(client: TestClient) -> None:
    expected = review().reliability
    assert expected is not None
    assert get(client, f"{BASE}/reliability")["reliability"] == expected.model_dump(mode="json")


@pytest.mark.parametrize("listed", ["most_confident", "least_confident", "confidently_wrong", "unfamiliar"])
@pytest.mark.parametrize("by", ["predicted", "actual"])
def test_pages_together_are_the_list_in_order(client: TestClient, listed: str, by: str) -> None:
    entry = next(entry for entry in review().questions if entry.label == LABELS[1])
    expected = list(getattr(getattr(entry, by), listed))
    found: list[str] = []
    query: dict[str, object] = {"list": listed, "label": LABELS[1], "by": by, "limit": 3}
    while True:
        page = get(client, f"{BASE}/review", **query)
        assert page["total"] == len(expected)
        assert len(page["items"]) <= 3
        found += [item["id"] for item in page["items"]]
        assert all(item[by] == LABELS[1] for item in page["items"])
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == expected
    assert found


def test_an_image_is_described_with_a_picture(client: TestClient, registry: Registry) -> None:
    page = get(client, f"{BASE}/review", list="confidently_wrong", label=LABELS[0])
    item = page["items"][0]
    assert item["actual"] != item["predicted"] == LABELS[0]
    assert isinstance(item["below_threshold"], bool)
    assert {"path", "split", "p_predicted", "p_actual", "margin", "loss"} <= item.keys()
    picture = client.get(item["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    digits = item["id"].removeprefix("sha256:")
    stored = registry.path("birds", 1) / "thumbnails" / f"{digits}.jpg"
    assert picture.content == stored.read_bytes()
    # by its whole id too
    assert client.get(f"{BASE}/thumbnails/{item['id']}").content == picture.content


def test_lists_of_all_images_may_be_narrowed_to_a_label(client: TestClient) -> None:
    whole = get(client, f"{BASE}/review", list="top_losses", limit=100)
    assert [item["id"] for item in whole["items"]] == list(review().top_losses)
    for by in ("actual", "predicted"):
        page = get(client, f"{BASE}/review", list="top_losses", limit=100, label=LABELS[2], by=by)
        assert [item["id"] for item in page["items"]] == [item["id"] for item in whole["items"] if item[by] == LABELS[2]]
    found = review().suspects
    assert found is not None
    suspects = get(client, f"{BASE}/review", list="suspects", limit=100)
    assert [item["id"] for item in suspects["items"]] == [one.id for one in found.listed[:100]]
    named = get(client, f"{BASE}/review", list="suspects", limit=100, label=LABELS[2], by="actual")
    assert [item["id"] for item in named["items"]] == [one.id for one in found.listed if one.label == LABELS[2]]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            {"list": "sharpest", "label": LABELS[0]},
            "most_confident, least_confident, confidently_wrong, unfamiliar, top_losses, suspects",
        ),
        ({"list": "unfamiliar"}, "say which, with label="),
        ({"list": "most_confident", "label": "penguin"}, "birds has no such label; some that it has: heron, kite"),
        ({"list": "top_losses", "label": "penguin"}, "has no such label"),
        ({"list": "most_confident"}, "say which, with label="),
        ({"list": "top_losses", "by": "chance"}, "by"),
        ({"list": "top_losses", "limit": 0}, "limit"),
        ({"list": "top_losses", "limit": 101}, "limit"),
        ({}, "list"),
        *(({"list": "top_losses", "cursor": cursor}, "cursor") for cursor in ("", "5", "x.5", "../..", "000000000000.5")),
    ],
)
def test_what_nobody_knows_is_refused(client: TestClient, query: dict[str, object], said: str) -> None:
    assert said in refused(client, f"{BASE}/review", 400, "invalid_parameter", **query)


def test_cursor_of_another_list_or_place_is_refused(client: TestClient) -> None:
    cursor = get(client, f"{BASE}/review", list="top_losses", limit=2)["next_cursor"]
    place = cursor.partition(".")[0]
    for query in (
        {"list": "most_confident", "label": LABELS[0], "cursor": cursor},
        {"list": "top_losses", "by": "actual", "cursor": cursor},
        {"list": "top_losses", "cursor": f"{place}.0"},
        {"list": "top_losses", "cursor": f"{place}.5000"},
        {"list": "top_losses", "cursor": f"{place}.-1"},
        {"list": "top_losses", "cursor": f"{place}.{'9' * 5000}"},
    ):
        assert "is not of this list" in refused(client, f"{BASE}/review", 400, "invalid_parameter", **query)


@pytest.mark.parametrize("image_id", ["nothing", "sha256:", "%2e%2e%2fmanifest.json", "manifest.json", "sha256:..%2F..%2Fx"])
def test_picture_that_is_not_there_is_not_found(client: TestClient, image_id: str) -> None:
    assert client.get(f"{BASE}/thumbnails/{image_id}").status_code == 404


def test_unknown_name_and_version_are_unknown(client: TestClient) -> None:
    for route in ("", "/confusion-matrix", "/most-confused", "/reliability", "/review?list=top_losses", "/thumbnails/x"):
        assert client.get(f"/models/penguins/interpretation{route}").json()["code"] == "unknown_model"
        joint = "&" if "?" in route else "?"
        missing = client.get(f"{BASE}{route}{joint}version=9").json()
        assert (missing["code"], missing["detail"]) == ("unknown_model", "birds has no version 9; it has [1, 2]")
    refused(client, "/models/birds/versions/9/report", 404, "unknown_model")
    refused(client, BASE, 400, "invalid_parameter", version=0)
    refused(client, "/models/birds/versions/latest/report", 400, "invalid_parameter")


def test_report_is_served_so_that_nothing_in_it_may_run_or_load(client: TestClient) -> None:
    response = client.get("/models/birds/versions/1/report")
    assert response.text == "<!doctype html><title>birds</title>"
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert not any(part.startswith(("script-src", "connect-src")) for part in policy)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_several_labels_have_lists_of_their_own(client: TestClient) -> None:
    base = "/models/tags/interpretation"
    expected = interpret(tags())
    assert isinstance(expected, MultiLabelReview)
    shown = get(client, base)
    assert shown["scores"]["test"] == expected.scores["test"].model_dump(mode="json")
    assert [entry["label"] for entry in shown["per_label"]] == ["a", "b", "c"]
    for listed in ("most_sure", "unsure", "false_alarms", "missed"):
        items = get(client, f"{base}/review", list=listed, label="b", limit=100)["items"]
        assert [(item["id"], item["p"]) for item in items] == [(one.id, one.p) for one in getattr(expected.per_label[1], listed)]
    matrix = get(client, f"{base}/confusion-matrix")
    assert (matrix["matrix"], matrix["unavailable"]["matrix"]) == (
        None,
        "belongs to one label an image, and the task is multi_label",
    )
    assert "most_sure, unsure, false_alarms, missed" in refused(
        client, f"{base}/review", 400, "invalid_parameter", list="top_losses", label="a"
    )


def test_numbers_have_their_largest_errors(client: TestClient) -> None:
    expected = interpret(numbers())
    assert isinstance(expected, RegressionReview)
    page = get(client, "/models/angle/interpretation/review", list="largest_errors", limit=10)
    assert [item["id"] for item in page["items"]] == list(expected.largest_errors[:10])
    errors = [abs(item["error"]) for item in page["items"]]
    assert errors == sorted(errors, reverse=True)
    shown = get(client, "/models/angle/interpretation")
    assert (shown["per_label"], shown["scores"]["test"]["images"]) == (None, 40)


# --- what is on disk


@pytest.fixture
def changing(tmp_path: Path) -> tuple[TestClient, Registry, Manifest]:
    registry = Registry(tmp_path / "registry")
    manifest = registry.publish(write_all(tmp_path / "work", SUBJECT, HISTORY_OF), make_card())
    engine = EngineRef()
    engine.set(Engine(Settings(home=tmp_path)))
    return TestClient(build_app(engine)), registry, manifest


def test_altered_file_is_not_shown(changing: tuple[TestClient, Registry, Manifest]) -> None:
    client, registry, _ = changing
    folder = registry.path("birds", 1)
    for name in ("review.json", "history.json"):
        (folder / name).write_text(json.dumps({"made": "up"}))
    shown = get(client, BASE)
    for part, file in (("review", "review.json"), ("overfit", "history.json")):
        assert shown["unavailable"][part] == f"{file} cannot be read; `python -m models verify birds:1` says why"
    thumbnail = next((folder / "thumbnails").iterdir())
    thumbnail.write_bytes(b"<script>")
    assert client.get(f"{BASE}/thumbnails/{thumbnail.stem}").status_code == 404


def test_version_is_read_once_and_again_when_it_is_another(
    changing: tuple[TestClient, Registry, Manifest], tmp_path: Path
) -> None:
    client, registry, _ = changing
    before = get(client, BASE)
    # Not read again, so not missed.
    (registry.path("birds", 1) / "review.json").unlink()
    assert get(client, BASE) == before
    other = made_up(4, labels=LABELS, findings=("another",))
    registry.publish(write_all(tmp_path / "other", other), make_card())
    assert get(client, BASE)["findings"] == before["findings"]
    registry.promote("birds", 2)
    assert get(client, BASE)["findings"] == ["another"]
    assert get(client, BASE, version=1) == before
