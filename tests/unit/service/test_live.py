"""What may serve: every way in which a version can be wrong keeps it from answering."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.artifact import GOLDEN, MODEL
from models.registry import Registry
from service.errors import ModelLoadError, NotReadyError, UnknownModelError
from service.live import Plan, load
from service.metrics import Metrics
from service.settings import Settings
from service.slots import Slots
from tests.support.tiny import LABELS, colour_graph, colour_manifest, expected_logits, golden_images, publish_colours, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.live import LiveModel


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def load_path(path: Path, pool: ThreadPoolExecutor) -> LiveModel:
    return load(path, pool, Plan("cpu", 2, 4), Metrics())


def test_loaded_version_answers_what_its_graph_computes(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    publish_colours(registry, tmp_path / "work")
    live = load_path(registry.path("colours", 1), pool)
    image = golden_images()[0]
    logits = asyncio.run(live.logits(image))
    np.testing.assert_allclose(logits, expected_logits(image[None])[0], atol=1e-4)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "confidence.json", "manifest.json"])
def test_altered_file_is_not_served(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor, name: str) -> None:
    publish_colours(registry, tmp_path / "work")
    path = registry.path("colours", 1)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (path / name).write_bytes(bytes(data))
    with pytest.raises(ModelLoadError):
        load_path(path, pool)


def test_golden_outputs_that_are_not_met_are_not_served(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    publish_colours(registry, tmp_path / "work", gain=12.0, golden_gain=12.5)
    with pytest.raises(ModelLoadError, match="colours:1 does not reproduce its golden outputs: a probability differs by 0.0"):
        load_path(registry.path("colours", 1), pool)


def test_graph_that_is_not_what_the_manifest_says_is_not_served(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    folder = tmp_path / "work"
    write_files(folder)
    (folder / MODEL).write_bytes(colour_graph(labels=(*LABELS, "red2")))
    registry.publish(folder, colour_manifest("colours"))
    with pytest.raises(ModelLoadError, match="'logits': 4.*'logits': 3"):
        load_path(registry.path("colours", 1), pool)


@pytest.mark.parametrize("model", [b"", b"no graph", b"\x08\x08" * 50])
def test_graph_that_does_not_load_is_not_served(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor, model: bytes
) -> None:
    folder = tmp_path / "work"
    write_files(folder)
    (folder / MODEL).write_bytes(model)
    registry.publish(folder, colour_manifest("colours"))
    with pytest.raises(ModelLoadError, match="ONNX Runtime cannot load the graph"):
        load_path(registry.path("colours", 1), pool)


@pytest.mark.parametrize("golden", [b"", b"PK\x03\x04 broken"])
def test_golden_file_that_cannot_be_read_is_not_served(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor, golden: bytes
) -> None:
    folder = tmp_path / "work"
    write_files(folder)
    (folder / GOLDEN).write_bytes(golden)
    registry.publish(folder, colour_manifest("colours"))
    with pytest.raises(ModelLoadError, match=r"golden\.npz cannot be read"):
        load_path(registry.path("colours", 1), pool)


def test_cuda_that_is_not_there_is_not_quietly_the_cpu(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    from service.runtime.onnx import available_provider

    if available_provider() == "cuda":
        pytest.skip("this machine has a GPU")
    publish_colours(registry, tmp_path / "work")
    with pytest.raises(ModelLoadError):
        load(registry.path("colours", 1), pool, Plan("cuda", 2, 4), Metrics())


def test_warm_sizes_are_powers_of_two_and_the_largest() -> None:
    assert Plan("cpu", 2, 6).warm_sizes == [1, 2, 4, 6]
    assert Plan("cpu", 2, 1).warm_sizes == [1]
    assert Plan("cuda", 2, None).warm_sizes == [1, 2, 4, 8, 16, 32, 64]


def make_slots(registry: Registry, pool: ThreadPoolExecutor) -> tuple[Slots, Metrics]:
    metrics = Metrics()
    return Slots(registry, Settings(), pool, metrics), metrics


def test_version_that_may_not_serve_leaves_the_old_one_answering(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work")
        slots, metrics = make_slots(registry, pool)
        await slots.refresh()
        publish_colours(registry, tmp_path / "work", golden_gain=3.0)
        registry.promote("colours", 2)
        await slots.refresh()
        assert slots.get("colours").manifest.version == 1
        assert slots.is_ready
        assert "colours:2 does not reproduce" in slots.failures()["colours"]
        assert 'candor_model_swaps_total{outcome="failed"} 1.0' in metrics.render().decode()
        with pytest.raises(NotReadyError, match="colours:2"):
            slots.get("colours:2")
        registry.rollback("colours")
        await slots.refresh()
        assert slots.failures() == {}

    asyncio.run(scenario())


def test_not_ready_while_a_production_model_cannot_serve(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work", golden_gain=3.0)
        slots, _ = make_slots(registry, pool)
        assert not slots.is_ready
        await slots.refresh()
        assert not slots.is_ready
        with pytest.raises(NotReadyError):
            slots.get("colours")

    asyncio.run(scenario())


def test_name_published_later_does_not_make_a_running_service_unready(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work")
        slots, _ = make_slots(registry, pool)
        await slots.refresh()
        assert slots.is_ready
        publish_colours(registry, tmp_path / "work", name="broken", golden_gain=3.0)
        await slots.refresh()
        assert slots.is_ready
        assert "broken:1 does not reproduce" in slots.failures()["broken"]
        assert slots.get("colours").manifest.version == 1

    asyncio.run(scenario())


def test_rollback_is_a_change_of_reference(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work")
        slots, metrics = make_slots(registry, pool)
        await slots.refresh()
        first = slots.get("colours")
        publish_colours(registry, tmp_path / "work", gain=6.0)
        registry.promote("colours", 2)
        await slots.refresh()
        assert slots.get(None).manifest.version == 2
        assert slots.get("colours:1") is first
        registry.rollback("colours")
        await slots.refresh()
        assert slots.get("colours") is first
        shown = [line for line in metrics.render().decode().splitlines() if line.startswith("candor_model_info{")]
        assert len(shown) == 1
        assert 'version="1"' in shown[0]

    asyncio.run(scenario())


def test_broken_alias_file_keeps_what_answers(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work")
        slots, _ = make_slots(registry, pool)
        await slots.refresh()
        (registry.root / "colours" / "aliases" / "2.json").write_text("{")
        await slots.refresh()
        assert slots.get("colours").manifest.version == 1

    asyncio.run(scenario())


def test_name_that_left_the_registry_is_no_longer_served(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work")
        slots, metrics = make_slots(registry, pool)
        await slots.refresh()
        (registry.root / "colours").rename(tmp_path / "gone")
        await slots.refresh()
        with pytest.raises(UnknownModelError, match="served are: none"):
            slots.get("colours")
        assert "candor_model_info{" not in metrics.render().decode()

    asyncio.run(scenario())
