"""The bounds of a request: how many images may wait, and how long."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.confidence.judge import Judge, Trust
from models.errors import UnreadableImageError
from models.preprocess import Limits, load_image
from models.registry import Registry
from service.backlog import Backlog
from service.decode import Decoder
from service.device import Device
from service.errors import DeadlineExceededError, QueueFullError
from service.live import Plan, load
from service.metrics import Metrics
from service.predictor import Estimate, Prediction, Predictor, Range, decide
from tests.support.pictures import picture
from tests.support.tiny import BRIGHTNESS, PRESENCE, publish_colours, publish_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from models.preprocess import UInt8Array
    from service.live import LiveModel
    from service.predictor import Answer
    from tests.support.tiny import Tiny


class Stuck:
    """A runtime that waits until it is let go."""

    name, provider, precision = "stuck", "cpu", "fp32"

    def __init__(self) -> None:
        self.go = threading.Event()

    def run(self, images: UInt8Array) -> np.ndarray:
        assert self.go.wait(10)
        return np.tile(np.array([3.0, 2.0, 1.0], dtype=np.float32), (len(images), 1))


def build(tmp_path: Path, pool: ThreadPoolExecutor, queue_limit: int, deadline_s: float) -> tuple[Predictor, LiveModel, Metrics]:
    registry, metrics = Registry(tmp_path / "registry"), Metrics()
    publish_colours(registry, tmp_path / "work")
    model = load(registry.path("colours", 1), pool, Plan("cpu", 2, 4), metrics, Device())
    return Predictor(Decoder(2, Limits(), metrics), Backlog(queue_limit, 10, metrics), deadline_s, metrics), model, metrics


def test_images_over_the_bound_are_refused_at_once_and_taken_again_later(tmp_path: Path) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, metrics = build(tmp_path, pool, 3, 10)
        stuck = model.runtime = Stuck()
        waiting = asyncio.create_task(predictor.classify(model, [picture()] * 2, 1))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError, match="2 images wait, and at most 3 may"):
            await predictor.classify(model, [picture()] * 2, 1)
        assert "candor_queue_depth 2.0" in metrics.render().decode()
        stuck.go.set()
        assert all(isinstance(answer, Prediction) for answer in await waiting)
        assert len(await predictor.classify(model, [picture()] * 3, 1)) == 3
        assert "candor_queue_depth 0.0" in metrics.render().decode()
        assert 'candor_shed_total{reason="queue_full"} 1.0' in metrics.render().decode()

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


def test_answer_that_would_come_too_late_is_given_up(tmp_path: Path) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, metrics = build(tmp_path, pool, 3, 0.1)
        stuck = model.runtime = Stuck()
        with pytest.raises(DeadlineExceededError, match=r"0\.1 s"):
            await predictor.classify(model, [picture()], 1)
        stuck.go.set()
        assert 'candor_shed_total{reason="deadline_exceeded"} 1.0' in metrics.render().decode()
        assert "candor_queue_depth 0.0" in metrics.render().decode()
        (answer,) = await predictor.classify(model, [picture()], 1)
        assert isinstance(answer, Prediction)

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


@pytest.mark.parametrize(("asked", "held"), [(0.05, "0.05"), (60.0, "0.1"), (math.inf, "0.1")])
def test_the_sooner_of_two_deadlines_holds(tmp_path: Path, asked: float, held: str) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, _ = build(tmp_path, pool, 3, 0.1)
        stuck = model.runtime = Stuck()
        with pytest.raises(DeadlineExceededError, match=rf"{re.escape(held)} s"):
            await predictor.classify(model, [picture()], 1, deadline_s=asked)
        stuck.go.set()

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


def test_pixels_are_answered_as_the_file_that_they_were_decoded_from(tmp_path: Path) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, _ = build(tmp_path, pool, 9, 10)
        size = model.manifest.input
        pixels = load_image(picture("green"), model.manifest.preprocessing, size.height, size.width)
        (of_file,) = await predictor.classify(model, [picture("green")], 5)
        (of_pixels,) = await predictor.classify(model, [pixels], 5)
        assert isinstance(of_file, Prediction)
        assert of_file == of_pixels

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


def test_caller_that_waits_no_more_is_not_begun_with(tmp_path: Path) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, metrics = build(tmp_path, pool, 3, 10)
        with pytest.raises(DeadlineExceededError):
            await predictor.classify(model, [picture()] * 2, 1, deadline_s=0.0)
        await asyncio.sleep(0.05)
        assert 'candor_batch_size_count{model="colours"} 0.0' in metrics.render().decode()
        assert 'candor_shed_total{reason="deadline_exceeded"} 1.0' in metrics.render().decode()
        assert "candor_queue_depth 0.0" in metrics.render().decode()

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


def test_bad_image_is_an_answer_of_its_own(tmp_path: Path) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, _ = build(tmp_path, pool, 9, 10)
        good, bad = await predictor.classify(model, [picture("green"), picture()[:60]], 5)
        assert isinstance(good, Prediction)
        assert good.labels[0][0] == "green"
        assert len(good.labels) == 3
        assert isinstance(bad, UnreadableImageError)

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


def test_output_that_is_not_finite_is_an_error_and_no_number(tmp_path: Path) -> None:
    class Broken(Stuck):
        def run(self, images: UInt8Array) -> np.ndarray:
            return np.full((len(images), 3), np.nan, dtype=np.float32)

    async def scenario(pool: ThreadPoolExecutor) -> None:
        predictor, model, _ = build(tmp_path, pool, 9, 10)
        model.runtime = Broken()
        (answer,) = await predictor.classify(model, [picture()], 1)
        assert isinstance(answer, ValueError)

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))


# --- what each task answers


def decided(model: LiveModel, logits: list[float], top_k: int, *, is_raw: bool = False) -> Answer:
    (judged,) = model.judge_batch(np.array([logits], dtype=np.float32), None)
    return decide(model, judged, top_k, is_raw=is_raw)


def change(model: LiveModel, **changes: Any) -> None:
    """Other evidence, as if it had been published so."""
    model.judge = Judge(model.judge.task, model.judge.confidence.model_copy(update=changes), model.judge.evidence)


def load_tiny(tmp_path: Path, pool: ThreadPoolExecutor, tiny: Tiny, metrics: Metrics | None = None) -> LiveModel:
    registry = Registry(tmp_path / "registry")
    publish_tiny(registry, tmp_path / "work", "tiny", tiny)
    return load(registry.path("tiny", 1), pool, Plan("cpu", 2, 4), metrics or Metrics(), Device())


def test_selected_are_all_labels_at_or_over_their_thresholds_whatever_top_k_is(tmp_path: Path) -> None:
    # sigmoid(0) is 0.5, at the threshold of red; blue is more probable and its threshold is higher
    thresholds = {"red": 0.5, "green": 0.25, "blue": 0.999}
    with ThreadPoolExecutor(2) as pool:
        model = load_tiny(tmp_path, pool, replace(PRESENCE, thresholds=thresholds))
        answer = decided(model, [0.0, 3.0, 2.0], top_k=1)
        everything = decided(model, [9.0, 9.0, 9.0], top_k=9)
        nothing = decided(model, [-9.0, -8.0, -9.0], top_k=2)
    assert isinstance(answer, Prediction)
    assert (answer.labels, answer.selected) == ((("green", pytest.approx(1 / (1 + np.exp(-3)))),), ("green", "red"))
    assert isinstance(everything, Prediction)
    assert isinstance(nothing, Prediction)
    assert everything.selected == ("red", "green", "blue")
    assert (nothing.labels[0][0], nothing.selected) == ("green", ())


def test_temperature_counts_for_several_labels_too(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        model = load_tiny(tmp_path, pool, PRESENCE)
        change(model, temperature=model.judge.confidence.temperature.model_copy(update={"value": 2.0}))
        answer = decided(model, [4.0, -4.0, -5.0], top_k=1)
        raw = decided(model, [1.0, -4.0, -5.0], top_k=1, is_raw=True)
    assert isinstance(answer, Prediction)
    assert answer.labels[0][1] == pytest.approx(1 / (1 + np.exp(-2)))
    # raw names the probability without it; what is selected is not another question
    assert isinstance(raw, Prediction)
    assert raw.labels[0][1] == pytest.approx(1 / (1 + np.exp(-1)))
    assert raw.selected == ("red",)


def test_number_is_answered_in_its_unit_with_the_interval_around_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        model = load_tiny(tmp_path, pool, BRIGHTNESS)
        known = decided(model, [40.0], 5)
        change(model, interval=None)
        unknown = decided(model, [40.0], 5)
    nothing = Trust(p_correct=None, p_familiar=None, familiarity=None, trust_score=None, action="review")
    assert known == Estimate(40.0, "percent", Range(0.9, 37.5, 42.5), nothing, known.judged)
    assert unknown == Estimate(40.0, "percent", None, nothing, unknown.judged)
    assert (known.judged.logits.tolist(), known.judged.row.tolist()) == ([40.0], [40.0])


def test_every_selected_label_is_counted_and_a_number_is_not(tmp_path: Path) -> None:
    async def scenario(pool: ThreadPoolExecutor, tiny: Tiny, folder: Path) -> str:
        metrics = Metrics()
        model = load_tiny(folder, pool, tiny, metrics)
        predictor = Predictor(Decoder(2, Limits(), metrics), Backlog(9, 10, metrics), 10, metrics)
        await predictor.classify(model, [picture("red"), picture("green"), picture("red")], 5)
        return metrics.render().decode()

    with ThreadPoolExecutor(2) as pool:
        tags = asyncio.run(
            scenario(pool, replace(PRESENCE, thresholds={"red": 0.5, "green": 0.001, "blue": 1.0}), tmp_path / "a")
        )
        numbers = asyncio.run(scenario(pool, BRIGHTNESS, tmp_path / "b"))
    counted = dict(re.findall(r'^candor_predictions_total\{label="(\w+)",model="tiny"\} (.*)$', tags, re.MULTILINE))
    # an image without green has 0.002 of it
    assert counted == {"red": "2.0", "green": "3.0"}
    assert "candor_predictions_total{" not in numbers
    assert 'candor_batch_size_sum{model="tiny"} 3.0' in numbers
