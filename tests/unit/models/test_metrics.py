from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import MultiLabelMetrics, RegressionMetrics
from models.metrics import (
    average_precision,
    binary_cross_entropy,
    confusion_matrix,
    expected_calibration_error,
    f1_per_label,
    negative_log_likelihood,
    recall_per_label,
    score,
    score_task,
)

if TYPE_CHECKING:
    from models.recipe import Task

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


def test_score_of_the_task_single_label_is_score() -> None:
    assert score_task("single_label", PROBABILITIES, LABELS) == score(PROBABILITIES, LABELS)


# --- several labels an image

# 12 images, 3 labels; what scikit-learn 1.9.1 says of them: average_precision_score and f1_score at 0.5.
P = np.array(
    [
        [0.63, 0.23, 0.01, 0.47, 0.25, 0.55, 0.62, 0.16, 0.04, 0.92, 0.5, 0.19],
        [0.9, 0.3, 0.82, 0.3, 0.45, 1.0, 0.99, 0.61, 0.51, 0.63, 0.25, 0.69],
        [0.78, 0.87, 0.8, 0.28, 0.5, 0.79, 0.22, 0.04, 0.47, 0.51, 0.01, 0.2],
    ]
).T
T = np.array([[1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1]]).T
AVERAGE_PRECISION = [0.7759259259259259, 0.7348484848484848, 0.4083333333333333]
F1 = [0.5454545454545454, 0.42857142857142855, 0.6]


@st.composite
def tagged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float64 `[N, K]`, often equal ones, and targets float32 `[N, K]` of 0 and 1."""
    labels, images = draw(st.integers(1, 4)), draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = rng.random((images, labels)).round(draw(st.sampled_from([1, 2, 15])))
    return probabilities, (rng.random((images, labels)) < draw(st.sampled_from([0.05, 0.3, 0.9]))).astype(np.float32)


def brute_average_precision(probability: np.ndarray, target: np.ndarray) -> float:
    """Threshold by threshold, from the definition."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(probability), reverse=True):
        said = probability >= threshold
        found = (target[said] > 0).sum()
        recall = found / (target > 0).sum()
        total += (recall - recall_before) * found / said.sum()
        recall_before = recall
    return total


def test_average_precision_and_f1_are_scikit_learns() -> None:
    assert average_precision(P, T) == pytest.approx(AVERAGE_PRECISION, abs=1e-12)
    assert f1_per_label(P >= 0.5, T) == pytest.approx(F1, abs=1e-12)


def test_average_precision_by_hand() -> None:
    # found at ranks 1, 3 and 5: precision 1, 2/3, 3/5
    descending = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]])
    assert average_precision(descending, np.array([[1], [0], [1], [0], [1]])) == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])
    # equal ones are taken in together, whichever stands first: after 2 of them, 1 of 2 found, precision 1/2
    assert average_precision(np.array([[0.5], [0.5]]), np.array([[1], [0]])) == [0.5]
    assert average_precision(np.array([[0.5], [0.5]]), np.array([[0], [1]])) == [0.5]


@settings(deadline=None)
@given(tagged())
def test_average_precision_and_f1_equal_the_definition_and_are_nan_where_no_image_has_the_label(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    probabilities, targets = data
    precision, f1 = average_precision(probabilities, targets), f1_per_label(probabilities >= 0.5, targets)

    for label in range(targets.shape[1]):
        p, t = probabilities[:, label], targets[:, label]
        if not t.any():
            assert np.isnan(precision[label])
            assert np.isnan(f1[label])
            continue
        assert precision[label] == pytest.approx(brute_average_precision(p, t), abs=1e-12)
        hits, misses, missed = ((p >= 0.5) & (t > 0)).sum(), ((p >= 0.5) & (t == 0)).sum(), ((p < 0.5) & (t > 0)).sum()
        assert f1[label] == pytest.approx(2 * hits / (2 * hits + misses + missed))


@settings(deadline=None)
@given(tagged(), st.randoms(use_true_random=False))
def test_average_precision_depends_on_order_alone(data: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    probabilities, targets = data
    before = average_precision(probabilities, targets)
    shuffled = random.sample(range(len(targets)), len(targets))

    np.testing.assert_allclose(average_precision(probabilities[shuffled], targets[shuffled]), before, atol=1e-12)
    ranks = np.unique(probabilities, return_inverse=True)[1].reshape(probabilities.shape)
    assert np.array_equal(average_precision(ranks, targets), before, equal_nan=True)
    # what is ranked perfectly has 1
    perfect = average_precision(targets + probabilities / 10, targets)
    assert perfect[targets.any(axis=0)] == pytest.approx(1)


def test_binary_cross_entropy_is_the_mean_over_images_and_labels() -> None:
    expected = -(math.log(0.9) + math.log(0.6) + math.log(0.2) + math.log(0.5)) / 4

    assert binary_cross_entropy(np.array([[0.9, 0.4], [0.2, 0.5]]), np.array([[1, 0], [1, 1]])) == pytest.approx(expected)


@pytest.mark.parametrize(("probability", "target"), [(1.0, 0.0), (0.0, 1.0)])
def test_binary_cross_entropy_of_a_certain_miss_is_finite(probability: float, target: float) -> None:
    assert binary_cross_entropy(np.array([[probability]]), np.array([[target]])) == pytest.approx(-math.log(1e-12))


def test_score_of_several_labels_by_hand() -> None:
    probabilities = np.array([[0.9, 0.2], [0.6, 0.4], [0.1, 0.7], [0.2, 0.3]])
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 0]], dtype=np.float32)

    got = score_task("multi_label", probabilities, targets)

    assert isinstance(got, MultiLabelMetrics)
    assert got.images == 4
    # the first label is found at rank 1, the second at ranks 1 and 2
    assert got.mean_average_precision == pytest.approx((1 + (1 + 1) / 2) / 2)
    # the first label: 1 found, 1 wrong; the second: 1 found, 1 missed
    assert got.macro_f1 == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert got.exact_match == 0.75
    assert got.nll == pytest.approx(binary_cross_entropy(probabilities, targets))
    # eight statements in bins of a fifteenth: .9 true | .2 .2 false | .6 false | .4 true | .1 false | .7 true | .3 false
    assert got.ece == pytest.approx((0.1 + 0.4 + 0.6 + 0.6 + 0.1 + 0.3 + 0.3) / 8)


