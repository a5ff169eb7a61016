"""What may serve: every way in which a version can be wrong keeps it from answering."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.artifact import GOLDEN, MODEL
from models.registry import Registry
from service.device import Device
from service.errors import ModelLoadError, NotReadyError, UnknownModelError
from service.live import Plan, load
from service.metrics import Metrics
from service.settings import Settings
from service.slots import Slots
from tests.support.tiny import (
    BRIGHTNESS,
    LABELS,
    PRESENCE,
    colour_graph,
    colour_manifest,
    expected_logits,
    golden_images,
    publish_colours,
    publish_tiny,
    tiny_manifest,
    write_files,
    write_tiny,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.live import LiveModel
    from tests.support.tiny import Tiny


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def load_path(path: Path, pool: ThreadPoolExecutor) -> LiveModel:
    return load(path, pool, Plan("cpu", 2, 4), Metrics(), Device())


def test_loaded_version_answers_what_its_graph_computes(registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    publish_colours(registry, tmp_path / "work")
    live = load_path(registry.path("colours", 1), pool)
    image = golden_images()[0]
    logits = asyncio.run(live.judged(image)).logits
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


# With this bias a grey image has logits near 0, where a probability moves most.
UNDECIDED = replace(PRESENCE, bias=(-12.0,) * 3)


@pytest.mark.parametrize(("tiny", "least"), [(UNDECIDED, 0.004), (BRIGHTNESS, 0.1)], ids=["multi_label", "regression"])
def test_golden_outputs_of_other_tasks_are_compared_as_they_are_answered(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor, tiny: Tiny, least: float
) -> None:
    """A logit moved by `least` moves a probability near 0.5 by a thousandth; so it is with percentages from 0 to 100."""
    logits = tiny.logits(golden_images())
    publish_tiny(registry, tmp_path / "work", "near", tiny, logits + least * 0.9)
    assert load_path(registry.path("near", 1), pool).manifest.task == tiny.task
    publish_tiny(registry, tmp_path / "work", "far", tiny, logits + least * 1.1)
    what = "value differs by 0.11, at most 0.1" if tiny is BRIGHTNESS else "probability differs by 0.001.*, at most 0.001"
    with pytest.raises(ModelLoadError, match=f"far:1 does not reproduce its golden outputs: a {what} is accepted"):
        load_path(registry.path("far", 1), pool)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_golden_values_are_compared_in_relation_to_their_spread_whatever_their_unit(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor, scale: float
) -> None:
    tiny = replace(BRIGHTNESS, weight=((scale * 100 / 3,),) * 3)
    logits = tiny.logits(golden_images())
    publish_tiny(registry, tmp_path / "work", "near", tiny, logits + scale * 0.09)
    publish_tiny(registry, tmp_path / "work", "far", tiny, logits + scale * 0.11)
    load_path(registry.path("near", 1), pool)
    with pytest.raises(ModelLoadError, match="a value differs by"):
        load_path(registry.path("far", 1), pool)


def test_values_that_hardly_differ_are_not_held_to_less_than_a_float_can_say(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    constant = replace(BRIGHTNESS, weight=((0.0,),) * 3, bias=(180.0,))
    publish_tiny(registry, tmp_path / "work", "turned", constant, constant.logits(golden_images()) + np.float32(1e-4))
    load_path(registry.path("turned", 1), pool)
    publish_tiny(registry, tmp_path / "work", "zero", replace(constant, bias=(0.0,)))
    load_path(registry.path("zero", 1), pool)


def test_confidence_that_does_not_fit_its_labels_is_not_served(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    write_tiny(tmp_path / "work", replace(PRESENCE, thresholds={"red": 0.5, "green": 0.5, "yellow": 0.5}))
    registry.publish(tmp_path / "work", tiny_manifest("presence", PRESENCE))
    with pytest.raises(ModelLoadError, match=r"thresholds has \['green', 'red', 'yellow'\], expected one for each of \['red'"):
        load_path(registry.path("presence", 1), pool)


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


@pytest.mark.parametrize("name", [MODEL, GOLDEN, "weights.safetensors"])
def test_pickle_under_another_name_is_refused_and_nothing_of_it_runs(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor, name: str
) -> None:
    # Whoever unpickles this makes a folder.
    proof = tmp_path / "it-ran"
    payload = f"cos\nmkdir\n(V{proof}\ntR.".encode()
    folder = tmp_path / "work"
    write_files(folder)
    (folder / name).write_bytes(payload)
    registry.publish(folder, colour_manifest("colours"))
    if name == "weights.safetensors":
        # To be trained on from; the service does not open it.
        assert load_path(registry.path("colours", 1), pool).manifest.version == 1
    else:
        with pytest.raises(ModelLoadError):
            load_path(registry.path("colours", 1), pool)
    assert not proof.exists()
    module = __import__("pickle")
    module.loads(payload)
    assert proof.exists(), "the payload does nothing, and so proves nothing"


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
        load(registry.path("colours", 1), pool, Plan("cuda", 2, 4), Metrics(), Device())


def test_warm_sizes_are_powers_of_two_and_the_largest() -> None:
    assert Plan("cpu", 2, 6).warm_sizes == [1, 2, 4, 6]
    assert Plan("cpu", 2, 1).warm_sizes == [1]
    assert Plan("cuda", 2, None).warm_sizes == [1, 2, 4, 8, 16, 32, 64]


def make_slots(registry: Registry, pool: ThreadPoolExecutor) -> tuple[Slots, Metrics]:
    metrics = Metrics()
    return Slots(registry, Settings(), pool, metrics, Device()), metrics


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


class Slow(Registry):
    """Version 2 of `colours` comes when it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.let_go, self.asked = threading.Event(), 0

    def path(self, name: str, version: int) -> Path:
        if (name, version) == ("colours", 2):
            self.asked += 1
            assert self.let_go.wait(30)
        return super().path(name, version)


