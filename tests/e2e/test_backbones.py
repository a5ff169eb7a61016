"""Every family of the catalogue goes the whole way, and weights in the hub's cache are found by a process without a network."""

from __future__ import annotations

import hashlib
import itertools
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

from models.artifact import Artifact
from models.confidence.case import Ask, Seen
from models.confidence.explain import explain
from models.confidence.judge import Judge
from models.decision import probabilities
from models.preprocess import load_image
from models.recipe import Recipe
from models.registry import Registry
from models.review import read_review
from models.review_schema import SingleLabelReview
from tests.support.folders import write_colours
from tests.support.pictures import COLOURS
from tests.support.server import ROOT, environment
from training.export import OPSET, PARITY_TOLERANCE, open_session, run_onnx
from training.fit import fit
from training.normalise import Normalise

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

SIZE, LABELS = 64, ("blue", "green", "red")
ASK = Ask(confidence_level=0.9, top_k=3, neighbors=3, heatmap="grid", versus=1)
WHOLE = (0.0, 0.0, 1.0, 1.0)
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


# Of these, a head that is fitted to random weights tells colours apart.
SEEING = ("resnet18", "convnext_tiny")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("families"), {"train": 3, "val": 2, "calibration": 2, "test": 3})


def quadrants(count: int) -> np.ndarray:
    """Grey noise with a quarter of one of the labels' colours, uint8 `[N, 64, 64, 3]`."""
    rng, side = np.random.default_rng(0), SIZE // 2
    images = rng.integers(90, 166, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for image, label in zip(images, itertools.cycle(LABELS), strict=False):
        top, left = side * rng.integers(0, 2, 2)
        colour = np.array(COLOURS[label]) * 0.6 + 40 + rng.integers(-60, 60, (side, side, 3))
        image[top : top + side, left : left + side] = np.clip(colour, 0, 255)
    return images


def assert_close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Equal to a thousandth of the largest value, or of 1."""
    theirs = theirs.detach()
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=PARITY_TOLERANCE * max(1.0, float(theirs.abs().max())))


@pytest.fixture(scope="module", params=FAMILIES)
def version(request: pytest.FixtureRequest, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One that was fitted for a step, from random weights."""
    work = tmp_path_factory.mktemp(request.param)
    registry = Registry(work / "registry")
    keys = {"backbone": request.param, "pretrained": False, "image_size": SIZE, "epochs": 1, "batch_size": 8}
    fit(colours, "colours", Recipe.from_mapping(keys), registry, work / "runs")
    return Artifact.load(registry.path("colours", 1))


def test_what_is_exported_agrees_with_torch(version: Artifact) -> None:
    outputs, backbone, folder = version.manifest.outputs, version.manifest.backbone.name, version.path
    assert (outputs.logits, outputs.embedding) == (3, FAMILIES[backbone])
    assert (outputs.spatial, outputs.spatial_channels) == ("cam", 3)

    # What was published, beside the same weights in a network of timm that was neither simplified nor exported.
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


def test_maps_add_up_and_the_review_says_what_is_served(version: Artifact, colours: Path) -> None:
    """Acceptance tests A2, A3 and A14, of the artifact as it lies there."""
    outcome = {test.name: test.passed for test in version.confidence.self_tests}
    assert [outcome[name] for name in ("heatmaps", "contrasts", "review lists")] == [True] * 3
    review, labels = read_review(version.path), version.manifest.labels
    assert isinstance(review, SingleLabelReview)
    paths = [colours / image.path for image in review.images]
    pixels = np.stack([load_image(path.read_bytes(), version.manifest.preprocessing, SIZE, SIZE) for path in paths])
    stated = probabilities(run_onnx(version.path / "model.onnx", pixels)[0], version.confidence.temperature.value)
    for image, row in zip(review.images, stated, strict=True):
        listed = [row[labels.index(image.predicted)], row[labels.index(image.actual)]]
        assert [image.p_predicted, image.p_actual] == pytest.approx(listed, abs=1e-5)
        assert image.path.split("/")[1] == image.actual


def test_same_image_is_explained_alike_by_whoever_loads_the_version(version: Artifact) -> None:
    """Acceptance test A16; what it costs is tested in tests/unit/models/confidence/test_cost.py."""
    images = quadrants(3)

    def explained() -> list[str]:
        again = Artifact.load(version.path)
        judge, session = Judge("single_label", again.confidence, again.evidence), open_session(again.path / "model.onnx")
        answers = []
        for image in images:
            logits, embedding, spatial = (output[0] for output in session.run(None, {"image": image[None]}))
            found = explain(judge, again.manifest.labels, None, Seen(logits, embedding, spatial, image, WHOLE), ASK)
            answers.append(found.model_dump_json())
        return answers

    first = explained()
    assert len(set(first)) == len(images)
    assert first == explained()


def test_map_shows_what_the_answer_rests_on(version: Artifact) -> None:
    """Acceptance test A12 (Petsiuk et al. 2018), against the average over all orders in which four quarters can be hidden."""
    if version.manifest.backbone.name not in SEEING:
        pytest.skip("its random weights let hardly anything of an image through (docs/experiments.md)")
    images = quadrants(40)
    logits, _, maps = run_onnx(version.path / "model.onnx", images)
    session, better = open_session(version.path / "model.onnx"), []
    # one quarter hidden, or all but one
    hidden = np.array([cells for cells in itertools.product((False, True), repeat=4) if sum(cells) in (1, 3)])
    where = np.kron(hidden.reshape(-1, 2, 2), np.ones((1, SIZE // 2, SIZE // 2), dtype=bool))[..., None]
    for image, row, heatmap in zip(images, logits, maps, strict=True):
        label, plain = int(row.argmax()), image.mean(axis=(0, 1)).astype(np.uint8)
        p = probabilities(session.run(["logits"], {"image": np.where(where, plain, image)})[0], 1.0)[:, label]
        strength = np.argsort(np.argsort(-heatmap[label].ravel()))
        deleted, inserted, by_chance = [], [], []
        for count in (1, 3):
            deleted.append(p[(hidden == (strength < count)).all(axis=1)])
            inserted.append(p[(hidden == (strength >= count)).all(axis=1)])
            by_chance.append(p[hidden.sum(axis=1) == count].mean())
        better.append((np.mean(deleted) < np.mean(by_chance), np.mean(inserted) > np.mean(by_chance)))
    assert (np.mean(better, axis=0) >= 0.9).all()


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
