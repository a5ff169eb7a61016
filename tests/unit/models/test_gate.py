"""The gate's verdict: what is promoted, what is rejected, and that every reason is a sentence with its numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.confidence.schema import Temperature
from models.gate import decide
from models.gate_report import GateReport
from tests.support.gated import LABELS, answers, measured, number, truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.contest import Measured, Spelt

AT = datetime(2026, 1, 2, tzinfo=UTC)
HOLDOUT = "a" * 64
IMAGES = truth(300)
# Every fifth image wrong, and every tenth.
GOOD, WORSE = answers(IMAGES, list(range(0, 300, 10))), answers(IMAGES, list(range(0, 300, 5)))


def judge(candidate: Measured, production: Measured | None, images: Sequence[Spelt] = IMAGES) -> GateReport:
    return decide("birds", candidate, production, images, HOLDOUT, AT)


def failing(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if check.is_required and not check.passed]


def sentence(report: GateReport, name: str) -> str:
    return next(check.sentence for check in report.checks if check.name == name)


def test_a_candidate_that_is_surely_better_is_promoted_with_numbers() -> None:
    report = judge(measured(2, GOOD), measured(1, WORSE))

    assert (report.verdict, report.reasons, report.candidate, report.production, report.images) == ("promote", (), 2, 1, 300)
    assert "accuracy is 0.9 against 0.8" in sentence(report, "better")
    assert "compared with that of version 1: surely better" in sentence(report, "better")
    assert GateReport.parse(report.to_bytes()) == report
    assert report.lines()[0] == "promote birds:2 (against birds:1, on 300 held-out images)"


def test_a_worse_one_is_rejected_and_every_reason_says_why() -> None:
    report = judge(measured(2, WORSE), measured(1, GOOD))

    assert report.verdict == "reject"
    assert failing(report) == ["better", "accuracy", "nll", "recall", "ece"]
    assert "Accuracy is 0.8 against 0.9: surely worse" in report.reasons[1]


def test_the_same_model_again_is_not_better() -> None:
    report = judge(measured(2, GOOD), measured(1, GOOD))

    assert failing(report) == ["better"]
    assert report.reasons[0].endswith("not surely better; p = 0.025 is asked")


def test_noise_does_not_promote_and_is_not_called_worse() -> None:
    """Two more images right of 300, which chance explains."""
    one, other = answers(IMAGES, list(range(0, 300, 10))), answers(IMAGES, [*range(0, 300, 10), 1, 2])
    assert failing(judge(measured(2, one), measured(1, other))) == ["better"]
    assert failing(judge(measured(2, other), measured(1, one))) == ["better"]


def test_better_probabilities_with_the_same_answers_are_better() -> None:
    wrong = list(range(0, 300, 10))
    timid = answers(IMAGES, wrong, sure=0.5)
    assert judge(measured(2, answers(IMAGES, wrong, sure=0.89)), measured(1, timid)).verdict == "promote"


def test_better_probabilities_do_not_buy_fewer_right_answers() -> None:
    """More of the images wrong, hesitantly; the others right with more certainty."""
    timid = answers(IMAGES, list(range(0, 300, 30)), sure=0.4)
    bold = answers(IMAGES, list(range(0, 300, 6)), sure=0.8)
    report = judge(measured(2, bold), measured(1, timid))
    assert "accuracy" in failing(report)
    assert next(check for check in report.checks if check.name == "nll").passed


def test_a_label_that_falls_is_a_reason_however_good_the_rest_is() -> None:
    """A quarter of the images better, and every second bee lost."""
    before = answers(IMAGES, [row for row in range(300) if row % 3 and row % 2])
    after = answers(IMAGES, [row for row in range(300) if row % 6 == 0])
    report = judge(measured(2, after), measured(1, before))

    assert failing(report) == ["recall"]
    assert "surely fell by more than 0.05: bee from 1.000 to 0.500 on 100 images" in report.reasons[0]


def test_a_fall_that_chance_explains_is_told_and_no_reason() -> None:
    few = truth(30)
    before, after = answers(few, [1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17]), answers(few, [0])
    report = judge(measured(2, after), measured(1, before), few)
    assert report.verdict == "promote"
    assert "chance explains: bee from 1.000 to 0.900 on 10 images" in sentence(report, "recall")


def test_overconfidence_is_a_reason() -> None:
    """Better by right answers, and certain of the wrong ones too."""
    before = answers(IMAGES, list(range(0, 300, 5)), sure=0.8)
    report = judge(measured(2, answers(IMAGES, list(range(0, 300, 10)), sure=0.999)), measured(1, before))
    assert failing(report) == ["ece"]
    assert "The calibration error is 0.099 against 0.000" in sentence(report, "ece")


def test_losing_calibration_is_a_reason() -> None:
    none = Temperature(value=1.0, status="none", images=0, reason="too few images")
    report = judge(measured(2, GOOD, temperature=none), measured(1, WORSE))
    assert failing(report) == ["calibration"]
    assert "status none (too few images)" in report.reasons[0]
    assert judge(measured(2, GOOD, temperature=none), measured(1, WORSE, temperature=none)).verdict == "promote"


@pytest.mark.parametrize(("took", "verdict"), [(11.9, "promote"), (12.1, "reject")])
def test_a_fifth_slower_is_the_bound(took: float, verdict: str) -> None:
    report = judge(measured(2, GOOD, p95_ms=took), measured(1, WORSE))
    assert report.verdict == verdict
    assert f"{took} ms against 10 ms (95th percentile); at most 12 ms" in sentence(report, "latency")


@pytest.mark.parametrize("broken", ["golden", "parity"])
def test_a_version_that_is_not_sound_is_rejected(broken: str) -> None:
    report = judge(measured(2, GOOD, **{broken: "birds:2 is broken"}), measured(1, WORSE))
    assert (failing(report), report.reasons) == ([broken], ("birds:2 is broken",))


def test_a_version_without_answers_is_rejected() -> None:
    assert failing(judge(measured(2, None), measured(1, WORSE))) == ["answers"]


def test_swapped_labels_end_in_a_rejection() -> None:
    """What a data set with flipped labels teaches: bees are cats and cats are bees, perfectly."""
    flipped = answers(IMAGES, [])[:, [1, 0, 2]]
    report = judge(measured(2, flipped), measured(1, WORSE))
    assert {"better", "accuracy", "nll", "recall"} <= set(failing(report))


# --- other questions


def test_removed_labels_another_task_and_another_unit_are_for_a_person() -> None:
    two = ("bee", "cat")
    report = judge(measured(2, GOOD[:, :2], labels=two), measured(1, WORSE))
    assert failing(report) == ["labels"]
    assert "does not know dog" in report.reasons[0]
    other = judge(number(2, np.zeros(300)), measured(1, WORSE))
    assert "answers regression, and production single_label" in other.reasons[0]
    grams = judge(number(2, np.zeros(300), unit="g"), number(1, np.zeros(300), unit="kg"), [0.0] * 300)
    assert "unit is g, and production's kg" in grams.reasons[0]


def test_new_labels_are_told_and_the_shared_ones_compared() -> None:
    four = (*LABELS, "eel")
    images = [*IMAGES, "eel", "eel"]
    ours = answers(images, list(range(0, 300, 10)), labels=four)
    report = judge(measured(2, ours, labels=four), measured(1, np.vstack([WORSE, WORSE[:2]])), images)

    assert report.verdict == "promote"
    assert "On 300 held-out images" in sentence(report, "better")
    assert sentence(report, "new_labels") == "The candidate also knows eel; 2 held-out images have them, and are not compared"


def test_an_image_that_is_taken_for_a_new_label_is_wrong() -> None:
    four = (*LABELS, "eel")
    taken = answers(IMAGES, [], labels=four)[:, [3, 1, 2, 0]]
    assert "accuracy" in failing(judge(measured(2, taken, labels=four), measured(1, WORSE)))


def test_without_a_held_out_set_it_is_for_a_person() -> None:
    report = decide("birds", measured(2, None), measured(1, None), (), None, AT)
    assert failing(report) == ["held_out"]
    assert "promote it by hand" in report.reasons[0]
    assert report.holdout_sha256 is None


def test_held_out_images_of_no_shared_label_say_nothing() -> None:
    report = judge(measured(2, GOOD[:2], labels=LABELS), measured(1, WORSE[:2]), ["owl", "elk"])
    assert failing(report) == ["held_out"]


# --- nothing in production


def test_a_first_candidate_must_beat_knowing_nothing() -> None:
    report = judge(measured(1, GOOD), None)
    assert report.verdict == "promote"
    assert "accuracy is 0.9 against 0.3333" in sentence(report, "better")
    assert "of knowing only how frequent each label is" in sentence(report, "better")
    guesses = np.tile([0.34, 0.33, 0.33], (300, 1))
    assert failing(judge(measured(1, guesses), None)) == ["better"]


def test_a_first_candidate_must_be_calibrated_and_know_the_held_out_labels() -> None:
    none = Temperature(value=1.0, status="none", images=0, reason=None)
    assert failing(judge(measured(1, GOOD, temperature=none), None)) == ["calibration"]
    assert failing(judge(measured(1, GOOD[:, :2], labels=("bee", "cat")), None)) == ["labels"]


def test_better_probabilities_alone_do_not_make_a_first_version() -> None:
    """98 % are bees, and it says bee always: the shares of the others are told a little better than by counting."""
    images = ["bee"] * 98 + ["cat", "dog"]
    outputs = np.array([[0.999, 0.0005, 0.0005]] * 98 + [[0.6, 0.2, 0.2]] * 2)
    report = judge(measured(1, outputs), None, images)
    assert "accuracy must be better than that, too" in report.reasons[0]


# --- the other tasks


def several(noise: float, seed: int = 0) -> tuple[list[Spelt], np.ndarray]:
    rng = np.random.default_rng(7)
    held = rng.random((200, 3)) < 0.4
    drawn = np.random.default_rng(seed)
    seen = np.where(held, 2.0, -2.0) + drawn.normal(size=held.shape) * noise
    # The exact probability, of two normal distributions that lie 4 apart.
    logits = 4 * seen / noise**2 + np.log(0.4 / 0.6)
    return [tuple(np.array(LABELS)[row]) for row in held], 1 / (1 + np.exp(-logits))


def test_several_labels_are_compared_by_map_and_nll_and_each_labels_recall() -> None:
    images, good = several(0.5)
    _, bad = several(3.0, seed=1)
    thresholds = dict.fromkeys(LABELS, 0.5)
    tagged = {"task": "multi_label", "thresholds": thresholds}
    assert judge(measured(2, good, **tagged), measured(1, bad, **tagged), images).verdict == "promote"
    worse = judge(measured(2, bad, **tagged), measured(1, good, **tagged), images)
    assert {"better", "map", "nll", "recall"} <= set(failing(worse))
    assert judge(measured(2, good, **tagged), None, images).verdict == "promote"


def test_a_label_that_is_no_longer_selected_is_a_reason() -> None:
    images, good = several(0.8)
    _, weak = several(2.5, seed=1)
    tagged = {"task": "multi_label", "thresholds": dict.fromkeys(LABELS, 0.5)}
    never = {"task": "multi_label", "thresholds": {"bee": 1.0, "cat": 0.5, "dog": 0.5}}
    assert failing(judge(measured(2, good, **never), measured(1, weak, **tagged), images)) == ["recall"]


def test_numbers_are_compared_by_how_far_they_are_off_and_by_what_the_interval_promises() -> None:
    rng = np.random.default_rng(3)
    truths = rng.uniform(0, 90, 200)
    near, far = truths + rng.uniform(-2, 2, 200), truths + rng.uniform(-8, 8, 200)
    images = truths.tolist()
    assert judge(number(2, near), number(1, far), images).verdict == "promote"
    assert failing(judge(number(2, far, half_width=9.0), number(1, near), images)) == ["better", "mean_absolute_error"]
    narrow = judge(number(2, near, half_width=0.5), number(1, far), images)
    assert failing(narrow) == ["interval"]
    assert "promises 90%" in narrow.reasons[0]
    assert failing(judge(number(2, near, half_width=None), number(1, far), images)) == ["interval"]
    assert judge(number(1, near), None, images).verdict == "promote"
    assert failing(judge(number(1, np.full(200, 45.0), half_width=90.0), None, images)) == ["better"]


# --- whatever it is shown


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0.1, 4), st.floats(0.1, 4))
@settings(max_examples=25, deadline=None)
def test_never_are_two_versions_each_better_than_the_other(seed: int, count: int, ours: float, theirs: float) -> None:
    rng = np.random.default_rng(seed)
    images = truth(count)

    def guess(spread: float) -> np.ndarray:
        logits = (
            np.array([[float(label == image) for label in LABELS] for image in images]) + rng.normal(size=(count, 3)) * spread
        )
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    one, other = measured(1, guess(ours)), measured(2, guess(theirs))
    there, back = judge(one, other, images), judge(other, one, images)
    assert (there.verdict, back.verdict) != ("promote", "promote")
    for report in (there, back):
        assert (report.verdict == "reject") == bool(report.reasons)
        assert set(report.reasons) == {check.sentence for check in report.checks if check.is_required and not check.passed}
        assert GateReport.parse(report.to_bytes()) == report
    assert judge(replace(one, golden="broken"), other, images).verdict == "reject"
