"""The parts of training, one at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.decision import probabilities
from models.metrics import negative_log_likelihood
from training.calibrate import HIGHEST, LOWEST, calibrate, fit_temperature
from training.normalise import Normalise
from training.pretrained import imagenet_labels

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
