"""What a fit publishes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from models.artifact import Artifact
from models.decision import probabilities
from models.metrics import negative_log_likelihood
from models.preprocess import load_image
from training.export import open_session, run_onnx

if TYPE_CHECKING:
    from tests.unit.training.conftest import Fitted

pytestmark = pytest.mark.torch


def test_first_version_is_whole_verified_and_in_production(fitted: Fitted) -> None:
    assert fitted.manifest.reference == "colours:1"
    assert fitted.registry.aliases("colours").production == 1
    artifact = Artifact.load(fitted.registry.path("colours", 1))
    assert artifact.manifest == fitted.manifest
    assert artifact.manifest.labels == ("blue", "green", "red")


def test_manifest_holds_the_resolved_recipe_and_the_split_sizes(fitted: Fitted) -> None:
    recipe = fitted.manifest.recipe
    assert recipe is not None
    assert (recipe.epochs, recipe.batch_size, recipe.image_size) == (2, 8, 32)
    assert recipe.lr is not None
    card = fitted.manifest.dataset
    assert card is not None
    assert card.splits == {"train": 36, "validation": 12, "calibration": 18, "test": 72}
    # The truncated image and the text file.
    assert card.skipped == 2


def test_working_folder_is_gone_afterwards(fitted: Fitted) -> None:
    assert list((fitted.home / "runs").iterdir()) == []
    assert [path.name for path in (fitted.home / "registry" / "colours").iterdir() if path.name.startswith(".")] == []


def test_model_is_one_file_with_the_promised_input_and_outputs(fitted: Fitted) -> None:
    path = fitted.registry.path("colours", 1) / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    session = open_session(path)
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("image", "tensor(uint8)", [32, 32, 3])]
    assert [o.name for o in session.get_outputs()] == ["logits", "embedding", "cam"]
    outputs = fitted.manifest.outputs
    assert (outputs.logits, outputs.embedding, outputs.spatial, outputs.spatial_channels) == (3, 512, "cam", 3)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_batch_is_dynamic_and_each_row_is_as_if_alone(fitted: Fitted, batch: int) -> None:
    path = fitted.registry.path("colours", 1) / "model.onnx"
    images = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    together = run_onnx(path, images)
    for row in range(batch):
        alone = run_onnx(path, images[row : row + 1])
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_allclose(ours[0], theirs[row], atol=1e-3)


def test_mean_of_the_class_activation_map_is_the_logit_less_the_bias(fitted: Fitted) -> None:
    folder = fitted.registry.path("colours", 1)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    logits, _, cam = run_onnx(folder / "model.onnx", images)
    bias = load_file(folder / "weights.safetensors")["fc.bias"].numpy()
    np.testing.assert_allclose(cam.mean(axis=(2, 3)) + bias, logits, atol=1e-3)


def test_published_scores_are_what_the_published_file_scores_on_the_test_images(fitted: Fitted) -> None:
    """The whole loop closed: the test folder through the service's decoder and the ONNX file gives the stored numbers."""
    manifest = fitted.manifest
    artifact = Artifact.load(fitted.registry.path("colours", 1))
    files = sorted((fitted.data / "test").rglob("*.png"))
    images = np.stack([load_image(path.read_bytes(), manifest.preprocessing, 32, 32) for path in files])
    truth = np.array([manifest.labels.index(path.parent.name) for path in files])
    logits = run_onnx(artifact.path / "model.onnx", images)[0]
    calibrated = probabilities(logits, artifact.confidence.temperature.value)
    assert manifest.metrics is not None
    assert manifest.metrics.calibrated is not None
    assert manifest.metrics.raw is not None
    assert (calibrated.argmax(axis=1) == truth).mean() == pytest.approx(manifest.metrics.calibrated.accuracy)
    assert negative_log_likelihood(calibrated, truth) == pytest.approx(manifest.metrics.calibrated.nll, abs=1e-4)
    assert negative_log_likelihood(probabilities(logits, 1), truth) == pytest.approx(manifest.metrics.raw.nll, abs=1e-4)


