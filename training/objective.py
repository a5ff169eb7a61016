"""What the task asks of a network: how many outputs, which loss, and how targets become tensors.

The one place in training that tells single-label, multi-label and regression apart. A regression learns standardised
values, so that one learning rate fits any unit; `fold` writes the unit into the head before anything is exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from training.errors import TrainingError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

    from models.recipe import Recipe, Task

_SMOOTHING = 0.05


@dataclass(frozen=True)
class Objective:
    """A task's loss over a fixed set of outputs.

    Attributes:
        task: Which task.
        outputs: K, the size of the head.
        smoothing: Label smoothing of cross-entropy.
        log_prior: Log of each label's share of the training images `[K]`, where the loss is adjusted by it; else None.
        centre: Mean of a regression's training targets, in its unit.
        spread: Their standard deviation.
    """

    task: Task
    outputs: int
    smoothing: float = 0.0
    log_prior: torch.Tensor | None = None
    centre: float = 0.0
    spread: float = 1.0

    def tensor(self, targets: npt.NDArray[Any]) -> torch.Tensor:
        """Targets as the loss takes them: int64 `[N]`, or float32 `[N, K]`, standardised for a regression."""
        tensor = torch.from_numpy(np.ascontiguousarray(targets))
        return (tensor - self.centre) / self.spread if self.task == "regression" else tensor

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smooth: bool = True) -> torch.Tensor:
        """The mean loss of a batch of raw outputs `[N, K]`: cross-entropy, binary cross-entropy, or Huber."""
        outputs = outputs.float()
        if self.task == "multi_label":
            return functional.binary_cross_entropy_with_logits(outputs, targets)
        if self.task == "regression":
            return functional.huber_loss(outputs, targets)
        if self.log_prior is not None:
            outputs = outputs + self.log_prior.to(outputs.device)
        return functional.cross_entropy(outputs, targets, label_smoothing=self.smoothing if smooth else 0.0)

    def in_units(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Raw outputs as the artifact answers them: a regression's in its unit, others as they are."""
        return (outputs * self.spread + self.centre).astype(np.float32) if self.task == "regression" else outputs

    def fold(self, network: nn.Module) -> None:
        """Write a regression's unit into the head, so that the network itself answers in it."""
        if self.task != "regression":
            return
        head = network.get_classifier()  # type: ignore[operator]
        with torch.no_grad():
            head.weight.mul_(self.spread)
            head.bias.mul_(self.spread).add_(self.centre)

    def hits(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
        """How many of a batch are right, for the progress bar; None where the task has no such count."""
        return (outputs.argmax(dim=1) == targets).sum() if self.task == "single_label" else None


def make_objective(task: Task, num_labels: int, recipe: Recipe, train_targets: npt.NDArray[Any]) -> Objective:
    """The objective for a data set.

    Args:
        task: As the data set's labels are.
        num_labels: K.
        recipe: Smoothing and imbalance.
        train_targets: As in `training.data.Images`.

    Raises:
        TrainingError: If the recipe asks for something that the task does not have, or a regression's values are all equal.
    """
    if task != "single_label":
        wrong = [key for key in ("label_smoothing", "imbalance") if getattr(recipe, key) not in {None, 0.0, "none"}]
        if wrong:
            raise TrainingError(f"recipe.{wrong[0]} belongs to single_label, and the data set's labels make it {task}")
    if recipe.unit is not None and task != "regression":
        raise TrainingError(f"recipe.unit belongs to regression, and the data set's labels make it {task}")
    if task == "regression":
        centre, spread = float(train_targets.mean()), float(train_targets.std())
        if spread == 0:
            raise TrainingError(f"every training image has the value {centre:g}; expected values that differ")
        return Objective(task, 1, centre=centre, spread=spread)
    if task == "multi_label":
        return Objective(task, num_labels)
    prior = None
    if recipe.imbalance == "logit_adjustment":
        shares = np.bincount(train_targets, minlength=num_labels) / len(train_targets)
        prior = torch.from_numpy(np.log(shares)).float()
    smoothing = _SMOOTHING if recipe.label_smoothing is None else recipe.label_smoothing
    return Objective(task, num_labels, smoothing=smoothing, log_prior=prior)
