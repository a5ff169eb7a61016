from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decision import activate, in_order, largest_difference, probabilities, rank_labels, ranked, unit_of_difference

if TYPE_CHECKING:
    from models.recipe import Task

# Hundredths, so that no two logits differ by less than any temperature can still tell apart.
LOGIT = st.integers(-5000, 5000).map(lambda hundredths: hundredths / 100)
TEMPERATURE = st.floats(0.05, 20)


@st.composite
def logit_rows(draw: st.DrawFn) -> np.ndarray:
    """float32 `[N, K]`, N from 1 to 4 and K from 2 to 6."""
    labels = draw(st.integers(2, 6))
    row = st.lists(LOGIT, min_size=labels, max_size=labels)
    return np.array(draw(st.lists(row, min_size=1, max_size=4)), dtype=np.float32)


# --- probabilities


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE)
def test_each_row_of_probabilities_is_positive_and_sums_to_1(logits: np.ndarray, temperature: float) -> None:
    got = probabilities(logits, temperature)

    assert got.dtype == np.float64
    assert got.shape == logits.shape
    assert (got >= 0).all()
    assert np.abs(got.sum(axis=1) - 1).max() <= 1e-12


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE, TEMPERATURE)
def test_the_most_probable_label_does_not_depend_on_temperature(logits: np.ndarray, one: float, other: float) -> None:
    assert np.array_equal(probabilities(logits, one).argmax(axis=1), logits.argmax(axis=1))
    assert np.array_equal(probabilities(logits, one).argmax(axis=1), probabilities(logits, other).argmax(axis=1))


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE, st.integers(-1000, 1000))
def test_a_constant_added_to_all_logits_of_a_row_changes_nothing(logits: np.ndarray, temperature: float, constant: int) -> None:
    exact = logits.astype(np.float64)

    assert np.allclose(probabilities(exact + constant, temperature), probabilities(exact, temperature), rtol=0, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE)
def test_a_row_alone_gives_what_it_gives_in_a_batch(logits: np.ndarray, temperature: float) -> None:
    batch = probabilities(logits, temperature)

    for index, row in enumerate(logits):
        assert np.allclose(probabilities(row, temperature), batch[index], rtol=0, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE, st.floats(1.01, 4))
def test_a_higher_temperature_is_never_more_confident(logits: np.ndarray, temperature: float, factor: float) -> None:
    cool, warm = probabilities(logits, temperature), probabilities(logits, temperature * factor)

    assert (warm.max(axis=1) <= cool.max(axis=1) + 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE)
def test_a_temperature_is_a_division_of_the_logits(logits: np.ndarray, temperature: float) -> None:
    divided = logits.astype(np.float64) / temperature

    assert np.array_equal(probabilities(logits, temperature), probabilities(divided, 1.0))


@pytest.mark.parametrize(
    ("logits", "temperature", "expected"),
    [
        ([0.0, 0.0], 1.0, [0.5, 0.5]),
        ([math.log(3), 0.0], 1.0, [0.75, 0.25]),
        ([math.log(9), 0.0], 2.0, [0.75, 0.25]),
        ([math.log(3), 0.0], 0.5, [0.9, 0.1]),
        ([0.0, math.log(2), math.log(5)], 1.0, [1 / 8, 2 / 8, 5 / 8]),
    ],
)
def test_probabilities_computed_by_hand(logits: list[float], temperature: float, expected: list[float]) -> None:
    assert probabilities(np.array(logits), temperature) == pytest.approx(expected, abs=1e-12)


def test_logits_that_would_overflow_an_exponential_are_handled() -> None:
    got = probabilities(np.array([[1e4, -1e4, 0.0], [-3e38, 3e38, 0.0]], dtype=np.float32), 1.0)

    assert np.array_equal(got, [[1, 0, 0], [0, 1, 0]])


def test_logits_are_not_modified() -> None:
    logits = np.array([[1.0, 2.0], [3.0, 1.0]])

    probabilities(logits, 1.0)

    assert np.array_equal(logits, [[1.0, 2.0], [3.0, 1.0]])


@pytest.mark.parametrize("temperature", [0.0, -1.5, float("nan"), float("-inf")])
def test_a_temperature_that_is_not_positive_is_refused_with_itself(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"^temperature is {temperature}, expected a positive number$"):
        probabilities(np.array([1.0, 2.0]), temperature)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^a logit is not finite \(NaN or infinity\); the model's output cannot be used$"):
        probabilities(np.array([[1.0, 2.0], [bad, 1.0]], dtype=np.float32), 1.0)


# --- activation by task


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE)
def test_the_activation_of_a_single_label_is_the_softmax(logits: np.ndarray, temperature: float) -> None:
    assert np.array_equal(activate(logits, "single_label", temperature), probabilities(logits, temperature))


