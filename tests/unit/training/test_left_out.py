"""Familiarity that is kept from knowing a label: as if it had been fitted without it, and in a fraction of the time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.world import LABELS, answers, embeddings_of
from training.confidence import left_out
from training.confidence.answers import Answers
from training.confidence.familiarity import fit_familiarity
from training.confidence.left_out import leave_out
from training.confidence.separation import auroc

NAMES = tuple(f"label {index}" for index in range(LABELS))


def widened(given: Answers, dimensions: int) -> Answers:
    """The same images in more dimensions than there is room for, most of which vary a little, as a network's do."""
    mixing = np.random.default_rng(3).normal(size=(given.embeddings.shape[1], dimensions))
    noise = np.random.default_rng(len(given)).normal(size=(len(given), dimensions))
    return replace(given, embeddings=(given.embeddings @ mixing + noise).astype(np.float32))


@pytest.mark.parametrize(("dimensions", "spread"), [(24, 1.2), (300, 0.2)])
def test_it_is_what_fitting_without_that_label_gives(dimensions: int, spread: float) -> None:
    training, test = (answers(count, seed, spread=spread) for count, seed in ((400, 0), (300, 1)))
    if dimensions > 24:
        training, test = widened(training, dimensions), widened(test, dimensions)
    found = leave_out(training, test, NAMES, seed=0)
    assert [one.label for one in found] == list(NAMES)
    for index, one in enumerate(found):
        kept, own = training.targets != index, test.targets == index
        fitted = fit_familiarity(training.embeddings[kept], training.targets[kept], test.embeddings)
        far = fitted.distance(test.embeddings)
        assert one.auroc == pytest.approx(auroc(far[own], far[~own]), abs=0.01)
    # hard enough that a wrong answer would show
    assert 0.6 < np.mean([one.auroc for one in found]) < 0.995


def test_a_label_that_looks_like_another_is_not_told_from_it() -> None:
    def twinned(given: Answers, seed: int) -> Answers:
        alike = np.where(given.targets == LABELS - 1, 0, given.targets)
        return replace(given, embeddings=embeddings_of(alike, seed))

    found = leave_out(twinned(answers(300, 0), 5), twinned(answers(300, 1), 6), NAMES, seed=0)
    assert all(one.auroc > 0.9 for one in found[1:-1])
    assert found[-1].auroc < 0.7


def test_many_labels_and_images_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "MOST_IMAGES", 200)
    found = leave_out(answers(300, 0, labels=60), answers(300, 1, labels=60), tuple(map(str, range(60))), seed=0)
    assert [int(one.label) for one in found[:3]] == [0, 3, 6]
    assert len(found) == 20
    everything = leave_out(answers(300, 0, labels=60), answers(200, 1, labels=60), tuple(map(str, range(60))), seed=0)
    assert [one.label for one in everything] == [one.label for one in found]


def test_too_few_images_say_nothing() -> None:
    one_each, test = answers(LABELS, 0), answers(60, 1)
    assert leave_out(one_each, test, NAMES, seed=0) == ()
    same = replace(answers(60, 0), embeddings=np.ones((60, 24), dtype=np.float32))
    assert leave_out(same, test, NAMES, seed=0) == ()
    only = replace(test, targets=np.zeros(60, dtype=np.int64))
    assert leave_out(answers(60, 0), only, NAMES, seed=0) == ()
