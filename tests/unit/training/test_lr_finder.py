"""What a sweep suggests, on curves whose answer is known and on a real one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tuning import colours, recipe, tuner
from training.lr_finder import choose_lr, find_lr

pytestmark = pytest.mark.torch
LRS = np.geomspace(1e-7, 1.0, 80)


def test_valley_is_half_way_down_the_fall_and_steepest_where_it_falls_most() -> None:
    """Flat to 1e-5, a sigmoid fall centred on 1e-3, and a rise from 1e-1."""
    logs = np.log10(LRS)
    losses = 2 - 1.5 / (1 + np.exp(-3 * (logs + 3))) + np.where(logs > -1, (logs + 1) ** 2 * 3, 0)
    sweep = choose_lr(list(LRS), list(losses), list(losses), rule=1e-3)
    assert sweep.valley is not None
    assert sweep.steepest is not None
    assert 1e-5 < sweep.valley < 1e-2
    assert sweep.steepest == pytest.approx(1e-3, rel=0.5)
    assert 1e-3 / 3 <= sweep.chosen <= 3e-3


@pytest.mark.parametrize(("rule", "expected"), [(1e-6, 3e-6), (1e-1, 1e-1 / 3)])
def test_what_is_used_stays_within_three_times_the_rule(rule: float, expected: float) -> None:
    losses = list(2 - 1.5 / (1 + np.exp(-3 * (np.log10(LRS) + 3))))
    assert choose_lr(list(LRS), losses, losses, rule).chosen == pytest.approx(expected)


@pytest.mark.parametrize("points", [0, 3, 18])
def test_a_sweep_that_ends_at_once_leaves_the_rule(points: int) -> None:
    sweep = choose_lr(list(LRS[:points]), [1.0] * points, [1.0] * points, rule=2e-4)
    assert (sweep.valley, sweep.steepest, sweep.chosen) == (None, None, 2e-4)


def test_a_loss_that_only_rises_suggests_no_valley() -> None:
    losses = list(np.linspace(1, 3, 80))
    sweep = choose_lr(list(LRS), losses, losses, rule=2e-4)
    assert sweep.valley is None
    assert sweep.chosen == 2e-4


def test_a_real_sweep_ends_where_it_diverges_and_repeats_itself() -> None:
    train = colours(48)
    chosen = recipe(optimizer="sgd", clip_norm=1e9, augment="none", stem_lr_scale=1.0)
    first, again = (find_lr(tuner(chosen, train), train, chosen) for _ in range(2))
    assert first == again
    assert len(first.lrs) == len(first.losses) == len(first.smoothed) <= 80
    assert first.valley is not None
    # The rate that was used is one at which this network learns.
    assert first.losses[0] > min(first.smoothed)
