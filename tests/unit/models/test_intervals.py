"""Intervals: against the book's values, and against what happens when one counts again and again."""

from __future__ import annotations

import numpy as np
import pytest

from models.intervals import clopper_pearson, covered_by_chance, f1_interval, is_surely_over, largest_chance_ece, wilson


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        # Wilson 1927 as in Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilson_gives_the_published_values(count: int, of: int, low: float, high: float) -> None:
    found = wilson(count, of)
    assert float(found[0]) == pytest.approx(low, abs=1e-4)
    assert float(found[1]) == pytest.approx(high, abs=1e-4)


def test_nothing_counted_is_nothing_known() -> None:
    low, high = wilson([0, 1], [0, 2])
    assert np.isnan([low[0], high[0]]).all()
    assert 0 < low[1] < 0.5 < high[1] < 1


def test_f1_interval_holds_the_true_f1_in_95_of_100_repetitions() -> None:
    """Images of two labels, drawn 4,000 times from known rates: the interval must hold the F1 of the rates, not of the draw."""
    rng = np.random.default_rng(0)
    shares = np.array([0.24, 0.06, 0.08, 0.62])  # hit, missed, false alarm, neither
    true = 2 * shares[0] / (2 * shares[0] + shares[1] + shares[2])
    hit, missed, alarm, _ = rng.multinomial(150, shares, size=4000).T
    low, high = f1_interval(hit, hit + missed + alarm)
    held = ((low <= true) & (true <= high)).mean()
    assert 0.93 <= held <= 0.97


def test_f1_interval_agrees_with_resampling_the_images() -> None:
    rng = np.random.default_rng(1)
    counts = np.array([60, 12, 9, 219])
    hit, missed, alarm, _ = rng.multinomial(counts.sum(), counts / counts.sum(), size=4000).T
    resampled = np.quantile(2 * hit / (2 * hit + missed + alarm), [0.025, 0.975])
    low, high = f1_interval(counts[0], counts[:3].sum())
    assert [float(low), float(high)] == pytest.approx(list(resampled), abs=0.02)


def test_f1_interval_of_a_perfect_label_still_has_a_width() -> None:
    low, high = f1_interval(30, 30)
    assert 0.9 < float(low) < 1
    assert float(high) == 1


def test_chance_alone_makes_a_calibration_error_that_shrinks_with_the_images() -> None:
    confidence = np.random.default_rng(0).uniform(0.4, 1.0, 4000)
    few, many = largest_chance_ece(confidence[:200]), largest_chance_ece(confidence)
    # The table of measured 95 % quantiles: 0.08 at 200 images, 0.02 at 4,000.
    assert few == pytest.approx(0.088, abs=0.02)
    assert many == pytest.approx(0.02, abs=0.006)
    assert largest_chance_ece(confidence[:200]) == few


def test_chance_makes_no_error_of_certainty() -> None:
    assert largest_chance_ece(np.ones(50)) == 0


@pytest.mark.parametrize(
    ("count", "total", "low", "high"), [(0, 10, 0.0, 0.308497), (10, 10, 0.691503, 1.0), (742, 1000, 0.713694, 0.768873)]
)
def test_clopper_pearson_is_the_published_interval(count: int, total: int, low: float, high: float) -> None:
    assert clopper_pearson(count, total) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.93])
def test_exact_interval_holds_the_share_at_least_as_often_as_it_says(share: float) -> None:
    counts = np.random.default_rng(0).binomial(60, share, 2000)
    ends = {count: clopper_pearson(count, 60) for count in set(counts.tolist())}
    assert np.mean([ends[count][0] <= share <= ends[count][1] for count in counts.tolist()]) >= 0.945


def test_surely_over_is_the_one_sided_bound() -> None:
    # 59 of 59 is the least all-right sample that shows 95 % with 95 % confidence: 0.95 ** 59 = 0.0485.
    assert is_surely_over(59, 59, 0.95)
    assert not is_surely_over(58, 58, 0.95)
    assert not is_surely_over(0, 10, 0.0)


def test_coverage_of_a_right_predictor_is_within_its_beta_binomial_interval() -> None:
    low, high = covered_by_chance(200, 200, 0.9)
    assert (low, high) == (0.815, 0.965)
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        known, new = np.sort(rng.random(200)), rng.random(200)
        inside.append(low <= (new <= known[180]).mean() <= high)
    assert np.mean(inside) == pytest.approx(0.99, abs=0.01)
