"""The learning-rate finder: one short sweep, and the rate where the loss falls best (Smith 2017).

The sweep runs on a copy of the network with the real parameter groups, so each layer keeps its share of the rate and the
network is as it was. Suggestions are those that people know from fastai: `valley`, half-way down the longest fall, and
`steepest`. A sweep from a probe's solution starts near a minimum and can mislead, so what is used is kept within a factor of
three of the rule's rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from models.manifest import canonical_json
from training.distributed import leave
from training.history import Sweep
from training.loop import FineTuner
from training.optim import default_lr
from training.plan import batch_size_for
from training.plots import LIGHT, sweep_curve
from training.prepare import fit_head, prepare, setting_of
from training.progress import bar, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.recipe import Recipe
    from training.data import Images

# From a hundredth of the rule's rate: far below it, a sweep from the probe's solution sees nothing but the noise of its batches.
_LOWEST, _HIGHEST = 1e-2, 1e3
_STEPS = 60
_SMOOTHING = 0.9
# Beyond this many times the lowest smoothed loss nothing is learnt from going on.
_DIVERGED = 4.0
_SKIP_FIRST, _SKIP_LAST = 0.1, 5
_CLAMP = 3.0
_LEAST_POINTS = 12


def lr_find(data: Path | Sequence[Path], recipe: Recipe, out: Path, work_root: Path) -> float:
    """`lr-find`: sweep on a data set as `fit` would, and write `lr-find.json` and `lr-find.png`.

    Args:
        data: As for `fit`.
        recipe: As for `fit`; its rate is not looked at.
        out: A folder for the two files.
        work_root: Where pixels go that do not fit in memory.

    Returns:
        The rate that `lr=auto` would use.

    Raises:
        ContractError: If the data cannot be used.
        TrainingError: If weights are missing.
    """
    prepared = prepare(data, recipe, work_root)
    try:
        fit_head(prepared)
        tuner = FineTuner(prepared.pretrained.network, setting_of(prepared))
        sweep = find_lr(tuner, prepared.splits["train"], prepared.recipe, prepared.world.size)
    finally:
        leave(prepared.world)
    say_sweep(sweep)
    if prepared.world.is_main:
        out.mkdir(parents=True, exist_ok=True)
        (out / "lr-find.json").write_bytes(canonical_json(sweep))
        (out / "lr-find.png").write_bytes(sweep_curve(sweep, LIGHT))
        say(f"  wrote {out / 'lr-find.json'} and {out / 'lr-find.png'}")
    return sweep.chosen


def find_lr(tuner: FineTuner, train: Images, recipe: Recipe, world: int = 1) -> Sweep:
    """Sweep the rate up until the loss diverges, and choose one.

    Args:
        tuner: Its network is not changed.
        train: The training images.
        recipe: Batch size, optimizer, augmentation.
        world: Number of processes.
    """
    batch_size = batch_size_for(recipe, len(train), world)
    rule = default_lr(recipe.optimizer, batch_size)
    rates = np.geomspace(_LOWEST * rule, min(1.0, _HIGHEST * rule), _STEPS).tolist()
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    with bar("rates", _STEPS) as done:
        for lr, loss in zip(rates, tuner.stepper.sweep(train, iter(rates), batch_size, rates[-1]), strict=False):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            current = average / (1 - _SMOOTHING ** (len(losses) + 1))
            done.update()
            if not math.isfinite(loss) or (smoothed and current > _DIVERGED * min(smoothed)):
                break
            lrs.append(lr)
            losses.append(loss)
            smoothed.append(current)
    return choose_lr(lrs, losses, smoothed, rule)


def choose_lr(lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], rule: float) -> Sweep:
    """Suggest rates from a sweep, and keep the valley's within a factor of three of the rule's.

    Args:
        lrs: Rates, rising geometrically.
        losses: The loss at each.
        smoothed: The same, smoothed.
        rule: The rate by rule, which stands where the sweep has too few points to say anything.
    """
    first, last = int(len(lrs) * _SKIP_FIRST), len(lrs) - _SKIP_LAST
    kept_lrs, kept = np.asarray(lrs[first:last]), np.asarray(smoothed[first:last])
    valley = steepest = None
    if len(kept) >= _LEAST_POINTS and (valley := _valley(kept_lrs, kept)) is not None:
        steepest = _steepest(kept_lrs, kept)
    chosen = rule if valley is None else float(np.clip(valley, rule / _CLAMP, rule * _CLAMP))
    return Sweep(
        lrs=tuple(lrs),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        valley=valley,
        steepest=steepest,
        rule=rule,
        chosen=chosen,
    )


def say_sweep(sweep: Sweep) -> None:
    """Say what the sweep suggests, and what is used."""
    if sweep.valley is None or sweep.steepest is None:
        say(f"  the loss diverged too early to suggest a rate; by rule it is {sweep.rule:.1e}")
        return
    kept = " (kept within 3 times the rule's)" if not math.isclose(sweep.chosen, sweep.valley) else ""
    say(
        f"  learning rate: valley {sweep.valley:.1e}, steepest {sweep.steepest:.1e}, by rule {sweep.rule:.1e}; "
        f"used {sweep.chosen:.1e}{kept}"
    )


def _valley(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """Half-way along the longest stretch (not of neighbours, but in order) on which the loss falls."""
    length = np.ones(len(losses), dtype=int)
    start = np.arange(len(losses))
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and length[j] + 1 > length[i]:
                length[i], start[i] = length[j] + 1, start[j]
    end = int(length.argmax())
    if length[end] < 2:
        return None
    return float(lrs[(start[end] + end) // 2])


def _steepest(lrs: np.ndarray, losses: np.ndarray) -> float:
    return float(lrs[int(np.gradient(losses, np.log(lrs)).argmin())])
