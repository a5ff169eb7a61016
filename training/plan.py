"""What a recipe's "auto" became for this data on this device: batch size, rate, epochs, and the phases they make."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from training.errors import TrainingError
from training.optim import Schedule, default_lr
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.recipe import Recipe

Phase = Literal["frozen", "unfrozen"]
_CPU_BUDGET_MINUTES = 2.0
_CUDA_BUDGET_MINUTES = 60.0
_WANTED_EPOCHS, _LEAST_EPOCHS = 6, 2
# fastai's frozen phase ends at its highest rate and leaves the descent to the next phase.
_FROZEN_WARMUP = 0.99


@dataclass(frozen=True)
class Plan:
    """The resolved length and rates of a run."""

    batch_size: int
    lr: float
    epochs: int
    freeze_epochs: int
    freeze_lr: float
    steps_per_epoch: int

    def resolved(self) -> dict[str, int | float | None]:
        """The recipe's keys with what they became."""
        freeze_lr = self.freeze_lr if self.freeze_epochs else None
        return {"batch_size": self.batch_size, "lr": self.lr, "epochs": self.epochs, "freeze_lr": freeze_lr}

    @property
    def all_epochs(self) -> int:
        """Epochs of both phases."""
        return self.freeze_epochs + self.epochs

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch (0-based)."""
        return "frozen" if epoch < self.freeze_epochs else "unfrozen"

    def peak_lr(self, phase: Phase) -> float:
        """The head's highest rate in a phase."""
        return self.freeze_lr if phase == "frozen" else self.lr

    def schedule(self, phase: Phase, recipe: Recipe) -> Schedule:
        """The rates of a phase; step 0 is the phase's first."""
        if phase == "frozen":
            return Schedule(recipe.schedule, self.freeze_epochs * self.steps_per_epoch, _FROZEN_WARMUP)
        return Schedule(recipe.schedule, self.epochs * self.steps_per_epoch, recipe.warmup)

    def first_step(self, phase: Phase) -> int:
        """The number of a phase's first step in the run."""
        return 0 if phase == "frozen" else self.freeze_epochs * self.steps_per_epoch

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """From a checkpoint."""
        return cls(**values)


def default_batch_size(images: int) -> int:
    """A power of two that gives about 40 steps an epoch, 16 to 256."""
    return int(np.clip(2 ** int(math.log2(max(images / 40, 1))), 16, 256))


def batch_size_for(recipe: Recipe, images: int, world: int) -> int:
    """The recipe's batch size, or the rule's; never more than there are images, and a multiple of the processes."""
    batch_size = min(recipe.batch_size or default_batch_size(images), max(2, images))
    return max(world, batch_size // world * world)


def rule_lr(recipe: Recipe, batch_size: int) -> float:
    """The recipe's rate, or the rule's where it has none or asks for a search."""
    return recipe.lr if isinstance(recipe.lr, float) else default_lr(recipe.optimizer, batch_size)


def make_plan(recipe: Recipe, images: int, *, is_cuda: bool, world: int, seconds_per_step: Callable[[int], float]) -> Plan:
    """Resolve batch size, rate and epochs; epochs by what the device can afford.

    Args:
        recipe: What was asked for.
        images: Number of training images.
        is_cuda: Whether a GPU trains; its default budget is longer.
        world: Number of processes; the batch is a multiple of it.
        seconds_per_step: Times one step at a batch size; called only where epochs are left to us.

    Raises:
        TrainingError: If the recipe cuts a step into more parts than it has images.
    """
    batch_size = batch_size_for(recipe, images, world)
    if recipe.accumulate * world > batch_size:
        raise TrainingError(
            f"recipe.accumulate is {recipe.accumulate}, more parts than a step's {batch_size // world} images can be cut into; "
            "lower it, or give a larger batch_size"
        )
    steps = max(1, images // batch_size)
    epochs = recipe.epochs
    if epochs is None:
        epochs = _affordable_epochs(recipe, steps * seconds_per_step(batch_size), is_cuda=is_cuda)
    lr = rule_lr(recipe, batch_size)
    return Plan(batch_size, lr, epochs, recipe.freeze_epochs, recipe.freeze_lr or min(1.0, 2 * lr), steps)


def _affordable_epochs(recipe: Recipe, epoch_s: float, *, is_cuda: bool) -> int:
    """Six epochs (docs/experiments.md), cut to what the time budget buys, but never below two."""
    budget_s = 60 * (recipe.budget_minutes or (_CUDA_BUDGET_MINUTES if is_cuda else _CPU_BUDGET_MINUTES))
    epochs = min(_WANTED_EPOCHS, max(_LEAST_EPOCHS, int(budget_s / epoch_s) - recipe.freeze_epochs))
    if epochs < _WANTED_EPOCHS:
        say(f"{epochs} of {_WANTED_EPOCHS} epochs fit {budget_s / 60:g} min here; pass --epochs {_WANTED_EPOCHS} for all of them")
    return epochs