def test_thresholds_in_the_labels_order_decide_f1_and_exact_match_and_nothing_else() -> None:
    probabilities = np.array([[0.9, 0.2], [0.6, 0.4], [0.1, 0.7], [0.2, 0.3]])
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 0]], dtype=np.float32)
    half = score_task("multi_label", probabilities, targets)

    # at the threshold is over it
    better = score_task("multi_label", probabilities, targets, np.array([0.7, 0.4]))

    assert (better.macro_f1, better.exact_match) == (1.0, 1.0)
    unchanged = {"macro_f1": half.macro_f1, "exact_match": half.exact_match}
    assert better.model_copy(update=unchanged) == half


def test_labels_that_no_image_has_are_left_out_of_the_means_and_without_any_they_are_0() -> None:
    probabilities, targets = np.array([[0.9, 0.9], [0.1, 0.1]]), np.array([[1.0, 0.0], [0.0, 0.0]])

    one = score_task("multi_label", probabilities, targets)
    none = score_task("multi_label", probabilities, np.zeros((2, 2)))

    assert (one.mean_average_precision, one.macro_f1, one.exact_match) == (1.0, 1.0, 0.5)
    assert (none.mean_average_precision, none.macro_f1) == (0.0, 0.0)


def test_certainty_that_is_right_has_no_calibration_error_and_certainty_that_is_wrong_has_all_of_it() -> None:
    targets = np.array([[1.0, 0.0], [0.0, 1.0]])

    assert score_task("multi_label", targets, targets).ece == 0
    assert score_task("multi_label", 1 - targets, targets).ece == 1


@settings(deadline=None)
@given(tagged())
def test_score_of_any_labels_is_a_valid_block_of_the_manifest(data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = data

    got = score_task("multi_label", probabilities, targets)

    assert got.images == len(targets)
    assert got.exact_match == np.mean([list(p >= 0.5) == list(t > 0) for p, t in zip(probabilities, targets, strict=True)])


# --- a number an image

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


def column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def test_score_of_values_by_hand() -> None:
    got = score_task("regression", column([1, 2, 4, 9]), column([1, 3, 5, 7]))

    assert isinstance(got, RegressionMetrics)
    # errors 0, -1, -1, 2; the mean of the targets is 4, and their squares about it are 9 + 1 + 1 + 9
    assert (got.images, got.mae) == (4, 1.0)
    assert got.rmse == pytest.approx(math.sqrt(6 / 4))
    assert got.r2 == pytest.approx(1 - 6 / 20)


@settings(deadline=None)
@given(VALUES)
def test_r2_of_the_mean_is_0_and_of_the_truth_1(targets: list[float]) -> None:
    truth = column(targets).astype(np.float64)

    assert score_task("regression", truth, truth).r2 == 1
    mean = score_task("regression", np.full_like(truth, truth.mean()), truth)
    if len(set(truth[:, 0])) > 1:
        assert mean.r2 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("target", [0.0, 0.1, 180.0])
@pytest.mark.parametrize(("error", "r2"), [(0.0, 1.0), (0.5, 0.0), (1e6, 0.0)])
def test_r2_of_equal_targets_is_1_if_all_are_met_exactly_else_0(target: float, error: float, r2: float) -> None:
    """0.1 three times has a mean that is not 0.1: the rounding must not become a variance."""
    targets = np.full((3, 1), target)

    assert score_task("regression", targets + np.array([[0], [0], [error]]), targets).r2 == r2


@settings(deadline=None)
@given(VALUES, st.integers(0, 2**32 - 1))
def test_score_of_any_values_is_a_valid_block_of_the_manifest(targets: list[float], seed: int) -> None:
    truth = column(targets)
    values = truth + np.random.default_rng(seed).normal(size=truth.shape) * 10

    got = score_task("regression", values, truth)

    assert got.images == len(targets)
    assert got.mae <= got.rmse * (1 + 1e-9)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_targets_of_another_shape_are_refused_and_not_stretched(task: Task) -> None:
    with pytest.raises(ValueError, match=rf"^outputs are \(3, 1\) and targets \(3,\); {task} expects one shape$"):
        score_task(task, np.zeros((3, 1)), np.zeros(3))
