from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics import confusion_matrix, expected_calibration_error, negative_log_likelihood, recall_per_label, score

# Four images, two labels. Confidence .9 right, .8 wrong, .6 right, .7 right.
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
LABELS = np.array([0, 1, 0, 1])


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float64 `[N, K]` whose rows sum to 1, and labels `[N]`."""
    labels, images = draw(st.integers(2, 5)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.dirichlet(np.full(labels, draw(st.sampled_from([0.1, 1.0, 5.0]))), images), rng.integers(0, labels, images)


# --- negative log-likelihood


def test_nll_is_the_mean_of_minus_the_logarithm_of_the_true_label() -> None:
    expected = -(math.log(0.9) + math.log(0.2) + math.log(0.6) + math.log(0.7)) / 4

    assert negative_log_likelihood(PROBABILITIES, LABELS) == pytest.approx(expected, rel=1e-12)


def test_nll_of_certainty_is_0_and_of_a_coin_is_ln_2() -> None:
    assert negative_log_likelihood(np.eye(3), np.arange(3)) == 0
    assert negative_log_likelihood(np.full((5, 2), 0.5), np.array([0, 1, 0, 1, 1])) == pytest.approx(math.log(2))


def test_nll_of_a_certain_miss_is_finite() -> None:
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-math.log(1e-12))


# --- calibration


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (15, (0.1 + 0.8 + 0.4 + 0.3) / 4),  # every image in a bin of its own
        (5, (0.1 + abs(0.8 + 0.7 - 1) + 0.4) / 4),  # .7 and .8 share (.6, .8]; .6 is alone in (.4, .6]
        (1, 0.0),  # mean confidence .75, accuracy .75
    ],
)
def test_ece_by_hand(bins: int, expected: float) -> None:
    assert expected_calibration_error(PROBABILITIES, LABELS, bins) == pytest.approx(expected, abs=1e-12)


def test_ece_uses_15_bins_unless_told() -> None:
    confidence = np.array([0.61, 0.66, 0.68])  # wrong, right, right
    probabilities = np.stack([confidence, 1 - confidence], axis=1)

    # A fifteenth parts (.6, .667] from (.667, .733]; a tenth would not part them, and a twentieth would part .61 from .66.
    expected = (abs(0.61 + 0.66 - 1) + abs(0.68 - 1)) / 3
    assert expected_calibration_error(probabilities, np.array([1, 0, 0])) == pytest.approx(expected)


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_lower_one() -> None:
    on_the_edge = np.array([[0.5, 0.5], [0.6, 0.4]])  # right; wrong

    # (0, .5] has a gap of .5, (.5, 1] one of .6; in one bin together they would have |1.1 - 1|.
    assert expected_calibration_error(on_the_edge, np.array([0, 1]), 2) == pytest.approx((0.5 + 0.6) / 2)


@pytest.mark.parametrize(("labels", "expected"), [([0, 1, 2], 0.0), ([1, 2, 0], 1.0)])
def test_ece_of_certainty_is_the_share_of_misses(labels: list[int], expected: float) -> None:
    assert expected_calibration_error(np.eye(3), np.array(labels)) == expected


@settings(deadline=None)
@given(scored(), st.integers(1, 20))
def test_ece_equals_the_formula_bin_by_bin(data: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    probabilities, labels = data
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels

    expected = 0.0
    for index in range(bins):
        inside = (confidence * bins > index) & (confidence * bins <= index + 1)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())

    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-9)


# --- confusion and recall


def test_confusion_has_the_actual_label_in_rows_and_the_predicted_in_columns() -> None:
    matrix = confusion_matrix(np.array([0, 1, 1, 2, 1]), np.array([0, 0, 0, 1, 1]), 3)

    assert matrix.tolist() == [[1, 2, 0], [0, 1, 1], [0, 0, 0]]
    assert matrix.dtype == np.int64


def test_confusion_of_no_images_is_all_zero() -> None:
    assert confusion_matrix(np.array([], dtype=int), np.array([], dtype=int), 2).tolist() == [[0, 0], [0, 0]]


def test_confusion_of_small_integers_does_not_overflow() -> None:
    labels = np.array([199], dtype=np.uint8)

    assert confusion_matrix(labels, labels, 200)[199, 199] == 1


@settings(deadline=None)
@given(scored())
def test_confusion_equals_counting_one_by_one(data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = data
    predicted, num_labels = probabilities.argmax(axis=1), probabilities.shape[1]

    expected = np.zeros((num_labels, num_labels), dtype=int)
    for actual, guess in zip(labels, predicted, strict=True):
        expected[actual, guess] += 1

    assert np.array_equal(confusion_matrix(predicted, labels, num_labels), expected)


def test_recall_is_the_share_of_each_label_and_nan_for_a_label_without_images() -> None:
    recall = recall_per_label(np.array([0, 1, 1, 2]), np.array([0, 0, 0, 1]), 4)

    assert recall[:2].tolist() == [pytest.approx(1 / 3), 0.0]
    assert np.isnan(recall).tolist() == [False, False, True, True]


# --- all together


def test_score_by_hand() -> None:
    got = score(PROBABILITIES, LABELS)

    assert (got.images, got.accuracy, got.macro_recall) == (4, 0.75, 0.75)
    assert got.nll == pytest.approx(negative_log_likelihood(PROBABILITIES, LABELS))
    assert got.ece == pytest.approx(0.4)


def test_macro_recall_weighs_labels_alike_and_leaves_out_the_ones_without_images() -> None:
    certain = np.eye(3)[[0, 0, 0, 0, 0]]  # everything is said to be label 0

    got = score(certain, np.array([0, 0, 0, 0, 1]))

    assert got.accuracy == 0.8
    assert got.macro_recall == 0.5


@settings(deadline=None)
@given(scored())
def test_score_of_anything_is_a_valid_block_of_the_manifest(data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = data

    got = score(probabilities, labels)

    assert got.images == len(labels)
    assert got.accuracy == np.mean(probabilities.argmax(axis=1) == labels)
    assert 0 <= got.ece <= 1
