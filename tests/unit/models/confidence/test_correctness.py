from __future__ import annotations

import numpy as np
import pytest

from models.confidence.correctness import Correctness, fit, sigmoid


def drawn(truth: Correctness, count: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p_max, trust = rng.uniform(0.3, 0.999, count), np.exp(rng.normal(0.3, 0.5, count))
    return p_max, trust, rng.random(count) < truth.p_correct(p_max, trust)


@pytest.mark.parametrize("truth", [Correctness(1.0, 0.0, 0.0), Correctness(0.02, 4.27, -0.5), Correctness(0.5, 2.0, 0.3)])
def test_coefficients_are_found_again(truth: Correctness) -> None:
    found = fit(*drawn(truth))
    assert (found.of_probability, found.of_trust, found.constant) == pytest.approx(
        (truth.of_probability, truth.of_trust, truth.constant), abs=0.15
    )


def test_a_softmax_that_is_right_is_left_as_it_is() -> None:
    p_max = np.array([0.2, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(Correctness(1.0, 0.0, 0.0).p_correct(p_max, np.ones(4)), p_max, rtol=1e-6)


@pytest.mark.parametrize("correct", [np.array([True] * 30 + [False]), np.array([False] * 30 + [True]), np.array([True, False])])
def test_hardly_any_errors_or_hardly_anything_right_gives_finite_coefficients(correct: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    found = fit(rng.uniform(0.3, 1.0, len(correct)), np.exp(rng.normal(size=len(correct))), correct)
    assert np.isfinite([found.of_probability, found.of_trust, found.constant]).all()


def test_right_and_wrong_that_are_parted_entirely_do_not_run_away() -> None:
    trust = np.array([0.5] * 20 + [2.0] * 20)
    found = fit(np.full(40, 0.8), trust, trust > 1)
    assert 0 < found.of_trust < 100
    assert found.p_correct(0.8, 2.0) > 0.9 > 0.1 > found.p_correct(0.8, 0.5)


def test_certainty_overflows_nothing() -> None:
    assert np.isfinite(Correctness(50.0, 50.0, 0.0).p_correct([0.0, 1.0], [1e-9, 1e9])).all()
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
