"""Paired tests of two models: against enumeration of every swap, and against what chance does."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.paired import by_hits, by_losses, by_score


def test_right_answers_are_compared_by_the_images_on_which_the_two_differ() -> None:
    hits = np.array([True] * 50 + [True] * 8 + [False] * 2 + [False] * 40)
    others = np.array([True] * 50 + [False] * 8 + [True] * 2 + [False] * 40)

    chance = by_hits(hits, others)

    # 10 images differ, 8 of them for the better: P(X >= 8) = (45 + 10 + 1) / 1024, and P(X >= 2) = 1 - (1 + 10) / 1024.
    assert chance.better == pytest.approx(56 / 1024)
    assert chance.worse == pytest.approx(1013 / 1024)


def test_two_models_that_agree_are_neither_better_nor_worse() -> None:
    same = np.array([True, False, True])
    assert by_hits(same, same) == (1.0, 1.0)
    assert by_losses(np.array([0.1, 2.0, 0.3]), np.array([0.1, 2.0, 0.3])) == (1.0, 1.0)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8))
@settings(max_examples=25, deadline=None)
def test_drawn_swaps_come_near_to_all_swaps(gains: list[float]) -> None:
    """Few enough images that all 2^N swaps can be counted."""
    array = np.array(gains)
    sums = np.array([np.dot(signs, array) for signs in product((-1, 1), repeat=len(gains))])
    exact = np.mean(sums >= array.sum() - 1e-9 * np.abs(array).sum())

    chance = by_losses(np.zeros(len(array)), array, draws=4000)

    assert chance.better == pytest.approx(exact, abs=0.04)


@pytest.mark.parametrize("count", [20, 400])
def test_equal_models_are_called_better_no_more_often_than_the_level_says(count: int) -> None:
    """200 pairs of models that differ by noise alone; 5 % of them are 10, and 20 would be a defect with p < 0.003."""
    rng = np.random.default_rng(1)
    found = [by_losses(rng.gamma(0.3, 1, count), rng.gamma(0.3, 1, count), draws=300).better <= 0.05 for _ in range(200)]
    assert sum(found) <= 20


def test_turning_the_two_around_turns_the_answer_around() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.random(60), rng.random(60) + 0.3
    assert by_losses(ours, theirs).better == pytest.approx(by_losses(theirs, ours).worse, abs=0.02)
    assert by_losses(ours, theirs).better < 0.05


def test_a_score_of_all_answers_together_is_compared_by_swapping_them() -> None:
    targets = np.tile([0.0, 1.0], 60)
    good, bad = targets[:, None] * 0.9, np.random.default_rng(0).random((120, 1))

    def score(outputs: np.ndarray) -> float:
        return -float(np.abs(outputs[:, 0] - targets).mean())

    assert by_score(score, good, bad, draws=200).better == pytest.approx(1 / 201)
    assert by_score(score, bad, good, draws=200).better == pytest.approx(1.0)
