"""What `export-bento` puts into BentoML's model store, and how a Bento's registry is found again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import bentoml
import pytest

from models import store
from models.__main__ import main
from models.errors import ArtifactError, UnknownModelError
from models.registry import Registry
from tests.support.artifacts import make_manifest, write_files

if TYPE_CHECKING:
    from bentoml import Bento


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """birds:1 in production and birds:2 not."""
    monkeypatch.setenv("CANDOR_HOME", str(tmp_path))
    registry = Registry(tmp_path / "registry")
    source = write_files(tmp_path / "source")
    for _ in range(2):
        registry.publish(source, make_manifest())
    return registry


def bento_with(*tags: str) -> Bento:
    models = [SimpleNamespace(tag=bentoml.Tag.from_str(tag)) for tag in tags]
    return SimpleNamespace(info=SimpleNamespace(all_models=models))  # type: ignore[return-value]


def test_entry_is_a_registry_with_that_version_in_production(registry: Registry) -> None:
    tag = store.export(registry, "birds", 2)
    found = store.baked_registry(bento_with("other:1", tag))
    assert found is not None
    baked = Registry(found)
    assert (baked.names(), baked.versions("birds"), baked.aliases("birds").production) == (["birds"], [2], 2)
    assert baked.manifest("birds", 2) == registry.manifest("birds", 2)
    assert bentoml.models.get(tag).info.labels == {"name": "birds", "version": "2"}


def test_every_export_is_an_entry_of_its_own_and_the_newest_is_the_one_to_bake_in(registry: Registry) -> None:
    first, second = store.export(registry, "birds", 1), store.export(registry, "birds", 2)
    assert first != second
    assert str(bentoml.models.get(f"{store.ENTRY}:latest").tag) == second


def test_without_a_bento_or_without_a_model_in_it_there_is_no_registry() -> None:
    assert store.baked_registry(None) is None
    assert store.baked_registry(bento_with("other:1")) is None


def test_what_cannot_be_exported_leaves_nothing(registry: Registry) -> None:
    (registry.path("birds", 2) / "golden.npz").write_bytes(b"altered")
    before = [model.tag for model in bentoml.models.list()]
    with pytest.raises(ArtifactError):
        store.export(registry, "birds", 2)
    with pytest.raises(UnknownModelError):
        store.export(registry, "birds", 3)
    assert [model.tag for model in bentoml.models.list()] == before


@pytest.mark.parametrize(("reference", "version"), [("birds", 1), ("birds:2", 2)])
def test_command_prints_the_tag(registry: Registry, capsys: pytest.CaptureFixture[str], reference: str, version: int) -> None:
    assert main(["export-bento", reference]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"birds:{version} is in BentoML's model store in ")
    assert bentoml.models.get(said.out.strip()).info.labels["version"] == str(version)
    assert registry.aliases("birds").production == 1
