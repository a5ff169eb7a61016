"""The self-tests of a version: they pass for one that keeps its promises, nearly always, and fail for one that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.confidence.judge import Judge
from models.confidence.schema import Acceptance, Confidence, SelfTest, Temperature
from models.intervals import beta_binomial
from tests.support.world import LABELS, answers, tried
from training.confidence import promises
from training.confidence.coverage import held_scores, joined
from training.confidence.promises import Calibrated, Tried
from training.confidence.tables import counted


@pytest.fixture(scope="module")
def honest() -> Tried:
    return tried(answers(240, 0), answers(240, 1), answers(600, 2))


def passed(test: SelfTest | None) -> bool:
    assert test is not None
    return test.passed


def test_every_promise_that_there_is_was_tested_and_kept(honest: Tried) -> None:
    found = [promises.covered(honest), promises.covered_labels(honest), promises.false_alarms(honest), promises.unrelated(honest)]
    assert [test.name for test in found if test is not None] == [
        "coverage",
        "coverage of each label",
        "false alarms",
        "unrelated images",
    ]
    assert all(passed(test) for test in found), found


def test_coverage_of_an_honest_version_fails_hardly_ever() -> None:
    """Calibration and test images drawn 300 times from one world."""
    kept = {0.8: 0, 0.9: 0, 0.95: 0}
    for draw in range(300):
        rng = np.random.default_rng(draw)
        for level in kept:
            parts = [held_scores("", np.sort(rng.random(30)), rng.random(40), level) for _ in range(10)]
            kept[level] += joined("", parts).is_kept()
    assert all(count >= 290 for count in kept.values())


def test_probable_counts_are_those_that_occur() -> None:
    """Scores and new images drawn 20,000 times: how often so many are covered."""
    rng = np.random.default_rng(0)
    known = np.sort(rng.random((20_000, 19)), axis=1)
    covered = (rng.random((20_000, 12)) <= known[:, 17:18]).sum(axis=1)
    assert np.bincount(covered, minlength=13) / 20_000 == pytest.approx(beta_binomial(19, 12, 0.9), abs=0.01)
    assert beta_binomial(19, 12, 0.9).sum() == pytest.approx(1)


def test_coverage_fails_where_test_images_are_not_like_calibration_images(honest: Tried) -> None:
    shifted = tried(answers(240, 0), answers(240, 1), answers(600, 2, noise=5.0))
    assert not passed(promises.covered(shifted))


def test_one_label_that_lost_its_coverage_is_named() -> None:
    test = answers(600, 2)
    swapped = np.where(test.targets == 4, 5, np.where(test.targets == 5, 4, test.targets))
    found = promises.covered_labels(tried(answers(240, 0), answers(240, 1), replace(test, targets=swapped)))
    assert found is not None
    assert not found.passed
    assert "label 4" in found.found


def test_labels_that_calibration_has_too_few_images_of_are_promised_nothing() -> None:
    few = tried(answers(240, 0), answers(3 * LABELS, 1), answers(300, 2))
    assert promises.covered_labels(few) is None
    found = promises.covered(few)
    assert found is not None
    assert "0.80" in found.found
    assert "0.95" not in found.expected


def test_false_alarms_fail_where_embeddings_moved(honest: Tried) -> None:
    moved = tried(answers(240, 0), answers(240, 1), answers(600, 2, spread=0.6))
    assert not passed(promises.false_alarms(moved))


def test_unrelated_images_that_look_related_fail(honest: Tried) -> None:
    assert not passed(promises.unrelated(replace(honest, unrelated=(honest.unrelated[0], honest.test.embeddings))))


def test_familiarity_has_to_beat_the_largest_probability(honest: Tried) -> None:
    shy = replace(
        honest, unrelated=(np.full((100, LABELS), 0.01), honest.unrelated[1] * 0 + answers(100, 5, spread=0.55).embeddings)
    )
    found = promises.unrelated(shy)
    assert found is not None
    assert not found.passed
    assert "largest probability alone: 1.000" in found.found


def measured(sharpness: float, temperature: float, count: int = 2000) -> Calibrated:
    """Labels are drawn from softmax(logits): the temperature that fits is 1, and `sharpness` takes it away from there."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (rng.random((count, 1)) > p.cumsum(axis=1)).sum(axis=1)
    raw, calibrated = (np.exp(logits * sharpness / t) for t in (1.0, temperature))
    return Calibrated.measure(raw / raw.sum(axis=1, keepdims=True), calibrated / calibrated.sum(axis=1, keepdims=True), targets)


def test_calibration_passes_where_the_temperature_is_right_and_says_what_is_wrong_elsewhere() -> None:
    good = measured(3.0, 3.0)
    assert good.contradiction is None
    assert promises.calibration(good).passed
    sure = measured(3.0, 1.0)
    assert sure.contradiction is not None
    assert "how often it is right" in sure.contradiction
    assert not promises.calibration(sure).passed


def test_temperature_that_makes_the_likelihood_worse_is_contradicted() -> None:
    found = replace(measured(1.0, 1.0), nll=1.2, nll_raw=1.1)
    assert found.contradiction is not None
    assert "NLL worse (1.100 to 1.200)" in found.contradiction


def with_confidence(honest: Tried, **changes: Any) -> Tried:
    confidence: Confidence = honest.judge.confidence.model_copy(update=changes)
    return replace(honest, judge=Judge("single_label", confidence, honest.judge.evidence))


def test_p_correct_that_is_no_better_on_test_fails(honest: Tried) -> None:
    card = honest.judge.confidence.correctness
    assert card is not None
    on = with_confidence(honest, correctness=card.model_copy(update={"coefficients": (1.0, 0.0, 0.0)}))
    # with these coefficients p_correct is the probability itself
    assert passed(promises.p_correct(replace(on, trust=on.judge.trust(on.probabilities, on.test.embeddings))))
    reversed_ = with_confidence(honest, correctness=card.model_copy(update={"coefficients": (-1.0, 0.0, 0.0)}))
    assert not passed(promises.p_correct(replace(reversed_, trust=reversed_.judge.trust(on.probabilities, on.test.embeddings))))
    assert promises.p_correct(with_confidence(honest, correctness=card.model_copy(update={"coefficients": None}))) is None


@pytest.mark.parametrize(("right", "holds"), [(190, True), (184, True), (183, False)])
def test_accepted_answers_may_fall_two_standard_errors_short(honest: Tried, right: int, holds: bool) -> None:
    acceptance = Acceptance(target=0.95, threshold=0.9, on_test=counted(right, 200))
    assert passed(promises.accepted(with_confidence(honest, acceptance=acceptance))) is holds


def test_what_nothing_was_promised_of_is_left_out(honest: Tried) -> None:
    bare = Confidence.without_evidence(Temperature(value=1.0, status="none", images=0, reason="none"), None, None, "none")
    nothing = replace(honest, judge=Judge("single_label", bare, type(honest.judge.evidence)()))
    found = [
        check(nothing)
        for check in (
            promises.covered,
            promises.covered_labels,
            promises.false_alarms,
            promises.unrelated,
            promises.p_correct,
            promises.accepted,
        )
    ]
    assert found == [None] * 6
