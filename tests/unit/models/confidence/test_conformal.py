from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.confidence.conformal import Conformal, coverage, is_too_few, is_within, p_value
from models.decision import probabilities
from models.intervals import covered_by_chance

K = 4


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is too sure, and labels that follow better ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, K)) * 2
    labels = np.array([rng.choice(K, p=row) for row in probabilities(logits, 1.0)])
    return probabilities(logits, 0.5), labels


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_sets_hold_the_true_label_as_often_as_they_say_though_the_probabilities_are_wrong(level: float) -> None:
    shares = []
    for seed in range(20):
        known, labels = drawn(400, seed)
        new, truth = drawn(300, 1000 + seed)
        conformal = Conformal.fit(known, labels)
        shares.append(coverage([conformal.prediction_set(row, level) for row in new], truth))
    low, high = covered_by_chance(400 * 20, 300 * 20, level)
    # The first label is always in, which only adds; and each label's rank is rounded up.
    assert low <= np.mean(shares) <= high + 0.02


def test_each_label_is_covered_and_not_only_the_average() -> None:
    rng = np.random.default_rng(0)

    def hard_and_easy(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 2, count)
        right = np.where(labels == 0, rng.uniform(0.9, 1.0, count), rng.uniform(0.0, 1.0, count))
        return np.where(labels[:, None] == np.arange(2), right[:, None], 1 - right[:, None]), labels

    conformal = Conformal.fit(*hard_and_easy(2000))
    new, labels = hard_and_easy(4000)
    sets = [conformal.prediction_set(row, 0.9) for row in new]
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        assert coverage([sets[row] for row in rows], labels[rows]) >= 0.87
    hard = new[labels == 1, 1]
    # By the scores of all labels the hard one would be left out far more often than promised.
    assert np.mean([is_within(conformal.of_all, 1 - p, 0.9) for p in hard]) < 0.85


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0, 1), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_a_label_is_in_the_set_exactly_where_its_p_value_is_over_one_less_the_level(
    scores: list[float], score: float, level: float
) -> None:
    known = np.sort(np.array(scores, dtype=np.float64))
    assert is_within(known, score, level) == (p_value(known, score) > 1 - level + 1e-9)


@pytest.mark.parametrize(("level", "fewest"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_so_many_scores_are_needed_before_one_bounds_anything(level: float, fewest: int) -> None:
    assert is_too_few(fewest - 1, level)
    assert not is_too_few(fewest, level)


@pytest.mark.parametrize("count", range(21))
def test_a_label_with_few_images_is_judged_by_all_and_says_so(count: int) -> None:
    rng = np.random.default_rng(count)
    labels = np.array([0] * count + [1] * 200)
    known = np.column_stack([rng.uniform(0.2, 0.8, len(labels))] * 2)
    known[:, 1] = 1 - known[:, 0]
    found = Conformal.fit(known, labels).prediction_set(np.array([0.5, 0.5]), 0.95)
    assert found.labels == (0, 1)
    assert (0 in found.pooled) == (count < 19)
    assert 1 not in found.pooled


def test_without_any_score_nothing_can_be_ruled_out() -> None:
    nothing = Conformal.fit(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    found = nothing.prediction_set(np.array([1.0, 0.0, 0.0]), 0.5)
    assert found.labels == found.pooled == (0, 1, 2)
    assert [nothing.p_value(np.array([1.0, 0.0, 0.0]), label) for label in range(3)] == [None] * 3


def test_p_value_is_the_share_of_that_labels_images_that_are_no_more_like_it() -> None:
    known = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    conformal = Conformal.fit(known, np.array([0, 0, 0, 1, 1]))
    # itself and, of three, those that are at most as probable
    for probable, share in ((0.95, 1.0), (0.9, 1.0), (0.7, 3 / 4), (0.6, 3 / 4), (0.5, 1 / 4)):
        assert conformal.p_value(np.array([probable, 1 - probable]), 0) == share


def test_a_perfect_model_has_sets_of_one_label_and_never_an_empty_one() -> None:
    conformal = Conformal.fit(np.eye(3)[np.repeat(np.arange(3), 50)], np.repeat(np.arange(3), 50))
    assert conformal.prediction_set(np.array([0.0, 1.0, 0.0]), 0.9).labels == (1,)
    # Less sure than it ever was: no label is like its images, and the first stands all the same.
    assert conformal.prediction_set(np.array([0.2, 0.5, 0.3]), 0.9).labels == (1,)


@pytest.mark.parametrize("level", [5e-324, 1e-12, 1e-3])
def test_a_level_of_next_to_nothing_takes_the_smallest_score_and_is_no_error(level: float) -> None:
    known = np.array([0.1, 0.4, 0.9])
    assert is_within(known, 0.1, level)
    assert not is_within(known, 0.4, level)
    assert is_within(np.zeros(0), 0.4, level)