@settings(max_examples=50, deadline=None)
@given(logit_rows(), TEMPERATURE)
def test_a_sigmoid_is_the_softmax_against_0(logits: np.ndarray, temperature: float) -> None:
    got = activate(logits, "multi_label", temperature)

    pairs = np.stack([logits, np.zeros_like(logits)], axis=-1)
    assert got.dtype == np.float64
    assert np.allclose(got, probabilities(pairs, temperature)[..., 0], rtol=1e-12, atol=0)
    assert np.allclose(activate(-logits, "multi_label", temperature), 1 - got, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("logit", "temperature", "expected"),
    [(0.0, 3.0, 0.5), (math.log(3), 1.0, 0.75), (-math.log(3), 1.0, 0.25), (math.log(9), 2.0, 0.75), (1e4, 1, 1), (-1e4, 1, 0)],
)
def test_sigmoids_computed_by_hand(logit: float, temperature: float, expected: float) -> None:
    assert activate(np.array([[logit]]), "multi_label", temperature) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(logit_rows())
def test_a_number_is_left_as_it_is_in_float64(values: np.ndarray) -> None:
    before = values.copy()
    got = activate(values, "regression", 1.0)

    got += 1
    assert got.dtype == np.float64
    assert np.array_equal(values, before)
    assert np.array_equal(got - 1, before)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_task_answers_what_is_not_finite(task: Task, bad: float) -> None:
    with pytest.raises(ValueError, match=r"^a logit is not finite"):
        activate(np.array([1.0, bad], dtype=np.float32), task, 1.0)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_no_task_takes_a_temperature_that_is_not_positive(task: Task) -> None:
    with pytest.raises(ValueError, match="^temperature is 0, expected a positive number$"):
        activate(np.array([1.0, 2.0]), task, 0)


def test_thresholds_are_a_row_in_the_labels_order_and_none_may_be_missing() -> None:
    thresholds = {"ant": 0.1, "bee": 0.2, "cat": 0.3}

    assert in_order(thresholds, ("cat", "ant")).tolist() == [0.3, 0.1]
    with pytest.raises(KeyError, match="dog"):
        in_order(thresholds, ("cat", "dog"))


# --- ranking


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), min_size=1, max_size=8), st.integers(0, 10))
def test_ranked_is_by_value_and_then_by_the_order_of_the_labels(row: list[float], top_k: int) -> None:
    expected = sorted(range(len(row)), key=lambda index: (-row[index], index))[:top_k]

    got = ranked(np.array(row), top_k)

    assert got == expected
    assert all(type(index) is int for index in got)


def test_rank_labels_pairs_each_label_with_its_probability_as_a_plain_float() -> None:
    got = rank_labels(np.array([0.2, 0.5, 0.3], dtype=np.float32), ("bee", "cat", "dog"), 2)

    assert got == [("cat", 0.5), ("dog", pytest.approx(0.3))]
    assert all(type(value) is float for _, value in got)


def test_rank_labels_with_more_asked_for_than_there_are_gives_all() -> None:
    assert [label for label, _ in rank_labels(np.array([0.25, 0.75]), ("a", "b"), 5)] == ["b", "a"]


# --- comparison


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1.0, 2.0], [1.0, 2.0], 0.0), ([1.0, 2.0], [1.25, 1.0], 1.0), ([-3.0, 0.0], [3.0, 0.0], 6.0), ([], [], 0.0)],
)
def test_largest_difference_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert largest_difference(np.array(a), np.array(b)) == expected
    assert largest_difference(np.array(b), np.array(a)) == expected


def test_largest_difference_of_float32_is_taken_in_float64() -> None:
    assert largest_difference(np.array([1e-8], dtype=np.float32), np.array([1.0])) == pytest.approx(1 - 1e-8, abs=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_largest_difference_is_infinite_where_one_is_not_finite(bad: float) -> None:
    assert largest_difference(np.array([0.0, bad]), np.array([0.0, 0.0])) == math.inf
    assert largest_difference(np.array([0.0, 0.0]), np.array([0.0, bad])) == math.inf


def test_largest_difference_of_two_equal_infinities_is_infinite_without_a_warning() -> None:
    assert largest_difference(np.array([np.inf]), np.array([np.inf])) == math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[-40.0], [10.0], [60.0]], 100.0),
        ([[2001.0], [2003.0]], 20.03),  # hardly apart: a hundredth of the largest
        ([[-7.0]], 0.07),
        ([[0.0], [0.0]], 0.0),
    ],
)
def test_a_difference_between_numbers_is_measured_in_their_spread(values: list[list[float]], expected: float) -> None:
    assert unit_of_difference(np.array(values, dtype=np.float32), "regression") == pytest.approx(expected)
    assert unit_of_difference(np.array(values, dtype=np.float32), "multi_label") == 1
    assert unit_of_difference(np.array(values, dtype=np.float32), "single_label") == 1
