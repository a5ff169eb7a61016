"""The parts of training, one at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.decision import probabilities
from models.metrics import negative_log_likelihood
from models.recipe import Recipe
from training.augment import Augment
from training.calibrate import HIGHEST, LOWEST, calibrate, fit_temperature
from training.normalise import Normalise
from training.optim import default_lr, make_optimizer, make_schedule
from training.pretrained import imagenet_labels
from training.probe import fit_probe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


def confident_logits(scale: float, count: int = 4000, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is calibrated by construction, multiplied by `scale`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, labels)) * 2
    cumulative = probabilities(logits, 1).cumsum(axis=1)
    truth = (rng.random((count, 1)) > cumulative).sum(axis=1)
    return logits * scale, truth


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_known_scale(scale: float) -> None:
    logits, truth = confident_logits(scale)
    assert fit_temperature(logits, truth) == pytest.approx(scale, rel=0.06)


def test_temperature_is_the_minimum_of_the_nll() -> None:
    logits, truth = confident_logits(2.0, count=300)
    best = fit_temperature(logits, truth)

    def nll(temperature: float) -> float:
        return negative_log_likelihood(probabilities(logits, temperature), truth)

    assert nll(best) <= min(nll(best * 1.01), nll(best / 1.01))


def test_temperature_of_a_model_that_is_never_wrong_stops_at_the_lowest() -> None:
    logits = np.eye(3)[np.array([0, 1, 2, 0])] * 5
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == pytest.approx(LOWEST, rel=1e-3)


def test_temperature_of_a_model_that_is_always_wrong_stops_at_the_highest() -> None:
    logits = np.eye(3)[np.array([1, 2, 0, 1])] * 5
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == pytest.approx(HIGHEST, rel=1e-3)


def test_few_images_never_make_a_model_more_certain() -> None:
    """Six images, all right: the likelihood alone would turn 0.73 into 0.98."""
    logits, truth = np.array([[1.0, 0.0], [0.0, 1.0]] * 3), np.array([0, 1] * 3)
    assert fit_temperature(logits, truth) < 0.3
    fitted = calibrate((logits, truth), None)
    assert (fitted.value, fitted.status) == (1.0, "partial")
    assert fitted.reason
    assert "0 of 6 held-out images are wrong" in fitted.reason
    # Less certain is allowed.
    assert calibrate((logits, 1 - truth), None).value > 1


def test_label_without_calibration_images_makes_calibration_partial() -> None:
    logits, truth = confident_logits(2.0, count=400)
    kept = truth != 3
    fitted = calibrate((logits[kept], truth[kept]), None)
    assert (fitted.status, fitted.reason) == ("partial", "1 of 5 labels have no calibration image")


def test_calibration_falls_back_to_validation_and_says_so() -> None:
    pair = confident_logits(2.0, count=200)
    assert calibrate(pair, pair).status == "ok"
    partial = calibrate(None, pair)
    assert (partial.status, partial.images) == ("partial", 200)
    assert partial.reason
    none = calibrate(None, None)
    assert (none.status, none.value) == ("none", 1.0)


def test_normalise_is_pixel_over_255_less_mean_over_deviation() -> None:
    normalise = Normalise((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    pixels = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    expected = [(0 - 0.5) / 0.2, (128 / 255 - 0.4) / 0.25, (1 - 0.3) / 0.5]
    torch.testing.assert_close(normalise(pixels)[0, :, 0, 0], torch.tensor(expected))


def test_layer_rates_fall_geometrically_from_head_to_stem() -> None:
    import timm

    network = timm.create_model("resnet18", num_classes=3)
    optimizer = make_optimizer(network, Recipe(stem_lr_scale=0.1), 1e-2)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(network.fc.weight)] == pytest.approx(1e-2)
    assert rate[id(network.conv1.weight)] == pytest.approx(1e-3, rel=0.01)
    assert rate[id(network.conv1.weight)] < rate[id(network.layer2[0].conv1.weight)] < rate[id(network.fc.weight)]
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed[id(network.fc.weight)] == 0.05
    assert decayed[id(network.bn1.weight)] == 0
    assert decayed[id(network.fc.bias)] == 0
    assert len(rate) == len(list(network.parameters()))


def test_schedule_rises_then_falls_to_zero_and_keeps_the_shares() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0}, {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}]
    )
    schedule = make_schedule(optimizer, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    head = [rate[0] for rate in rates]
    assert head[9] == max(head) == pytest.approx(1.0)
    assert head[:10] == sorted(head[:10])
    assert head[10:] == sorted(head[10:], reverse=True)
    assert head[-1] < 0.01
    assert all(stem == pytest.approx(top * 0.1) for top, stem in rates)


def test_default_rate_grows_with_the_square_root_of_the_batch() -> None:
    assert default_lr(32) == pytest.approx(2e-4)
    assert default_lr(128) == pytest.approx(4e-4)


def test_augmentation_is_off_when_the_recipe_says_none() -> None:
    images = torch.rand(4, 3, 16, 16)
    assert Augment(Recipe(augment="none"))(images, torch.Generator()) is images


def test_augmentation_repeats_under_a_seed_and_draws_for_each_image() -> None:
    images = torch.rand(1, 3, 16, 16).expand(6, 3, 16, 16).contiguous()
    augment = Augment(Recipe(augment="basic", flip=True))
    first = augment(images, torch.Generator().manual_seed(1))
    again = augment(images, torch.Generator().manual_seed(1))
    other = augment(images, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({row.numpy().tobytes() for row in first}) == 6
    assert first.shape == images.shape


def test_flip_alone_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(200, 3, 4, 4)
    still = {"min_crop": 1.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0}
    flipped = Augment(Recipe(flip=True, **still))(images, torch.Generator().manual_seed(0))
    mirrored = sum(torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True))
    kept = sum(torch.equal(a, b) for a, b in zip(flipped, images, strict=True))
    assert mirrored + kept == 200
    assert 70 < mirrored < 130


def test_probe_separates_what_is_separable_and_takes_raw_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.randn(3, 16, generator=generator) * 4
    # A shift and a scale that standardisation must undo.
    embeddings = (centres[labels] + torch.randn(300, 16, generator=generator)) * 50 + 1000
    probe = fit_probe((embeddings[:200], labels[:200]), (embeddings[200:], labels[200:]), 3)
    predicted = probe.logits(embeddings[200:]).argmax(axis=1)
    assert (predicted == labels[200:].numpy()).mean() > 0.97


def test_imagenet_labels_are_unique_and_the_two_cranes_have_their_synsets() -> None:
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    assert [label for label in labels if label.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]
    assert labels[967] == "espresso"


def test_quiet_exporter_leaves_logging_as_it_was(tmp_path: Path) -> None:
    from training.export import _quiet

    before = logging.root.manager.disable
    with pytest.raises(RuntimeError), _quiet():
        raise RuntimeError
    assert logging.root.manager.disable == before
