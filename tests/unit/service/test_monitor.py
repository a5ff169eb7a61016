"""What is counted without labels, and when nothing is said because it would be wrong."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from models.confidence.schema import Reference
from service.metrics import Metrics
from service.monitor import LEAST, WINDOW, Monitor

# Half of the usual probabilities are between 0.5 and 0.75, half over 0.75.
REFERENCE = Reference(p_max=(0.0, 0.0, 0.5, 0.5), p_familiar=(1.0,))


def make(reference: Reference | None = REFERENCE) -> tuple[Monitor, Metrics]:
    metrics = Metrics()
    monitor = Monitor("birds", reference, 0.9, metrics)
    monitor.show()
    return monitor, metrics


def value(metrics: Metrics, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert found is not None, series
    return float(found[1])


def test_every_series_is_there_before_the_first_answer() -> None:
    _, metrics = make()
    for verdict in ("familiar", "unusual", "unknown"):
        assert value(metrics, f'candor_familiarity_total{{model="birds",verdict="{verdict}"}}') == 0
    for action in ("accept", "review", "reject"):
        assert value(metrics, f'candor_decisions_total{{action="{action}",model="birds"}}') == 0
    assert value(metrics, 'candor_prediction_set_size_count{model="birds"}') == 0
    assert math.isnan(value(metrics, 'candor_estimated_accuracy_ratio{model="birds"}'))
    assert math.isnan(value(metrics, 'candor_drift_ks_ratio{model="birds"}'))


def test_answers_are_counted_by_verdict_and_action() -> None:
    monitor, metrics = make()
    monitor.answered(0.93, 0.97, "familiar", "accept")
    monitor.answered(0.93, 0.6, "unusual", "review")
    monitor.answered(0.55, None, "unknown", "reject")
    assert value(metrics, 'candor_familiarity_total{model="birds",verdict="unusual"}') == 1
    assert value(metrics, 'candor_decisions_total{action="reject",model="birds"}') == 1
    assert value(metrics, 'candor_confidence_ratio_bucket{le="0.9",model="birds"}') == 1
    assert value(metrics, 'candor_confidence_ratio_count{model="birds"}') == 3
    # what is like nothing known has no probability to be right
    assert value(metrics, 'candor_p_correct_ratio_count{model="birds"}') == 2


def test_other_tasks_count_without_a_probability() -> None:
    monitor, metrics = make()
    for _ in range(LEAST):
        monitor.answered(None, None, "familiar", "review")
    assert value(metrics, 'candor_decisions_total{action="review",model="birds"}') == LEAST
    assert value(metrics, 'candor_confidence_ratio_count{model="birds"}') == 0
    assert math.isnan(monitor.estimated_accuracy())
    assert math.isnan(monitor.drift())


def test_accuracy_is_estimated_from_a_hundred_answers_on() -> None:
    monitor, metrics = make()
    for number in range(LEAST):
        assert math.isnan(monitor.estimated_accuracy())
        monitor.answered(0.9, 0.8 if number % 2 else 0.9, "familiar", "review")
    assert value(metrics, 'candor_estimated_accuracy_ratio{model="birds"}') == pytest.approx(0.85)


@pytest.mark.parametrize(("strange", "is_shown"), [(14, True), (15, False)])
def test_accuracy_is_not_estimated_where_too_many_images_are_strange(strange: int, is_shown: bool) -> None:
    monitor, _ = make()
    for number in range(LEAST):
        monitor.answered(0.9, 0.8, "unusual" if number < strange else "familiar", "review")
    assert math.isnan(monitor.estimated_accuracy()) is not is_shown


def test_accuracy_is_not_estimated_where_nobody_knows_what_is_strange() -> None:
    monitor, _ = make()
    for _ in range(LEAST):
        monitor.answered(0.9, 0.8, None, "review")
    assert math.isnan(monitor.estimated_accuracy())


def test_old_answers_leave_the_window() -> None:
    monitor, _ = make()
    for p_correct in (0.2, 0.9):
        for _ in range(WINDOW):
            monitor.answered(0.9, p_correct, "familiar", "review")
    assert monitor.estimated_accuracy() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("p_max", "distance"), [((0.6, 0.9), 0.0), ((0.9, 0.9), 0.5), ((0.6, 0.6), 0.5), ((0.1, 0.1), 1.0), ((1.0, 0.6), 0.0)]
)
def test_drift_is_the_largest_distance_of_the_two_distributions(p_max: tuple[float, float], distance: float) -> None:
    monitor, metrics = make()
    for number in range(LEAST):
        monitor.answered(p_max[number % 2], 0.9, "familiar", "review")
    assert value(metrics, 'candor_drift_ks_ratio{model="birds"}') == pytest.approx(distance)


def test_the_usual_does_not_drift_and_the_unusual_does() -> None:
    rng = np.random.default_rng(0)
    usual = rng.beta(8, 2, 4000)
    shares = np.histogram(usual, bins=20, range=(0, 1))[0] / len(usual)
    reference = Reference(p_max=tuple(shares.tolist()), p_familiar=(1.0,))
    same, other = make(reference)[0], make(reference)[0]
    for p in rng.beta(8, 2, WINDOW):
        same.answered(float(p), 0.9, "familiar", "review")
    for p in rng.beta(4, 3, WINDOW):
        other.answered(float(p), 0.9, "familiar", "review")
    assert same.drift() < 0.06
    assert other.drift() > 0.3


def test_there_is_no_drift_without_a_reference() -> None:
    monitor, _ = make(None)
    for _ in range(LEAST):
        monitor.answered(0.9, 0.9, "familiar", "review")
    assert math.isnan(monitor.drift())


def test_gauges_are_of_the_version_that_answers_and_go_with_the_name() -> None:
    metrics = Metrics()
    old, new = (Monitor("birds", REFERENCE, accuracy, metrics) for accuracy in (0.8, None))
    old.show()
    assert value(metrics, 'candor_published_accuracy_ratio{model="birds"}') == 0.8
    new.show()
    assert math.isnan(value(metrics, 'candor_published_accuracy_ratio{model="birds"}'))
    for _ in range(LEAST):
        old.answered(0.9, 0.5, "familiar", "review")
        new.answered(0.9, 0.8, "familiar", "review")
    assert value(metrics, 'candor_estimated_accuracy_ratio{model="birds"}') == pytest.approx(0.8)
    new.hide()
    assert 'candor_estimated_accuracy_ratio{model="birds"}' not in metrics.render().decode()
    assert 'candor_drift_ks_ratio{model="birds"}' not in metrics.render().decode()
    assert 'candor_published_accuracy_ratio{model="birds"}' not in metrics.render().decode()
