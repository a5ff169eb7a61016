"""`GET /models`, where the registry is there and then is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from models.errors import RefusedError, UnreachableError
from models.registry import Registry
from service.api.app import build_app
from service.engine import Engine, EngineRef
from service.settings import Settings
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("method", "path"), [("confidence", "/models/colours"), ("aliases", "/models")])
def test_a_store_that_goes_away_meanwhile_makes_no_version_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    engine = EngineRef()
    engine.set(Engine(Settings(home=tmp_path)))
    with TestClient(build_app(engine)) as client:
        assert client.get(path).status_code == 200

        def away(*_: Any) -> None:
            raise UnreachableError("s3://candor/registry cannot be reached: timed out")

        monkeypatch.setattr(Registry, method, away)
        refused = client.get(path)
    assert (refused.status_code, refused.json()["code"]) == (503, "registry_unreachable")
    assert "retry-after" in refused.headers


def test_promotion_with_credentials_that_may_not_write_is_said_and_no_fault_of_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    engine = EngineRef()
    engine.set(Engine(Settings(home=tmp_path)))

    def read_only(*_: Any, **__: Any) -> None:
        raise RefusedError("s3://candor/registry may not be written to with these credentials: 403 Forbidden")

    monkeypatch.setattr(Registry, "promote", read_only)
    with TestClient(build_app(engine)) as client:
        refused = client.post("/models/colours/promote", json={"version": 1})
    assert (refused.status_code, refused.json()["code"]) == (503, "registry_read_only")
    assert "s3://" not in refused.text
