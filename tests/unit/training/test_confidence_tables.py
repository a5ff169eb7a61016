"""What is counted on test: every image once, and with the interval that belongs to it."""

from __future__ import annotations

import numpy as np
import pytest

from training.confidence.tables import counted, expected_accuracy, histogram, known_confusions, percentiles, precision

LABELS = ("heron", "kite", "owl")
ACTUAL = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0, 0, 2, 2, 1])


def test_expected_accuracy_counts_every_image_in_the_bin_that_the_service_will_look_in() -> None:
    p_max = np.array([0.1, 0.3, 0.30000000000000004, 0.7, 0.95, 1.0, 1.0])
    correct = np.array([True, False, True, True, False, True, True])
    bins = expected_accuracy(p_max, correct)
    assert [(one.low, one.high) for one in bins] == [(index / 10, (index + 1) / 10) for index in range(10)]
    counts = [(one.right.count, one.right.of) if one.right else (0, 0) for one in bins]
    assert counts == [(1, 1), (0, 0), (0, 1), (1, 1), (0, 0), (0, 0), (1, 1), (0, 0), (0, 0), (2, 3)]


def test_counted_share_has_its_exact_interval() -> None:
    # Clopper and Pearson: 10 of 10 is at least 0.025^(1/10)
    found = counted(10, 10)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025**0.1, abs=1e-6)
    assert counted(0, 0) is None


def test_precision_is_of_what_a_label_was_given_to_and_missing_where_it_was_given_to_nothing() -> None:
    found = precision(PREDICTED, ACTUAL, LABELS)
    assert {label: (share.count, share.of) for label, share in found.items()} == {"heron": (2, 5), "kite": (1, 3), "owl": (2, 2)}
    assert precision(np.zeros(10, dtype=int), ACTUAL, LABELS).keys() == {"heron"}


def test_known_confusion_is_the_largest_that_happened_twice() -> None:
    (found,) = known_confusions(PREDICTED, ACTUAL, LABELS)
    assert (found.actual, found.predicted, found.count, found.share_of_predicted) == ("kite", "heron", 3, 0.6)
    assert known_confusions(ACTUAL, ACTUAL, LABELS) == ()


def test_percentiles_are_of_right_answers_alone() -> None:
    found = percentiles(np.linspace(0.1, 1, 10), PREDICTED, PREDICTED == ACTUAL, 4)
    assert found.shape == (4, 101)
    assert found[0, [0, 50, 100]] == pytest.approx([0.1, 0.15, 0.2])
    assert found[1] == pytest.approx(np.full(101, 0.4))
    assert np.isnan(found[3]).all()


def test_histogram_is_of_shares() -> None:
    found = histogram(np.array([0.0, 0.01, 0.5, 1.0]))
    assert len(found) == 20
    assert (found[0], found[10], found[19], sum(found)) == (0.5, 0.25, 0.25, 1.0)
    assert histogram(np.empty(0)) == ()
