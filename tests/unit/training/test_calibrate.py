"""Temperature, thresholds and interval of each task. (Of one label an image: test_parts.py.)"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.confidence.schema import Interval
from models.decision import activate
from models.metrics import binary_cross_entropy, f1_per_label
from training.calibrate import (
    HIGHEST,
    INTERVAL_LEVEL,
    MIN_IMAGES_FOR_THRESHOLD,
    Calibration,
    best_threshold,
    calibrate,
    calibrate_task,
    conformal_half_width,
    fewest_images,
)

LABELS = ("ant", "bee", "cat")


def tags(scale: float = 1.0, count: int = 2000, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[N, 3]` whose sigmoid is calibrated by construction, multiplied by `scale`, and what came true."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 3)) * 2 + shift
    truth = rng.random((count, 3)) < activate(logits, "multi_label", 1.0)
    return logits * scale, truth.astype(np.float32)


def angles(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values and truth `[N, 1]` in degrees, 5 apart in the mean."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-90, 90, (count, 1)).astype(np.float32)
    return (truth + rng.normal(0, 5, (count, 1))).astype(np.float32), truth


# --- one label an image


def test_a_single_label_is_calibrated_as_ever_and_has_neither_thresholds_nor_interval() -> None:
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(300, 3)) * 3, rng.integers(0, 3, 300)

    for arguments in ((pair, None), (None, pair), (None, None)):
        assert calibrate_task("single_label", LABELS, *arguments) == Calibration(calibrate(*arguments), None, None)


# --- several labels an image


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_one_temperature_for_all_labels_undoes_a_known_scale(scale: float) -> None:
    fitted = calibrate_task("multi_label", LABELS, tags(scale), None)

    assert fitted.temperature.value == pytest.approx(scale, rel=0.06)
    assert (fitted.temperature.status, fitted.temperature.images, fitted.temperature.reason) == ("ok", 2000, None)


def test_it_is_the_minimum_of_the_binary_cross_entropy() -> None:
    logits, truth = tags(2.0, count=300)
    best = calibrate_task("multi_label", LABELS, (logits, truth), None).temperature.value

    def loss(temperature: float) -> float:
        return binary_cross_entropy(activate(logits, "multi_label", temperature), truth)

    assert loss(best) <= min(loss(best * 1.01), loss(best / 1.01))


def test_labels_that_are_always_wrong_stop_at_the_highest_temperature() -> None:
    logits, truth = tags(count=400)

    fitted = calibrate_task("multi_label", LABELS, (np.where(truth > 0, -9, 9) + logits / 100, truth), None)
    assert fitted.temperature.value == pytest.approx(HIGHEST, rel=1e-3)


def test_a_model_that_is_hardly_ever_wrong_is_not_made_more_certain() -> None:
    _, truth = tags(count=60)
    fitted = calibrate_task("multi_label", LABELS, (np.where(truth > 0, 1.0, -1.0), truth), None)

    assert fitted.temperature.value == 1
    assert fitted.temperature.status == "partial"
    assert fitted.temperature.reason == "0 of 180 decisions are wrong, too few to raise confidence on; left as it is"


def test_thresholds_are_one_a_label_chosen_on_calibrated_probabilities() -> None:
    logits, truth = tags(3.0)
    fitted = calibrate_task("multi_label", LABELS, (logits, truth), None)
    assert fitted.thresholds is not None
    calibrated = activate(logits, "multi_label", fitted.temperature.value)

    assert tuple(fitted.thresholds) == LABELS
    row = fitted.threshold_row(LABELS)
    assert row is not None
    assert row.tolist() == [fitted.thresholds[label] for label in LABELS]
    assert fitted.threshold_row(("cat", "ant"))[0] == fitted.thresholds["cat"]
    for k, label in enumerate(LABELS):
        assert fitted.thresholds[label] == best_threshold(calibrated[:, k], truth[:, k])
    at_half, at_best = f1_per_label(calibrated >= 0.5, truth), f1_per_label(calibrated >= row, truth)
    assert (at_best >= at_half).all()
    assert at_best.mean() > at_half.mean()


def test_a_rare_label_is_selected_from_a_lower_probability_on() -> None:
    logits, truth = tags(shift=-3.0)
    fitted = calibrate_task("multi_label", LABELS, (logits, truth), None)

    assert fitted.thresholds is not None
    assert all(0.15 < threshold < 0.45 for threshold in fitted.thresholds.values())


def test_a_label_that_too_few_images_have_or_lack_keeps_a_half_and_calibration_is_partial() -> None:
    logits, truth = tags(2.0, count=300)
    truth[:, 0] = 0
    truth[: MIN_IMAGES_FOR_THRESHOLD - 1, 0] = 1
    truth[:, 1] = 1
    fitted = calibrate_task("multi_label", LABELS, (logits, truth), None)

    assert fitted.thresholds is not None
    assert (fitted.thresholds["ant"], fitted.thresholds["bee"]) == (0.5, 0.5)
    assert fitted.thresholds["cat"] != 0.5
    assert fitted.temperature.status == "partial"
    assert fitted.temperature.reason == (
        "2 of 3 labels keep the threshold 0.5: fewer than 10 held-out images have them, or lack them"
    )


def test_validation_in_place_of_calibration_is_partial_and_says_every_reason() -> None:
    logits, truth = tags(2.0, count=300)
    truth[:, 0] = 0
    fitted = calibrate_task("multi_label", LABELS, None, (logits, truth))

    assert fitted.temperature.status == "partial"
    assert fitted.temperature.reason == (
        "no calibration split; fitted on validation, which also chose the model; "
        "1 of 3 labels keep the threshold 0.5: fewer than 10 held-out images have them, or lack them"
    )
    assert fitted.thresholds is not None
    assert calibrate_task("multi_label", LABELS, tags(), (logits, truth)).temperature.status == "ok"


def test_without_held_out_images_every_threshold_is_a_half() -> None:
    fitted = calibrate_task("multi_label", LABELS, None, None)

    assert fitted.thresholds == {"ant": 0.5, "bee": 0.5, "cat": 0.5}
    assert (fitted.temperature.value, fitted.temperature.status, fitted.temperature.images) == (1.0, "none", 0)
    assert fitted.temperature.reason


# --- a threshold


@st.composite
def one_label(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[N]`, often equal, with 0 and 1 among them, and at least 10 images with and without the label."""
    count = draw(st.integers(20, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    has = np.zeros(count)
    has[: draw(st.integers(10, count - 10))] = 1
    separation = draw(st.sampled_from([0.0, 0.3, 1.0, 5.0]))
    spread = activate(rng.normal(size=count) + separation * (has - 0.5), "multi_label", draw(st.sampled_from([0.01, 1.0])))
    return spread.round(draw(st.sampled_from([1, 2, 15]))), has


@settings(deadline=None)
@given(one_label())
def test_no_threshold_has_a_better_f1(data: tuple[np.ndarray, np.ndarray]) -> None:
    probability, has = data
    found = best_threshold(probability, has)
    assert found is not None

    def f1(threshold: float) -> float:
        return float(f1_per_label(probability[:, None] >= threshold, has[:, None])[0])

    others = {threshold: f1(threshold) for threshold in [*probability, *(probability / 2), 0.0, 0.5, 1.0]}
    assert 0 <= found <= 1
    assert f1(found) == pytest.approx(max(others.values()))


def test_a_threshold_lies_midway_between_what_it_parts() -> None:
    assert best_threshold(np.array([0.9] * 10 + [0.3] * 10), np.array([1] * 10 + [0] * 10)) == pytest.approx(0.6)


@pytest.mark.parametrize(("middle", "expected"), [(0.2, 0.58), (0.8, 0.41)])
def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken(middle: float, expected: float) -> None:
    """With 12 of 16 found and none wrong, or 15 of 16 found and 4 wrong, F1 is 6/7."""
    probability = np.array([0.96] * 12 + [middle] * 7 + [0.02] * 12)
    has = np.array([1] * 12 + [1] * 3 + [0] * 4 + [1] + [0] * 11)

    assert best_threshold(probability, has) == pytest.approx(expected)


def test_two_neighbouring_floats_are_parted_all_the_same() -> None:
    low = 0.3
    high = np.nextafter(low, 1)

    assert best_threshold(np.array([high] * 10 + [low] * 10), np.array([1] * 10 + [0] * 10)) == high


def test_probabilities_that_are_all_0_are_answered() -> None:
    assert best_threshold(np.zeros(20), np.array([1] * 10 + [0] * 10)) == 0


@pytest.mark.parametrize(("positives", "negatives"), [(9, 50), (50, 9), (0, 50), (50, 0), (0, 0)])
def test_too_few_images_choose_no_threshold(positives: int, negatives: int) -> None:
    probability = np.linspace(0, 1, positives + negatives)

    assert best_threshold(probability, np.array([1] * positives + [0] * negatives)) is None


# --- a number an image


def test_the_interval_is_the_residual_of_that_rank_on_the_calibration_split() -> None:
    values, truth = angles(99)
    fitted = calibrate_task("regression", ("angle",), (values, truth), angles(500, seed=1))

    residuals = sorted(abs(float(value) - float(true)) for value, true in zip(values[:, 0], truth[:, 0], strict=True))
    assert INTERVAL_LEVEL == 0.9
    assert fitted.interval == Interval(level=0.9, half_width=residuals[89], images=99, method="split_conformal", reason=None)
    assert (fitted.temperature.value, fitted.temperature.status, fitted.temperature.images) == (1.0, "ok", 99)
    assert (fitted.thresholds, fitted.threshold_row(("angle",))) == (None, None)


def test_the_interval_covers_what_it_says_on_images_it_never_saw() -> None:
    fitted = calibrate_task("regression", ("angle",), angles(2000), None)
    values, truth = angles(4000, seed=1)

    assert fitted.interval is not None
    assert (np.abs(values - truth) <= fitted.interval.half_width).mean() == pytest.approx(0.9, abs=0.02)
    # 5 * 1.645, the normal distribution's
    assert fitted.interval.half_width == pytest.approx(8.22, rel=0.05)


def test_an_interval_from_validation_is_partial_and_says_so() -> None:
    fitted = calibrate_task("regression", ("angle",), None, angles(50))

    assert fitted.interval is not None
    assert fitted.interval.reason == "no calibration split; fitted on validation, which also chose the model"
    assert (fitted.temperature.status, fitted.temperature.reason) == ("partial", fitted.interval.reason)


def test_too_few_images_and_none_have_no_interval_and_say_why() -> None:
    few = calibrate_task("regression", ("angle",), angles(8), None)
    none = calibrate_task("regression", ("angle",), None, None)

    assert (few.interval, none.interval) == (None, None)
    assert (few.temperature.status, few.temperature.images) == ("none", 8)
    assert few.temperature.reason == "8 held-out images are too few for an interval that covers 90%; it takes 9"
    assert (none.temperature.status, none.temperature.reason) == ("none", "no held-out images to calibrate on")
    assert calibrate_task("regression", ("angle",), angles(9), None).interval is not None


@pytest.mark.parametrize("level", ["0.5", "0.8", "0.9", "0.95", "0.99"])
def test_the_rank_is_the_exact_one_and_so_is_the_least_number_of_images(level: str) -> None:
    """(n + 1) * 0.9 in floats is now and then a hair over the whole number that it is."""
    exact = Fraction(level)
    for images in range(1, 400):
        rank = ceil((images + 1) * exact)
        got = conformal_half_width(np.arange(images, dtype=float)[::-1], float(level))
        assert got == (rank - 1 if rank <= images else None)
        assert (got is not None) == (images >= fewest_images(float(level)))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=10, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
def test_of_exchangeable_residuals_the_share_that_is_covered_by_the_others_is_never_less(
    residuals: list[float], level: float
) -> None:
    """The guarantee itself, exactly: each residual in turn is the new image, and the others are the calibration split."""
    covered = 0
    for index, new in enumerate(residuals):
        width = conformal_half_width(np.array(residuals[:index] + residuals[index + 1 :]), level)
        assert width is not None
        covered += new <= width

    assert covered >= level * len(residuals) - 1e-9