def test_evidence_is_of_the_published_file_and_was_tested(fitted: Fitted) -> None:
    artifact = Artifact.load(fitted.registry.path("colours", 1))
    confidence, evidence = artifact.confidence, artifact.evidence
    assert confidence.conformal is not None
    assert sum(confidence.conformal.images.values()) == 18
    # 36 training and 18 calibration images, none of them a copy.
    assert evidence.bank is not None
    assert evidence.bank.is_held_out.tolist().count(True) == 18
    assert len(evidence.bank.ids) == 54
    assert "18 calibration images are too few" in confidence.unavailable["familiarity"]
    outcome = {test.name: test.passed for test in confidence.self_tests}
    assert outcome.keys() >= {"exported graph", "heatmaps", "contrasts", "probabilities", "coverage", "review lists"}
    assert all(outcome[name] for name in ("exported graph", "heatmaps", "contrasts", "probabilities", "review lists"))


def test_folder_without_unrelated_images_is_refused_before_anything_is_trained(fitted: Fitted) -> None:
    from training.errors import TrainingError
    from training.fit import Options, fit

    assert fitted.manifest.recipe is not None
    where = fitted.home / "nowhere"
    with pytest.raises(TrainingError, match="--unrelated .*nowhere: there is no image"):
        fit(fitted.data, "refused", fitted.manifest.recipe, fitted.registry, fitted.home / "runs", Options(unrelated=where))
    assert list((fitted.home / "runs").iterdir()) == []


def test_chosen_candidate_has_the_lowest_validation_nll(fitted: Fitted) -> None:
    metrics = fitted.manifest.metrics
    assert metrics is not None
    assert metrics.validation.keys() == {"probe", "last", "ema"}
    assert metrics.chosen is not None
    assert metrics.validation[metrics.chosen].nll == min(scores.nll for scores in metrics.validation.values())


def test_golden_inputs_are_held_out_images_and_half_of_them_have_the_smallest_margins(fitted: Fitted) -> None:
    artifact = Artifact.load(fitted.registry.path("colours", 1))
    with np.load(io.BytesIO(artifact.golden), allow_pickle=False) as stored:
        images, logits = stored["images"], stored["logits"]
    assert images.shape == (64, 32, 32, 3)
    np.testing.assert_allclose(run_onnx(artifact.path / "model.onnx", images)[0], logits, atol=1e-4)
    held_out = {
        load_image(path.read_bytes(), fitted.manifest.preprocessing, 32, 32).tobytes()
        for path in (fitted.data / "test").rglob("*.png")
    }
    assert {image.tobytes() for image in images} <= held_out
    assert len({image.tobytes() for image in images}) == 64


def test_weights_are_safetensors_and_fit_the_backbone(fitted: Fitted) -> None:
    import timm

    network = timm.create_model("resnet18", num_classes=3)
    network.load_state_dict(load_file(fitted.registry.path("colours", 1) / "weights.safetensors"))
    image = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    from training.normalise import Normalise

    normalise = Normalise(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    with torch.inference_mode():
        logits = network.eval()(normalise(torch.from_numpy(image))).numpy()
    expected = run_onnx(fitted.registry.path("colours", 1) / "model.onnx", image)[0]
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_second_fit_is_the_next_version_and_does_not_take_over(fitted: Fitted) -> None:
    from training.fit import fit

    quick = fitted.manifest.recipe
    assert quick is not None
    second = fit(fitted.data, "colours", quick.model_copy(update={"epochs": 0}), fitted.registry, fitted.home / "runs")
    assert second.version == 2
    assert second.metrics is not None
    assert second.metrics.chosen == "probe"
    assert fitted.registry.aliases("colours").production == 1


def test_fingerprint_is_that_of_the_images_that_were_readable(fitted: Fitted) -> None:
    from models.dataset import Skipped, scan

    card = fitted.manifest.dataset
    assert card is not None
    found = scan(fitted.data, fitted.manifest.recipe)
    broken = fitted.data / "train" / "red" / "broken.png"
    assert found.fingerprint() != card.fingerprint
    assert found.without([Skipped(broken, "broken")]).fingerprint() == card.fingerprint