async def until_brought(slots: Slots) -> None:
    await asyncio.wait_for(asyncio.gather(*slots._bringing.values()), 30)


def test_version_that_takes_long_to_come_holds_up_no_other_name(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        slow = Slow(registry.root)
        for name in ("colours", "others"):
            publish_colours(registry, tmp_path / "work", name=name)
            publish_colours(registry, tmp_path / "work", name=name, gain=6.0)
        slots, _ = make_slots(slow, pool)
        await slots.refresh()
        registry.promote("colours", 2)
        await slots._look()
        slots._read_at -= 100
        registry.promote("others", 2)
        for _ in range(500):
            await slots._look()
            await asyncio.sleep(0.02)
            if slots.get("others").manifest.version == 2:
                break
        registry.rollback("others")
        await slots._look()
        assert (slots.get("others").manifest.version, slots.get("colours").manifest.version) == (1, 1)
        assert slots.registry_age_s() < 50
        slow.let_go.set()
        await until_brought(slots)
        assert (slots.get("colours").manifest.version, slow.asked) == (2, 1)

    asyncio.run(scenario())


def test_version_that_is_rolled_back_while_it_comes_does_not_take_over(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        slow = Slow(registry.root)
        publish_colours(registry, tmp_path / "work")
        publish_colours(registry, tmp_path / "work", gain=6.0)
        slots, _ = make_slots(slow, pool)
        await slots.refresh()
        registry.promote("colours", 2)
        await slots._look()
        registry.rollback("colours")
        await slots._look()
        slow.let_go.set()
        await until_brought(slots)
        assert [model.manifest.version for model in slots.slot("colours").loaded()] == [1]  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_ready_as_soon_as_the_last_production_model_has_come_and_an_end_waits_for_none(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        slow = Slow(registry.root)
        publish_colours(registry, tmp_path / "work", name="others")
        for gain in (12.0, 6.0):
            publish_colours(registry, tmp_path / "work", gain=gain)
        registry.promote("colours", 2)
        slots, _ = make_slots(slow, pool)
        await slots._look()
        await asyncio.wait_for(slots._bringing["others"], 30)
        assert slots.get("others").manifest.version == 1
        assert not slots.is_ready
        leaving, _ = make_slots(slow, pool)
        await leaving._look()
        await asyncio.wait_for(leaving.close(), 5)
        assert leaving.is_loading
        slow.let_go.set()
        await until_brought(slots)
        assert slots.is_ready

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


def test_age_of_what_is_known_of_the_registry_grows_while_it_is_away(
    registry: Registry, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        publish_colours(registry, tmp_path / "work")
        slots, _ = make_slots(registry, pool)
        await slots.refresh()
        slots._read_at -= 100
        registry.root.rename(tmp_path / "away")
        await slots.refresh()
        assert 100 <= slots.registry_age_s() < 200
        (tmp_path / "away").rename(registry.root)
        await slots.refresh()
        assert slots.registry_age_s() < 50

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
