"""Optimizers, a rate for each depth of the network, and the schedule.

timm's layer decay sets `lr_scale` on its groups and leaves it to timm's own schedulers to multiply it in; torch's
optimizers ignore it. Here it is multiplied in when the groups are made. A schedule is a pure function of the step, so that
a run which is resumed needs no more than the number of its step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from timm.optim import param_groups_layer_decay

if TYPE_CHECKING:
    from torch import nn

    from models.recipe import Recipe

_BASE_BATCH = 32
# Rates of the head at 32 images a step. AdamW's was measured (docs/experiments.md); Adam's is the classic default of Kingma and
# Ba (2015).
_BASE_LR = {"adamw": 1e-3, "adam": 1e-3, "sgd": 1e-2, "rmsprop": 1e-4}
_WEIGHT_DECAY = {"adamw": 0.05, "adam": 0.0, "sgd": 1e-4, "rmsprop": 0.0}
_BETA2 = 0.999
# fastai's one-cycle (Smith 2018): where it starts and ends, as a share of the highest rate, and how momentum mirrors it.
_CYCLE_START, _CYCLE_END = 1 / 25, 1e-5
_CYCLE_MOMENTUM = (0.95, 0.85)


def default_lr(optimizer: str, batch_size: int) -> float:
    """The head's rate by rule: by the square root of the batch (Malladi et al. 2022), linear for SGD (Goyal et al. 2017)."""
    ratio = batch_size / _BASE_BATCH
    return min(1.0, _BASE_LR[optimizer] * (ratio if optimizer == "sgd" else math.sqrt(ratio)))


def make_optimizer(network: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """The recipe's optimizer with a rate for each depth: `lr` at the head, falling geometrically to its share at the stem.

    Parameters that do not require a gradient are left out. Each group's own highest rate stays in its `peak_lr`.
    """
    # The decay that reaches the scale at the stem depends on how many groups the backbone has.
    depth = len({group["lr_scale"] for group in param_groups_layer_decay(network, layer_decay=0.5)})
    decay = recipe.stem_lr_scale ** (1 / max(depth - 1, 1))
    weight_decay = _WEIGHT_DECAY[recipe.optimizer] if recipe.weight_decay is None else recipe.weight_decay
    groups = [
        {
            "params": group["params"],
            "lr": lr * group["lr_scale"],
            "peak_lr": lr * group["lr_scale"],
            "weight_decay": group["weight_decay"],
        }
        for group in param_groups_layer_decay(network, weight_decay=weight_decay, layer_decay=decay)
    ]
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=(recipe.momentum, _BETA2), fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, betas=(recipe.momentum, _BETA2), fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=lr, momentum=recipe.momentum)


@dataclass(frozen=True)
class Schedule:
    """The share of its highest rate at which every group runs, over `steps` steps."""

    kind: str
    steps: int
    warmup: float

    def share(self, step: int) -> float:
        """The share at `step` (0-based): a rise over the warm-up, then a cosine to zero, or no change."""
        rising = max(1, round(self.steps * self.warmup))
        falling = min(1.0, max(0.0, (step - rising) / max(1, self.steps - rising)))
        if self.kind == "one_cycle":
            if step < rising:
                return _cosine(_CYCLE_START, 1.0, step / rising)
            return _cosine(1.0, _CYCLE_END, falling)
        if step < rising:
            return (step + 1) / rising
        return 1.0 if self.kind == "constant" else _cosine(1.0, 0.0, falling)

    def momentum(self, step: int) -> float | None:
        """Momentum at `step`, high where the rate is low; None where the recipe's stays."""
        if self.kind != "one_cycle":
            return None
        high, low = _CYCLE_MOMENTUM
        rising = max(1, round(self.steps * self.warmup))
        if step < rising:
            return _cosine(high, low, step / rising)
        return _cosine(low, high, min(1.0, (step - rising) / max(1, self.steps - rising)))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set every group's rate (and momentum) for `step` and return the highest rate."""
        share, momentum = self.share(step), self.momentum(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            elif momentum is not None:
                group["momentum"] = momentum
        return max(float(group["lr"]) for group in optimizer.param_groups)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
