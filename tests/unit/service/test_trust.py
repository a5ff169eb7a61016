"""How far an answer is trusted: computed with the batch, the same as alone, and free where there is no evidence."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.artifact import Artifact
from models.confidence.case import Ask, Seen
from models.confidence.explain import explain
from models.confidence.explanation import SingleLabelExplanation
from models.errors import UnreadableImageError
from models.preprocess import Limits
from models.registry import Registry
from service.backlog import Backlog
from service.decode import Decoder, View
from service.device import Device
from service.errors import DeadlineExceededError, QueueFullError
from service.live import LiveModel, Plan, load
from service.metrics import Metrics
from service.predictor import Prediction, Predictor
from tests.support.evidence import publish_judged
from tests.support.pictures import picture
from tests.support.tiny import BRIGHTNESS, PRESENCE, SIZE, colours, golden_images, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from models.preprocess import UInt8Array
    from tests.support.tiny import Tiny

ASK = Ask(confidence_level=0.95, top_k=5, neighbors=5, heatmap="grid", versus=None)
WHOLE = (0.0, 0.0, 1.0, 1.0)
BREAKS = replace(colours(), breaks_on_black=True)


class Watched:
    """A runtime that remembers what was asked of it, and may be held up."""

    def __init__(self, live: LiveModel) -> None:
        self._runtime = live.runtime
        self.name, self.provider, self.precision = self._runtime.name, self._runtime.provider, self._runtime.precision
        self.asked: list[tuple[str, ...]] = []
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, images: UInt8Array) -> np.ndarray:
        return self.outputs(images, ("logits",))[0]

    def outputs(self, images: UInt8Array, names: Sequence[str]) -> list[np.ndarray]:
        assert self.go.wait(10)
        self.asked.append(tuple(names))
        self.sizes.append(len(images))
        return self._runtime.outputs(images, names)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def live_of(tmp_path: Path, pool: ThreadPoolExecutor, tiny: Tiny, *, is_judged: bool = True) -> tuple[LiveModel, Watched]:
    registry = Registry(tmp_path / "registry")
    (publish_judged if is_judged else publish_tiny)(registry, tmp_path / "work", "tiny", tiny)
    live = load(registry.path("tiny", 1), pool, Plan("cpu", 2, 4), Metrics(), Device())
    watched = live.runtime = Watched(live)
    return live, watched


def predictor_of(queue_limit: int, deadline_s: float) -> Predictor:
    metrics = Metrics()
    return Predictor(Decoder(2, Limits(), metrics), Backlog(queue_limit, 10, metrics), deadline_s, metrics)


def test_without_evidence_nothing_but_logits_is_computed(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    live, watched = live_of(tmp_path, pool, colours(), is_judged=False)
    judged = asyncio.run(live.judged(golden_images()[2]))
    assert watched.asked == [("logits",)]
    assert (judged.trust.familiarity, judged.trust.action, judged.trust.p_familiar) == (None, "review", None)
    # p_correct is then the calibrated probability
    assert judged.trust.p_correct == judged.row.max()


@pytest.mark.parametrize("tiny", [colours(), PRESENCE, BRIGHTNESS], ids=lambda tiny: tiny.task)
def test_evidence_takes_the_embedding_and_no_map(tmp_path: Path, pool: ThreadPoolExecutor, tiny: Tiny) -> None:
    live, watched = live_of(tmp_path, pool, tiny)
    black = asyncio.run(live.judged(golden_images()[0]))
    assert watched.asked == [("logits", "embedding")]
    assert (black.trust.familiarity, black.trust.action) == ("unknown", "reject")


def test_images_are_judged_together_as_they_are_alone(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    live, watched = live_of(tmp_path, pool, colours())
    images = golden_images()

    async def together() -> list[object]:
        watched.go.clear()
        asked = [asyncio.create_task(live.judged(image)) for image in images]
        await asyncio.sleep(0.05)
        watched.go.set()
        return [one.trust for one in await asyncio.gather(*asked)]

    found = asyncio.run(together())
    assert max(watched.sizes) > 1, "no batch held more than one image"
    alone = [asyncio.run(live.judged(image)).trust for image in images]
    for one, other in zip(found, alone, strict=True):
        assert vars(one) == pytest.approx(vars(other), abs=1e-5)


def test_familiar_image_is_accepted_and_a_strange_one_is_not(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    live, _ = live_of(tmp_path, pool, colours())
    predictor = predictor_of(9, 10)
    red, white = asyncio.run(predictor.classify(live, [picture("red"), picture("white")], 1))
    assert isinstance(red, Prediction)
    assert isinstance(white, Prediction)
    assert (red.trust.action, red.trust.familiarity) == ("accept", "familiar")
    assert (white.trust.action, white.trust.familiarity, white.trust.p_correct) == ("reject", "unknown", None)


def test_explanation_is_what_the_contract_says_of_the_networks_own_outputs(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    live, watched = live_of(tmp_path, pool, colours())
    pixels = np.full((SIZE, SIZE, 3), (150, 105, 0), dtype=np.uint8)
    found = asyncio.run(live.explained(View(pixels, WHOLE), ASK))
    assert watched.asked == [("logits", "embedding", "feature_map")]
    artifact = Artifact.load(tmp_path / "registry" / "tiny" / "versions" / "1")
    logits, embedding, spatial = (out[0] for out in watched.outputs(pixels[None], ("logits", "embedding", "feature_map")))
    expected = explain(live.judge, artifact.manifest.labels, None, Seen(logits, embedding, spatial, pixels, WHOLE), ASK)
    assert found == expected
    assert isinstance(found, SingleLabelExplanation)
    heatmap = found.evidence.heatmap
    assert heatmap is not None
    assert np.mean(heatmap.values) + heatmap.bias == pytest.approx(float(logits[0]), abs=1e-3)


def test_explanations_do_not_depend_on_what_else_is_asked_meanwhile(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    live, watched = live_of(tmp_path, pool, colours())
    images = golden_images()

    async def explain_all() -> list[object]:
        return await asyncio.gather(*(live.explained(View(image, WHOLE), ASK) for image in images))

    crowd = asyncio.run(explain_all())
    assert set(watched.sizes) == {1}
    assert crowd == [asyncio.run(live.explained(View(image, WHOLE), ASK)) for image in images]


def test_explaining_has_the_bounds_of_classifying(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        live, watched = live_of(tmp_path, pool, colours())
        predictor = predictor_of(1, 0.2)
        watched.go.clear()
        waiting = asyncio.create_task(predictor.explain(live, picture(), ASK))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError, match="1 images wait, and at most 1 may"):
            await predictor.explain(live, picture(), ASK)
        with pytest.raises(DeadlineExceededError, match=r"0\.2 s"):
            await waiting
        watched.go.set()
        with pytest.raises(UnreadableImageError):
            await predictor.explain(live, picture()[:60], ASK)
        assert isinstance(await predictor.explain(live, picture(), ASK), SingleLabelExplanation)

    asyncio.run(scenario())


def test_output_that_is_not_finite_is_an_error_of_its_own_image(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    live, _ = live_of(tmp_path, pool, BREAKS)
    predictor = predictor_of(9, 10)
    black, red = asyncio.run(predictor.classify(live, [picture("black"), picture("red")], 1))
    assert isinstance(black, ValueError)
    assert isinstance(red, Prediction)
    with pytest.raises(ValueError, match="not finite"):
        asyncio.run(predictor.explain(live, picture("black"), ASK))
