"""Parameter groups, rates and the schedule.

timm's layer decay sets `lr_scale` on its groups and leaves it to timm's own schedulers to multiply it in; torch's
optimizers ignore it. Here it is multiplied in when the groups are made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from timm.optim import param_groups_layer_decay

if TYPE_CHECKING:
    from torch import nn

    from models.recipe import Recipe

_BASE_LR = 2e-4
_BASE_BATCH = 32


def default_lr(batch_size: int) -> float:
    """AdamW's rate of the head: 2e-4 at a batch of 32, by the square root of the batch (Malladi et al. 2022)."""
    return _BASE_LR * math.sqrt(batch_size / _BASE_BATCH)


def make_optimizer(network: nn.Module, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """AdamW with a rate for each depth: `lr` at the head, falling geometrically to `stem_lr_scale * lr` at the stem."""
    # The decay that reaches the scale at the stem depends on how many groups the backbone has.
    depth = len({group["lr_scale"] for group in param_groups_layer_decay(network, layer_decay=0.5)})
    decay = recipe.stem_lr_scale ** (1 / max(depth - 1, 1))
    groups = [
        {"params": group["params"], "lr": lr * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in param_groups_layer_decay(network, weight_decay=recipe.weight_decay, layer_decay=decay)
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Rise linearly over `warmup * steps`, then a cosine to zero; every group keeps its share."""
    rising = max(1, round(steps * warmup))

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
