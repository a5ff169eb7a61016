"""What is published of a network with several labels an image, and of one that answers a number, by real exports."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch

import training.export as export_module
from models.artifact import Artifact
from models.confidence.schema import Interval, Temperature
from models.errors import ManifestError
from models.preprocess import standard_preprocessing
from models.registry import Registry
from service.device import Device
from service.live import Plan, load
from service.metrics import Metrics
from service.predictor import Estimate, Range, decide
from training.backbone import Pretrained
from training.calibrate import Calibration
from training.errors import ParityError
from training.export import ServingGraph, export, run_onnx
from training.normalise import Normalise
from training.publish import GOLDEN_IMAGES, Publication, procedural_images, publish

if TYPE_CHECKING:
    from pathlib import Path

    from models.recipe import Task

pytestmark = pytest.mark.torch
NORMALISE = Normalise((0.5,) * 3, (0.5,) * 3)
POOL = procedural_images(100, 32, seed=0)
OK = Temperature(value=1.0, status="ok", images=40, reason=None)
INTERVAL = Interval(level=0.9, half_width=12.5, images=40, method="split_conformal", reason=None)
# In the millions a float32 is rounded by more than the 1e-3 that logits may differ by.
SPREAD = 1e6
THRESHOLDS = {"ant": 0.3, "bee": 0.5, "cat": 0.7}


def make_network(outputs: int, scale: float = 1.0, offset: float = 0.0) -> torch.nn.Module:
    """A random, tiny ResNet whose outputs have about this spread about this mean, as a head with folded statistics has."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=outputs).eval()
    with torch.inference_mode():
        raw = network(NORMALISE(torch.from_numpy(POOL)))
        network.fc.weight *= scale / raw.std(0)[:, None]
        network.fc.bias.copy_(offset - raw.mean(0) * scale / raw.std(0))
    return network


