"""Suspected labels: found where labels were flipped, and never by a model that saw the label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.judged import images_of, made_up
from training.subject import Outputs, Subject, name_images
from training.suspects import FOLDS, MOST_SUSPECTS, confident_joint, out_of_fold, stratified_folds, suspects

WIDTH = 40


def clusters(images: int, labels: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, 40]` around a centre for each label, and the labels."""
    rng = np.random.default_rng(seed)
    truth = np.arange(images) % labels
    centres = np.random.default_rng(99).normal(size=(labels, WIDTH))
    return (centres[truth] + rng.normal(size=(images, WIDTH)) * spread).astype(np.float32), truth


def flip(truth: np.ndarray, share: float, labels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    given = truth.copy()
    chosen = rng.permutation(len(truth))[: round(len(truth) * share)]
    given[chosen] = (truth[chosen] + rng.integers(1, labels, len(chosen))) % labels
    return given


def subject_of(features: np.ndarray, given: np.ndarray, labels: int) -> Subject:
    outputs = Outputs(images_of("train", given), np.zeros((len(given), labels), np.float32), features)
    return replace(made_up(labels, {"train": 8}), outputs={"train": outputs})


@pytest.mark.parametrize("share", [0.02, 0.05, 0.15])
def test_flipped_labels_are_found(share: float) -> None:
    features, truth = clusters(1200, 6, seed=0, spread=1.6)
    given = flip(truth, share, 6, seed=1)
    found, reason = suspects(subject_of(features, given, 6), names := name_images(subject_of(features, given, 6).outputs))
    assert reason is None
    assert found is not None
    bad = {name for name, was, now in zip(names["train"], truth, given, strict=True) if was != now}
    listed = [suspect.id for suspect in found.listed]
    assert found.images == 1200
    assert len(bad & set(listed)) >= 0.75 * len(bad)
    assert len(bad & set(listed)) >= 0.9 * len(listed)
    # The head of the list is where somebody will look.
    head = listed[: len(bad) // 2]
    assert len(bad & set(head)) >= 0.9 * len(head)
    doubts = [suspect.p_label for suspect in found.listed]
    assert doubts == sorted(doubts)


def test_right_labels_are_left_alone() -> None:
    features, truth = clusters(900, 6, seed=2, spread=0.7)
    found, _ = suspects(subject_of(features, truth, 6), name_images(subject_of(features, truth, 6).outputs))
    assert found is not None
    assert found.found <= 3
    assert found.accuracy > 0.99


def test_suggestion_is_the_true_label_and_both_probabilities_are_told() -> None:
    features, truth = clusters(600, 4, seed=3, spread=0.8)
    given = truth.copy()
    given[0] = 3
    subject = subject_of(features, given, 4)
    found, _ = suspects(subject, name_images(subject.outputs))
    assert found is not None
    worst = found.listed[0]
    assert (worst.path, worst.label, worst.suggested) == ("train/0000.png", "label 3", "label 0")
    assert worst.p_label < 0.1 < 0.8 < worst.p_suggested


def test_labels_that_say_nothing_are_not_learnt_by_heart() -> None:
    """With random labels an image's own label must not show in what is said of it: the share right is that of guessing."""
    rng = np.random.default_rng(4)
    features, given = rng.normal(size=(400, 300)).astype(np.float32), rng.integers(0, 4, 400)
    stated = out_of_fold(features, given, 4)
    assert (stated.argmax(axis=1) == given).mean() == pytest.approx(0.25, abs=0.08)
    np.testing.assert_allclose(stated.sum(axis=1), 1, atol=1e-5)
    # And it knows that it knows nothing.
    assert stated.max(axis=1).mean() < 0.4


def test_every_label_is_dealt_over_all_folds_and_again_alike() -> None:
    labels = np.repeat(np.arange(4), [5, 6, 23, 50])
    fold = stratified_folds(labels, 4)
    for label, total in enumerate([5, 6, 23, 50]):
        counts = np.bincount(fold[labels == label], minlength=FOLDS)
        assert counts.sum() == total
        assert counts.max() - counts.min() <= 1
    assert (stratified_folds(labels, 4) == fold).all()


def test_confident_joint_by_hand() -> None:
    stated = np.array([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.85, 0.15, 0.0], [0.3, 0.3, 0.4], [0.4, 0.0, 0.6]])
    given = np.array([0, 0, 1, 1, 2, 2])
    # usual: 0.8, 0.475, 0.5. Of the fourth, label 0 passes; of the second and the fifth, none does, and their labels stand.
    assert confident_joint(stated, given).tolist() == [0, 0, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("counts", "said"),
    [([4, 4, 30], "takes 5 images of at least two labels"), ([2, 2, 2], "takes 5 images of at least two labels")],
)
def test_too_few_images_are_a_reason(counts: list[int], said: str) -> None:
    given = np.repeat(np.arange(3), counts)
    features = np.random.default_rng(0).normal(size=(len(given), WIDTH)).astype(np.float32)
    found, reason = suspects(subject_of(features, given, 3), name_images(subject_of(features, given, 3).outputs))
    assert found is None
    assert reason is not None
    assert said in reason


def test_without_features_there_is_a_reason() -> None:
    subject = made_up(3, {"test": 30})
    bare = replace(subject, outputs={"test": replace(subject.outputs["test"], embeddings=None)})
    found, reason = suspects(bare, name_images(bare.outputs))
    assert found is None
    assert reason == "there are no features from before fine-tuning to look for wrong labels with"


def test_rare_labels_are_left_out_and_the_rest_is_looked_at() -> None:
    features, truth = clusters(300, 3, seed=5, spread=0.8)
    keep = (truth != 1) | (np.arange(300) < 10)
    assert (truth[keep] == 1).sum() == 3
    subject = subject_of(features[keep], truth[keep], 3)
    found, _ = suspects(subject, name_images(subject.outputs))
    assert found is not None
    assert found.images == keep.sum() - 3
    assert found.method.endswith("1 labels with fewer than 5 images were left out.")
    assert {suspect.label for suspect in found.listed} <= {"label 0", "label 2"}


def test_wrong_label_is_found_where_all_is_clear() -> None:
    """Half of the images are below the average probability of their label, and it would take an above-average one to accuse."""
    features, truth = clusters(300, 3, seed=6, spread=0.8)
    given = truth.copy()
    given[:30:10] = (truth[:30:10] + 2) % 3
    subject = subject_of(features, given, 3)
    found, _ = suspects(subject, name_images(subject.outputs))
    assert found is not None
    assert {suspect.path for suspect in found.listed} == {"train/0000.png", "train/0010.png", "train/0020.png"}


def test_copy_of_an_image_does_not_vouch_for_its_label() -> None:
    """The same file twice, both times wrong: the second is no evidence for the first."""
    features, truth = clusters(300, 3, seed=6, spread=0.8)
    features, given = np.concatenate([features, features[:1]]), np.concatenate([truth, [2]])
    given[0] = 2
    images = images_of("train", given)
    items = (*images.items[:-1], replace(images.items[-1], digest=images.items[0].digest))
    outputs = Outputs(replace(images, items=items), np.zeros((301, 3), np.float32), features)
    subject = replace(made_up(3, {"train": 8}), outputs={"train": outputs})
    found, _ = suspects(subject, name_images(subject.outputs))
    assert found is not None
    assert found.images == 300
    assert found.listed[0].path == "train/0000.png"


def test_list_ends_and_says_how_many_there_are() -> None:
    features, truth = clusters(1500, 5, seed=7, spread=1.0)
    given = flip(truth, 0.2, 5, seed=8)
    subject = subject_of(features, given, 5)
    found, _ = suspects(subject, name_images(subject.outputs))
    assert found is not None
    assert len(found.listed) == MOST_SUSPECTS < found.found


def test_features_that_are_all_equal_accuse_nobody() -> None:
    given = np.arange(60) % 3
    subject = subject_of(np.ones((60, WIDTH), np.float32), given, 3)
    found, _ = suspects(subject, name_images(subject.outputs))
    assert found is not None
    assert found.found == 0
