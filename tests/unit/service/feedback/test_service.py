"""Who may do what with feedback, and with CANDOR_KEEP_IMAGES off; a place that is none is said at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from models.errors import SettingsError
from models.registry import Registry
from service.app import Classifier
from service.engine import Engine
from service.feedback.files import Files
from service.feedback.store import FeedbackStore
from service.keys import create_key
from service.settings import Settings
from tests.support.pictures import picture
from tests.support.tiny import publish_colours

PNG = {"content-type": "image/png"}


def test_off_nothing_is_kept_and_an_image_of_ones_own_still_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path))
    with TestClient(Classifier.to_asgi(), "http://127.0.0.1:3000") as client:
        while client.get("/readyz").status_code != 200:
            pass
        answered = client.post("/classify", content=picture(), headers=PNG)
        assert answered.status_code == 200
        queue = client.get("/review-queue").json()
        assert (queue["items"], queue["total"], queue["next_cursor"]) == ([], 0, None)
        assert "CANDOR_KEEP_IMAGES is off" in queue["reason"]
        by_request = client.post("/feedback", json={"request_id": answered.headers["x-request-id"], "label": "red"})
        assert (by_request.status_code, by_request.json()["code"]) == (404, "unknown_image")
        assert not (tmp_path / "feedback").exists()
        own = client.post("/feedback", content=picture(), params={"label": "red"}, headers=PNG)
        assert own.status_code == 200, own.text
        counted = client.get("/metrics").text
        assert 'candor_feedback_total{outcome="kept"} 0.0' in counted
        assert 'candor_feedback_total{outcome="labelled"} 1.0' in counted


def test_who_labelled_is_remembered_and_only_train_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path))
    monkeypatch.setenv("CANDOR_KEYS", str(tmp_path / "keys.json"))
    alice, shop = (
        create_key(tmp_path / "keys.json", (scope,), name)[1] for scope, name in (("train", "alice"), ("predict", "shop"))
    )
    with TestClient(Classifier.to_asgi(), "http://127.0.0.1:3000") as client:
        own = {"content": picture(), "params": {"label": "red"}}
        labelled = client.post("/feedback", **own, headers={**PNG, "x-api-key": alice})
        assert labelled.status_code == 200, labelled.text
        image = labelled.json()["id"]
        for method, path in (("GET", "/review-queue"), ("GET", f"/review-queue/{image}/image"), ("DELETE", f"/feedback/{image}")):
            assert client.request(method, path, headers={"x-api-key": shop}).status_code == 403
            assert client.request(method, path).status_code == 401
            assert client.request(method, path, headers={"x-api-key": alice}).status_code == 200
        again = client.post("/feedback", **own, headers={**PNG, "x-api-key": alice})
        assert again.json()["times_labelled"] == 1, "what was deleted is forgotten"
    kept = FeedbackStore(Files(str(tmp_path / "feedback"))).read_label("colours", image)
    assert kept is not None
    assert (kept.last.label, kept.last.by, kept.before) == ("red", "alice", ())


def test_a_place_that_cannot_be_reached_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CANDOR_FEEDBACK=nonsense://x cannot be used"):
        Engine(Settings(home=tmp_path, feedback="nonsense://x"))
