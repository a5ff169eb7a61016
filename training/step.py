"""One step: the gradients of a batch and what the optimizer makes of them.

Depends on the weights, the seed and the number of the step, and on nothing else: so a step that is repeated after a stop, or cut
into parts, or spread over processes, is the same step.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from training.augment import Augment
from training.distributed import replicate
from training.optim import make_optimizer
from training.progress import say
from training.source import Source, mixed_seed, rows_for_ever

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from models.recipe import Recipe
    from training.checkpoint import Snapshot
    from training.data import Images
    from training.device import Device
    from training.distributed import World
    from training.normalise import Normalise
    from training.objective import Objective
    from training.progress import Events
    from training.stop import Stop

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_TIMED_STEPS = 3


@dataclass(frozen=True)
class Setting:
    """What a run is carried out with, besides the network and the images."""

    normalise: Normalise
    objective: Objective
    recipe: Recipe
    device: Device
    world: World
    stop: Stop
    events: Events
    save: Callable[[Snapshot], None]
    # Whether a checkpoint is taken at the end of every epoch, however young the last one is.
    saves_epochs: bool = False


class Stepper:
    """Takes steps with one network, which it moves to the device and trains in place."""

    def __init__(self, network: nn.Module, setting: Setting) -> None:
        """Take what every step needs."""
        self.network = network.to(setting.device.torch, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scaler = setting.device.scaler()
        self._setting = setting
        self._recipe = setting.recipe
        self._device = setting.device
        self._augment = Augment(setting.recipe)
        self._parts = setting.recipe.accumulate
        # Of the last step, for the progress bar: how many were right of how many this process computed.
        self.hits: torch.Tensor | None = None
        self.seen = 0

    def train_mode(self) -> None:
        """Everything trains, but for the statistics of batch norm where the recipe keeps them."""
        self.network.train()
        if self._recipe.keeps_statistics:
            for module in self.network.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.eval()

    def step(
        self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], optimizer: torch.optim.Optimizer, number: int
    ) -> torch.Tensor:
        """Take step `number` on the images `rows`.

        Args:
            model: The network, or its replica among several processes.
            source: The training images.
            rows: Of all processes; each computes its share.
            optimizer: With the rates of this step.
            number: Of the step in the run.

        Returns:
            The mean loss of this process's share, on the device.
        """
        optimizer.zero_grad(set_to_none=True)
        loss = self.backward(model, source, rows, number)
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss

    def backward(self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], number: int) -> torch.Tensor:
        """Add up the gradients of one step, in as many parts as memory asks for; half as large where it runs out."""
        while True:
            try:
                return self._in_parts(model, source, rows, number)
            except torch.OutOfMemoryError:
                # Processes that count parts differently would wait for each other for ever.
                if self._parts >= len(rows) or not self._setting.world.is_alone:
                    raise
                self._parts = min(len(rows), 2 * self._parts)
                say(f"  out of memory; each step is computed in {self._parts} parts from here on")
                model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()

    def seconds(self, images: Images, batch_size: int) -> float:
        """Seconds of forward and backward, the same in every process. Nothing is learnt."""
        timed = Stepper(copy.deepcopy(self.network), self._setting)
        timed.train_mode()
        source = Source(images, self._setting.objective, self._device)
        rows = np.arange(min(batch_size, len(images)))
        times = []
        for _ in range(_TIMED_STEPS):
            started = time.perf_counter()
            timed.backward(timed.network, source, rows, number=0)
            self._device.synchronize()
            times.append(time.perf_counter() - started)
        return float(self._setting.world.mean(torch.tensor(min(times), device=self._device.torch)))

    def sweep(self, images: Images, lrs: Iterator[float], batch_size: int, highest: float) -> Iterator[float]:
        """Take one step at each rate on a copy of the network, and give the loss before each; for `lr_finder`.

        Args:
            images: The training images.
            lrs: Rates of the head; other layers keep their share.
            batch_size: Images a step.
            highest: The rate that the parameter groups are made for.
        """
        swept = Stepper(copy.deepcopy(self.network), self._setting)
        swept.train_mode()
        optimizer = make_optimizer(swept.network, self._recipe, highest)
        model = replicate(swept.network, self._setting.world, self._device)
        source = Source(images, self._setting.objective, self._device)
        batches = rows_for_ever(len(images), batch_size, self._recipe.seed)
        for number, (lr, rows) in enumerate(zip(lrs, batches, strict=False)):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * lr / highest
            # The mean over the processes, so that all of them stop at the same rate.
            yield float(self._setting.world.mean(swept.step(model, source, rows, optimizer, number)))

    def _in_parts(self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], number: int) -> torch.Tensor:
        seed = mixed_seed(self._recipe.seed, number)
        draws = self._augment.draw(len(rows), torch.Generator().manual_seed(seed))
        # Dropout and the like, where a network has them.
        torch.manual_seed(seed + self._setting.world.rank)
        share = self._setting.world.share(len(rows))
        mine, draws = rows[share], draws[share]
        total = torch.zeros((), device=self._device.torch)
        self.hits, self.seen = None, len(mine)
        for part in np.array_split(np.arange(len(mine)), min(self._parts, len(mine))):
            loss = self._loss(model, source, mine[part], draws[torch.from_numpy(part)]) * (len(part) / len(mine))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _loss(self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], draws: torch.Tensor) -> torch.Tensor:
        pixels, targets = source.take(rows)
        images = self._augment(self._setting.normalise(self._augment.on_bytes(pixels, draws), self._device), draws)
        with self._device.autocast():
            outputs = model(images)
        hits = self._setting.objective.hits(outputs.detach(), targets)
        self.hits = hits if self.hits is None or hits is None else self.hits + hits
        return self._setting.objective.loss(outputs, targets)
