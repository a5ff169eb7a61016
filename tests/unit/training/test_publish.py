"""What is published of a network with several labels an image, and of one that answers a number, by real exports."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm
import torch

from models.artifact import Artifact
from models.errors import ManifestError
from models.manifest import Interval, Temperature
from models.preprocess import standard_preprocessing
from models.registry import Registry
from training.backbone import Pretrained
from training.calibrate import Calibration
from training.errors import ParityError
from training.export import PARITY_TOLERANCE, ServingGraph, export, run_onnx
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
THRESHOLDS = {"ant": 0.3, "bee": 0.5, "cat": 0.7}


def make_network(outputs: int, scale: float = 1.0, offset: float = 0.0) -> torch.nn.Module:
    """A random ResNet-18 whose outputs have about this spread about this mean, as a head with folded statistics has."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=outputs).eval()
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
        unit="degrees" if task == "regression" else None,
        pretrained=Pretrained(network, "random", "none", 32, 1.0, (0.5,) * 3, (0.5,) * 3),
        normalise=NORMALISE,
        preprocessing=standard_preprocessing(1.0),
        image_size=32,
        backbone="resnet18",
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
    angle = publication("angle", "regression", ("angle",), make_network(1, 100.0, 180.0), Calibration(OK, None, INTERVAL))
    tags = publication("tags", "multi_label", tuple(THRESHOLDS), make_network(3, 3.0), Calibration(OK, THRESHOLDS, None))
    for made in (angle, tags):
        publish(made, registry, home / "runs")
    return {name: Artifact.load(registry.path(name, 1)) for name in ("angle", "tags")}


def golden(artifact: Artifact) -> tuple[np.ndarray, np.ndarray]:
    with np.load(io.BytesIO(artifact.golden)) as stored:
        return stored["images"], stored["logits"]


def values_of_pool(artifact: Artifact) -> np.ndarray:
    return run_onnx(artifact.path / "model.onnx", POOL)[0]


def test_card_and_confidence_say_the_task_unit_thresholds_and_interval(published: dict[str, Artifact]) -> None:
    angle, tags = published["angle"], published["tags"]
    assert (angle.manifest.task, angle.manifest.labels, angle.manifest.unit) == ("regression", ("angle",), "degrees")
    assert (angle.confidence.interval, angle.confidence.thresholds) == (INTERVAL, None)
    assert (tags.manifest.task, tags.manifest.labels, tags.manifest.unit) == ("multi_label", ("ant", "bee", "cat"), None)
    assert (tags.confidence.interval, tags.confidence.thresholds) == (None, THRESHOLDS)
    for artifact in (angle, tags):
        outputs, labels = artifact.manifest.outputs, len(artifact.manifest.labels)
        assert (outputs.logits, outputs.spatial, outputs.spatial_channels) == (labels, "cam", labels)


def test_mean_of_the_map_is_the_number_less_the_bias(published: dict[str, Artifact]) -> None:
    values, embedding, cam = run_onnx(published["angle"].path / "model.onnx", POOL[:8])
    network = make_network(1, 100.0, 180.0)
    assert cam.shape == (8, 1, 1, 1)
    np.testing.assert_allclose(cam.mean(axis=(2, 3)) + network.fc.bias.item(), values, atol=0.01)
    np.testing.assert_allclose(embedding @ network.fc.weight.detach().numpy().T + network.fc.bias.item(), values, atol=0.01)


def test_golden_values_go_evenly_from_the_smallest_to_the_largest(published: dict[str, Artifact]) -> None:
    _, stored = golden(published["angle"])
    everything = np.sort(values_of_pool(published["angle"])[:, 0])
    chosen = np.sort(stored[:, 0])
    assert stored.shape == (GOLDEN_IMAGES, 1)
    assert (chosen[0], chosen[-1]) == pytest.approx((everything[0], everything[-1]), rel=1e-5)
    ranks = np.searchsorted(everything, chosen - 1e-3)
    # 64 of 100: never two in a row left out
    assert np.diff(ranks).max() <= 2


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


@pytest.mark.parametrize("scale", [1e-4, 1e6])
def test_parity_of_numbers_is_a_share_of_their_spread_and_so_independent_of_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """A millionth of a float32 in the millions is more than 1e-3; a wrong bias of 0.01 deviations is found in any unit."""
    from training import export as module

    network = make_network(1, scale, 2 * scale)
    exported = export(network, NORMALISE, 32, POOL, tmp_path / "model.onnx", "regression")
    assert exported.largest_difference < PARITY_TOLERANCE * scale
    genuine = module._check_parity

    def spoil_then_check(graph: ServingGraph, *rest: object) -> float:
        with torch.no_grad():
            graph.network.fc.bias += 0.01 * scale
        return genuine(graph, *rest)

    monkeypatch.setattr(module, "_check_parity", spoil_then_check)
    with pytest.raises(ParityError, match="logits differs from torch's by"):
        export(network, NORMALISE, 32, POOL, tmp_path / "spoilt.onnx", "regression")
    assert not (tmp_path / "spoilt.onnx").exists()


def test_thresholds_of_other_labels_are_not_published(tmp_path: Path) -> None:
    made = publication("tags", "multi_label", ("ant", "bee"), make_network(2), Calibration(OK, THRESHOLDS, None))
    with pytest.raises((ManifestError, KeyError)):
        publish(made, Registry(tmp_path / "registry"), tmp_path / "runs")
    assert Registry(tmp_path / "registry").names() == []
