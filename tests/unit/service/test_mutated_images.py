"""Five thousand broken image files through the typed core: each is an answer, or an error that is its sender's."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from models.errors import ImageError
from models.preprocess import Limits
from models.registry import Registry
from service.backlog import Backlog
from service.decode import Decoder
from service.device import Device
from service.errors import problem_of
from service.live import Plan, load
from service.metrics import Metrics
from service.predictor import Prediction, Predictor
from tests.support.mutations import mutated, originals
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path

COUNT, TOGETHER = 5000, 50


@pytest.mark.parametrize("provider_decodes", ["in the lane", "apart"])
def test_mutated_image_is_answered_or_its_senders_fault(tmp_path: Path, provider_decodes: str) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> Counter[str]:
        metrics = Metrics()
        registry = Registry(tmp_path / "registry")
        publish_colours(registry, tmp_path / "work")
        model = load(registry.path("colours", 1), pool, Plan("cpu", 2, 4), metrics, Device())
        model.decodes_in_lane = provider_decodes == "in the lane"
        predictor = Predictor(Decoder(2, Limits(), metrics), Backlog(TOGETHER, 100, metrics), 60, metrics)
        found: Counter[str] = Counter()
        files = (*originals(), *mutated(COUNT // 2, 7 if model.decodes_in_lane else 8))
        for start in range(0, len(files), TOGETHER):
            for answer in await predictor.classify(model, files[start : start + TOGETHER], 3):
                if isinstance(answer, Prediction):
                    assert sum(p for _, p in answer.labels) == pytest.approx(1, abs=1e-4)
                    found["answered"] += 1
                else:
                    assert isinstance(answer, ImageError), repr(answer)
                    assert 400 <= problem_of(answer).status < 500
                    found[type(answer).__name__] += 1
        return found

    with ThreadPoolExecutor(2) as pool:
        found = asyncio.run(scenario(pool))
    assert found.total() == COUNT // 2 + len(originals())
    # All of these came up: neither is everything broken, nor is hardly anything.
    assert min(found["answered"], found["UnreadableImageError"], found["UnsupportedFormatError"]) > 50, found
