"""Fine-tuning: all layers, layer-wise rates, AdamW, warm-up and cosine, a weight average beside the weights.

Owns the steps and what is watched while they run. Which of the results is published is `selection`'s.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn

from models.decision import probabilities
from models.metrics import score
from training.augment import Augment
from training.errors import TrainingError
from training.optim import default_lr, make_optimizer, make_schedule
from training.progress import bar, say

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.manifest import SplitMetrics
    from models.recipe import Recipe
    from training.data import Images
    from training.device import Device
    from training.normalise import Normalise

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_EVAL_BATCH = 64
_TIMED_STEPS = 3
_CPU_BUDGET_MINUTES = 1.0
_CUDA_BUDGET_MINUTES = 60.0
_LEAST_EPOCHS, _MOST_EPOCHS = 6, 40
_LEAST_AFFORDABLE = 2


@dataclass(frozen=True)
class Plan:
    """What a recipe's "auto" became for this data on this device."""

    batch_size: int
    lr: float
    epochs: int
    steps_per_epoch: int

    def resolved(self) -> dict[str, int | float]:
        """The recipe's keys with what they became."""
        return {"batch_size": self.batch_size, "lr": self.lr, "epochs": self.epochs}


@dataclass(frozen=True)
class FineTuned:
    """The network after the last step, and its weight average."""

    last: nn.Module
    ema: nn.Module


class FineTuner:
    """One fine-tuning run of `network` on images that are in memory."""

    def __init__(self, network: nn.Module, normalise: Normalise, recipe: Recipe, device: Device) -> None:
        """Take what every step needs. The network is trained in place."""
        self._network = network.to(device.torch, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._normalise = normalise
        self._recipe = recipe
        self._device = device
        self._augment = Augment(recipe)
        self._draws = torch.Generator().manual_seed(recipe.seed)
        self._scaler = device.scaler()

    def plan(self, train: Images) -> Plan:
        """Resolve batch size, rate and epochs; epochs by the size of the data, then by what the device can afford."""
        recipe = self._recipe
        batch_size = recipe.batch_size or int(np.clip(2 ** int(math.log2(max(len(train) / 40, 1))), 16, 256))
        batch_size = min(batch_size, max(2, len(train)))
        steps = max(1, len(train) // batch_size)
        lr = recipe.lr if isinstance(recipe.lr, float) else default_lr(batch_size)
        epochs = recipe.epochs if recipe.epochs is not None else self._affordable_epochs(train, batch_size, steps)
        return Plan(batch_size, lr, epochs, steps)

    def run(self, train: Images, validation: Images | None, plan: Plan) -> FineTuned:
        """Train for the plan's epochs.

        Raises:
            TrainingError: If the loss stops being finite.
        """
        optimizer = make_optimizer(self._network, self._recipe, plan.lr)
        schedule = make_schedule(optimizer, plan.epochs * plan.steps_per_epoch, self._recipe.warmup)
        decay = math.exp(-1 / max(1.0, self._recipe.ema_epochs * plan.steps_per_epoch))
        average = ModelEmaV3(self._network, decay=decay)
        for epoch in range(1, plan.epochs + 1):
            self._train_mode()
            loss = self._epoch(train, plan, optimizer, schedule, average, f"epoch {epoch}/{plan.epochs}")
            # After the last epoch everything is scored anyway.
            if validation is not None and epoch < plan.epochs:
                watched = self.evaluate(average.module, validation)
                say(f"  loss {loss:.3f}   validation (average): accuracy {watched.accuracy:.3f}, nll {watched.nll:.3f}")
        return FineTuned(self._network.eval(), average.module.eval())

    def evaluate(self, network: nn.Module, images: Images) -> SplitMetrics:
        """Score raw softmax outputs on a split."""
        return score(probabilities(self.logits(network, images), 1.0), images.targets)

    @torch.inference_mode()
    def logits(self, network: nn.Module, images: Images) -> npt.NDArray[np.float32]:
        """float32 logits `[N, K]` of every image, in order, without augmentation."""
        network.eval()
        parts = []
        for start in range(0, len(images), _EVAL_BATCH):
            batch = self._normalise(torch.from_numpy(images.pixels[start : start + _EVAL_BATCH]), self._device)
            # no autocast: what is measured must be what is exported
            parts.append(network(batch).float().cpu())
        return torch.cat(parts).numpy()

    def _epoch(
        self,
        train: Images,
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        average: ModelEmaV3,
        name: str,
    ) -> float:
        order = torch.randperm(len(train), generator=self._draws).numpy()
        losses = []
        with bar(name, plan.steps_per_epoch) as done:
            for step in range(plan.steps_per_epoch):
                chosen = np.sort(order[step * plan.batch_size : (step + 1) * plan.batch_size])
                loss = self._step(train, chosen, optimizer)
                schedule.step()
                average.update(self._network)
                losses.append(loss)
                done.update()
                if step % 10 == 0:
                    done.set_postfix_str(f"loss {float(loss):.3f}")
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise TrainingError(f"the loss became {mean} in {name}; use a lower rate than lr={plan.lr:.2g}")
        return mean

    def _step(self, train: Images, chosen: npt.NDArray[np.int64], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        loss = self._loss(train, chosen)
        optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        return loss.detach()

    def _loss(self, train: Images, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
        images = self._normalise(torch.from_numpy(train.pixels[chosen]), self._device)
        images = self._augment(images, self._draws)
        labels = torch.from_numpy(train.targets[chosen]).to(self._device.torch)
        with self._device.autocast():
            logits = self._network(images)
        smoothing = 0.05 if self._recipe.label_smoothing is None else self._recipe.label_smoothing
        return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    def _train_mode(self) -> None:
        self._network.train()
        if self._recipe.batch_norm == "frozen":
            for module in self._network.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.eval()

    def _affordable_epochs(self, train: Images, batch_size: int, steps: int) -> int:
        """20 * sqrt(5000 / N) epochs, 6 to 40, cut to what the time budget buys, but never below 2."""
        wanted = int(np.clip(round(20 * math.sqrt(5000 / len(train))), _LEAST_EPOCHS, _MOST_EPOCHS))
        default = _CUDA_BUDGET_MINUTES if self._device.is_cuda else _CPU_BUDGET_MINUTES
        budget_s = 60 * (self._recipe.budget_minutes or default)
        affordable = int(budget_s / (steps * self._seconds_per_step(train, batch_size)))
        epochs = min(wanted, max(_LEAST_AFFORDABLE, affordable))
        if epochs < wanted:
            say(
                f"{epochs} epochs fit {budget_s / 60:g} min here; data of this size deserves {wanted}: "
                f"pass --epochs {wanted}, or --budget-minutes"
            )
        return epochs

    def _seconds_per_step(self, train: Images, batch_size: int) -> float:
        """Time forward and backward on a copy, so that nothing is learned and no random draw is used up."""
        state = self._draws.get_state()
        network, self._network = self._network, copy.deepcopy(self._network)
        self._train_mode()
        times = []
        for _ in range(_TIMED_STEPS):
            started = time.perf_counter()
            self._loss(train, np.arange(min(batch_size, len(train)))).backward()
            self._device.synchronize()
            times.append(time.perf_counter() - started)
        self._network = network
        self._draws.set_state(state)
        return min(times)