def publication(
    name: str, task: Task, labels: tuple[str, ...], network: torch.nn.Module, calibration: Calibration
) -> Publication:
    return Publication(
        name=name,
        task=task,
        labels=labels,
        unit="francs" if task == "regression" else None,
        pretrained=Pretrained(network, "random", "none", 32, 1.0, (0.5,) * 3, (0.5,) * 3),
        normalise=NORMALISE,
        preprocessing=standard_preprocessing(1.0),
        image_size=32,
        backbone="test_resnet",
        recipe=None,
        dataset=None,
        calibration=calibration,
        metrics=None,
        golden_pool=POOL,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    home = tmp_path_factory.mktemp("publish")
    registry = Registry(home / "registry")
    price = publication("price", "regression", ("price",), make_network(1, SPREAD, 2 * SPREAD), Calibration(OK, None, INTERVAL))
    tags = publication("tags", "multi_label", tuple(THRESHOLDS), make_network(3, 3.0), Calibration(OK, THRESHOLDS, None))
    for made in (price, tags):
        publish(made, registry, home / "runs")
    return {name: Artifact.load(registry.path(name, 1)) for name in ("price", "tags")}


def golden(artifact: Artifact) -> tuple[np.ndarray, np.ndarray]:
    with np.load(io.BytesIO(artifact.golden)) as stored:
        return stored["images"], stored["logits"]


def values_of_pool(artifact: Artifact) -> np.ndarray:
    return run_onnx(artifact.path / "model.onnx", POOL)[0]


def test_card_and_confidence_say_the_task_unit_thresholds_and_interval(published: dict[str, Artifact]) -> None:
    price, tags = published["price"], published["tags"]
    assert (price.manifest.task, price.manifest.labels, price.manifest.unit) == ("regression", ("price",), "francs")
    assert (price.confidence.interval, price.confidence.thresholds) == (INTERVAL, None)
    assert (tags.manifest.task, tags.manifest.labels, tags.manifest.unit) == ("multi_label", ("ant", "bee", "cat"), None)
    assert (tags.confidence.interval, tags.confidence.thresholds) == (None, THRESHOLDS)
    for artifact in (price, tags):
        outputs, labels = artifact.manifest.outputs, len(artifact.manifest.labels)
        assert (outputs.logits, outputs.spatial, outputs.spatial_channels) == (labels, "cam", labels)


def test_mean_of_the_map_is_the_number_less_the_bias(published: dict[str, Artifact]) -> None:
    values, embedding, cam = run_onnx(published["price"].path / "model.onnx", POOL[:8])
    network = make_network(1, SPREAD, 2 * SPREAD)
    assert cam.shape == (8, 1, 1, 1)
    np.testing.assert_allclose(cam.mean(axis=(2, 3)) + network.fc.bias.item(), values, atol=1e-4 * SPREAD)
    np.testing.assert_allclose(
        embedding @ network.fc.weight.detach().numpy().T + network.fc.bias.item(), values, atol=1e-4 * SPREAD
    )


def test_golden_values_go_evenly_from_the_smallest_to_the_largest(published: dict[str, Artifact]) -> None:
    images, stored = golden(published["price"])
    assert stored.shape == (GOLDEN_IMAGES, 1)
    order = values_of_pool(published["price"])[:, 0].argsort()
    rank = {POOL[index].tobytes(): position for position, index in enumerate(order)}
    ranks = sorted(rank[image.tobytes()] for image in images)
    assert (ranks[0], ranks[-1]) == (0, len(POOL) - 1)
    # 64 of 100: never two in a row left out
    assert set(np.diff(ranks)) == {1, 2}


def test_golden_images_of_several_labels_hold_the_32_nearest_to_a_threshold(published: dict[str, Artifact]) -> None:
    images, stored = golden(published["tags"])
    assert stored.shape == (GOLDEN_IMAGES, 3)
    probability = 1 / (1 + np.exp(-values_of_pool(published["tags"]).astype(np.float64)))
    nearest = np.abs(probability - np.array(list(THRESHOLDS.values()))).min(axis=1)
    kept = {image.tobytes() for image in images}
    assert len(kept) == GOLDEN_IMAGES
    assert all(POOL[index].tobytes() in kept for index in np.argsort(nearest)[: GOLDEN_IMAGES // 2])
    # and others, up to the one that is decided most clearly
    assert POOL[nearest.argmax()].tobytes() in kept


@pytest.mark.parametrize("name", ["price", "tags"])
def test_service_accepts_what_was_published(published: dict[str, Artifact], name: str) -> None:
    artifact = published[name]
    with ThreadPoolExecutor(2) as pool:
        live = load(artifact.path, pool, Plan("cpu", 2, 4), Metrics(), Device())
        images, stored = golden(artifact)
        answer = decide(live, asyncio.run(live.judged(images[0])), 5)
    if isinstance(answer, Estimate):
        assert answer.value == pytest.approx(float(stored[0, 0]), abs=1e-3 * SPREAD)
        assert (answer.unit, answer.interval) == ("francs", Range(0.9, answer.value - 12.5, answer.value + 12.5))
    else:
        probability = 1 / (1 + np.exp(-stored[0].astype(np.float64)))
        assert dict(answer.labels) == pytest.approx(dict(zip(THRESHOLDS, probability, strict=True)), abs=1e-3)
        assert set(answer.selected or ()) == {name for name, p in dict(answer.labels).items() if p >= THRESHOLDS[name]}


def test_parity_of_numbers_is_a_share_of_their_spread_so_that_a_small_unit_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundredth of a spread of 1e-4 is far below 1e-3; a float32's rounding of the fixture's millions is far above."""
    genuine = export_module._check_parity

    def spoil_then_check(graph: ServingGraph, *rest: Any) -> float:
        with torch.no_grad():
            graph.network.fc.bias += 1e-6
        return genuine(graph, *rest)

    monkeypatch.setattr(export_module, "_check_parity", spoil_then_check)
    with pytest.raises(ParityError, match="logits differs from torch's by 1"):
        export(make_network(1, 1e-4, 2e-4), NORMALISE, 32, POOL, tmp_path / "model.onnx", "regression")
    assert not (tmp_path / "model.onnx").exists()


def test_thresholds_of_other_labels_are_refused_before_anything_is_exported(tmp_path: Path) -> None:
    made = publication("tags", "multi_label", ("ant", "dog"), make_network(2), Calibration(OK, THRESHOLDS, None))
    with pytest.raises(ManifestError, match=r"^confidence\.thresholds has \['ant', 'bee', 'cat'\], expected one for each"):
        publish(made, Registry(tmp_path / "registry"), tmp_path / "runs")
    assert Registry(tmp_path / "registry").names() == []
    assert list((tmp_path / "runs").iterdir()) == []
