"""The three tasks' losses, and what each refuses."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from models.recipe import Recipe
from training.errors import TrainingError
from training.objective import make_objective
from training.probe import fit_probe

pytestmark = pytest.mark.torch
LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
VALUES = np.linspace(100, 300, 50, dtype=np.float32)[:, None]


def test_cross_entropy_is_smoothed_while_training_and_not_where_it_is_measured() -> None:
    objective = make_objective("single_label", 3, Recipe(), LABELS)
    outputs, targets = torch.randn(9, 3), objective.tensor(LABELS)
    assert objective.loss(outputs, targets) == functional.cross_entropy(outputs, targets, label_smoothing=0.05)
    assert objective.loss(outputs, targets, smooth=False) == functional.cross_entropy(outputs, targets)


def test_logit_adjustment_adds_the_log_of_each_labels_share() -> None:
    objective = make_objective("single_label", 3, Recipe(imbalance="logit_adjustment", label_smoothing=0.0), LABELS)
    outputs, targets = torch.randn(9, 3), objective.tensor(LABELS)
    shares = torch.tensor([6 / 9, 2 / 9, 1 / 9])
    torch.testing.assert_close(objective.loss(outputs, targets), functional.cross_entropy(outputs + shares.log(), targets))


def test_logit_adjustment_raises_the_recall_of_the_rare_label() -> None:
    """Two overlapping clouds, 19 to 1: the plain probe all but ignores the rare one."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(2000) % 20 == 0).long()
    embeddings = torch.randn(2000, 4, generator=generator) + labels[:, None] * 1.5
    recall = {}
    for imbalance in ("none", "logit_adjustment"):
        objective = make_objective("single_label", 2, Recipe.from_mapping({"imbalance": imbalance}), labels.numpy())
        predicted = fit_probe((embeddings, labels), None, objective).logits(embeddings).argmax(axis=1)
        recall[imbalance] = (predicted[labels.numpy() == 1] == 1).mean()
    assert recall["none"] < 0.75
    assert recall["logit_adjustment"] > recall["none"] + 0.15


def test_regression_learns_standardised_values_and_its_head_answers_in_the_unit() -> None:
    objective = make_objective("regression", 1, Recipe(unit="degrees"), VALUES)
    targets = objective.tensor(VALUES)
    assert float(targets.mean()) == pytest.approx(0, abs=1e-5)
    assert float(targets.std(correction=0)) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(objective.in_units(targets.numpy()), VALUES, rtol=1e-5)
    network = timm.create_model("test_resnet", num_classes=1).eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        raw = network(images).numpy()
        objective.fold(network)
        folded = network(images).numpy()
    np.testing.assert_allclose(folded, objective.in_units(raw), rtol=1e-4)


def test_small_numbers_that_differ_are_learnt() -> None:
    values = np.linspace(0, 4e-12, 9, dtype=np.float32)[:, None]
    targets = make_objective("regression", 1, Recipe(), values).tensor(values)
    assert float(targets.std(correction=0)) == pytest.approx(1, rel=1e-3)


def test_values_that_are_all_equal_are_refused() -> None:
    with pytest.raises(TrainingError, match="every training image has the value 7; expected values that differ"):
        make_objective("regression", 1, Recipe(), np.full((9, 1), 7, dtype=np.float32))


@pytest.mark.parametrize(
    ("task", "recipe", "key"),
    [
        ("multi_label", Recipe(label_smoothing=0.1), "label_smoothing"),
        ("regression", Recipe(imbalance="logit_adjustment"), "imbalance"),
        ("single_label", Recipe(unit="kg"), "unit"),
    ],
)
def test_a_key_of_another_task_is_refused_when_the_data_shows_the_task(task: str, recipe: Recipe, key: str) -> None:
    with pytest.raises(TrainingError, match=rf"recipe\.{key} belongs to .* make it {task}"):
        make_objective(task, 3, recipe, LABELS)  # type: ignore[arg-type]


def embeddings_of(count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = torch.randn(3, 16, generator=generator) * 4
    # A shift and a scale that standardisation must undo.
    return (centres[labels] + torch.randn(count, 16, generator=generator)) * 50 + 1000, labels


def test_probe_separates_what_is_separable_and_takes_raw_embeddings() -> None:
    embeddings, labels = embeddings_of()
    objective = make_objective("single_label", 3, Recipe(), labels.numpy())
    probe = fit_probe((embeddings[:200], labels[:200]), (embeddings[200:], labels[200:]), objective)
    assert (probe.logits(embeddings[200:]).argmax(axis=1) == labels[200:].numpy()).mean() > 0.97


def test_probe_of_several_labels_answers_each_of_them() -> None:
    embeddings, labels = embeddings_of()
    both = torch.stack([labels == 0, labels != 1], dim=1).float()
    objective = make_objective("multi_label", 2, Recipe(), both.numpy())
    probe = fit_probe((embeddings[:200], both[:200]), (embeddings[200:], both[200:]), objective)
    assert ((probe.logits(embeddings[200:]) > 0) == (both[200:].numpy() > 0)).mean() > 0.97


def test_probe_of_a_number_is_a_regression() -> None:
    embeddings, labels = embeddings_of()
    values = (500 + 20 * labels.float())[:, None]
    objective = make_objective("regression", 1, Recipe(), values.numpy())
    targets = objective.tensor(values.numpy())
    probe = fit_probe((embeddings[:200], targets[:200]), (embeddings[200:], targets[200:]), objective)
    answered = objective.in_units(probe.logits(embeddings[200:]))
    assert np.abs(answered - values[200:].numpy()).mean() < 3


def test_a_feature_that_hardly_ever_fires_does_not_decide_the_image_in_which_it_does() -> None:
    """200 images in which feature 0 is silent but once, and one unseen in which it is as loud as the others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    embeddings = torch.randn(200, 8, generator=generator) + labels[:, None] * 2.0
    embeddings[:, 0] = 0
    embeddings[0, 0] = 1e-3
    objective = make_objective("single_label", 2, Recipe(), labels.numpy())
    probe = fit_probe((embeddings, labels), None, objective)
    unseen = torch.full((1, 8), 2.0)
    quiet = unseen.clone()
    quiet[0, 0] = 0
    assert np.abs(probe.logits(unseen) - probe.logits(quiet)).max() < 1.0
