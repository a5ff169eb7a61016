"""Every family of the catalogue goes the whole way, and weights in the hub's cache are found by a process without a network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from models.recipe import Recipe
from models.registry import Registry
from tests.support.folders import write_colours
from tests.support.server import ROOT, environment
from training.export import OPSET, PARITY_TOLERANCE, run_onnx
from training.fit import fit
from training.normalise import Normalise

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

SIZE = 64
# The sizes of their embeddings. Some heads do more than average before the last layer, and have an exact map all the same.
FAMILIES = {
    "resnet18": 512,
    "mobilenetv2_100": 1280,
    "mobilenetv3_large_100": 1280,
    "efficientnet_b0": 1280,
    "tf_efficientnet_lite0": 1280,
    "convnext_tiny": 768,
    "hgnetv2_b0": 2048,
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("families"), {"train": 3, "val": 2, "calibration": 2, "test": 3})


def assert_close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Equal to a thousandth of the largest value, or of 1."""
    theirs = theirs.detach()
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=PARITY_TOLERANCE * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("backbone", FAMILIES)
def test_family_is_fitted_for_a_step_exported_and_agrees_with_torch(backbone: str, colours: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    keys = {"backbone": backbone, "pretrained": False, "image_size": SIZE, "epochs": 1, "batch_size": 8}
    manifest = fit(colours, "colours", Recipe.from_mapping(keys), registry, tmp_path / "runs")
    outputs = manifest.outputs
    assert (outputs.logits, outputs.embedding) == (3, FAMILIES[backbone])
    assert (outputs.spatial, outputs.spatial_channels) == ("cam", 3)

    # What was published, beside the same weights in a network of timm that was neither simplified nor exported.
    folder = registry.path("colours", 1)
    network = timm.create_model(backbone, num_classes=3).eval()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    normalise = Normalise(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    with torch.inference_mode():
        features = network.forward_features(normalise(torch.from_numpy(images)))
        pooled = network.forward_head(features, pre_logits=True)
        expected = network.forward_head(features)
        bias = network.get_classifier().bias
    logits, embeddings, maps = run_onnx(folder / "model.onnx", images)
    assert_close(logits, expected)
    assert_close(embeddings, pooled)
    assert_close(maps.mean((2, 3)), expected - bias)
    # A map that is the same everywhere would have that mean too.
    assert (maps.std((2, 3)) > 1e-3 * np.abs(maps).max((2, 3))).all()

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert model.opset_import[0].version == OPSET
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    if not backbone.startswith("convnext"):  # whose normalised head is indexed once
        assert not operators & {"Range", "Gather", "GatherND"}


# Run by a process of its own, since where the cache is and whether there is a network are read when the hub is imported.
_CREATE = """
import hashlib, json, sys
from models.recipe import Recipe
from training.backbone import create
from training.errors import WeightsUnavailableError
answers = {}
for name in sys.argv[1:]:
    try:
        made = create(Recipe(backbone=name), 3)
    except WeightsUnavailableError as err:
        answers[name] = str(err)
    else:
        tensors = {key: value for key, value in made.network.state_dict().items() if not key.startswith("fc.")}
        digest = hashlib.sha256(b"".join(tensors[key].contiguous().numpy().tobytes() for key in sorted(tensors)))
        answers[name] = [digest.hexdigest(), made.weights]
print(json.dumps(answers))
"""


def test_process_without_a_network_takes_what_the_hubs_cache_holds(colours: Path, tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18")
    snapshot = tmp_path / "hf" / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / ("0" * 40)
    (snapshot.parent.parent / "refs").mkdir(parents=True)
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    variables = environment(tmp_path / "home") | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, check=False)

    done = run("-c", _CREATE, "resnet18", "resnet34")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    body = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    digest = hashlib.sha256(b"".join(body[name].numpy().tobytes() for name in sorted(body))).hexdigest()
    assert answers["resnet18"] == [digest, "hub timm/resnet18.a1_in1k"]
    assert "the pretrained weights of resnet34 cannot be had" in answers["resnet34"]

    listed = run("-m", "training", "backbones")
    rows = {line.split()[0]: line.split()[-1] for line in listed.stdout.splitlines()}
    assert (rows["resnet18"], rows["resnet34"], rows["tf_efficientnet_lite0"]) == ("cache", "no", "package")

    # With no epochs the body is published as it came.
    fitted = run("-m", "training", "fit", str(colours), "--name", "colours", "backbone=resnet18", "image_size=32", "epochs=0")
    assert fitted.returncode == 0, fitted.stderr
    published = load_file(tmp_path / "home" / "registry" / "colours" / "versions" / "1" / "weights.safetensors")
    assert all(torch.equal(published[name], tensor) for name, tensor in body.items())
