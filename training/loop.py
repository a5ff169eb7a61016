"""Fine-tuning: phases, layer-wise rates, augmentation, a weight average beside the weights.

Owns the steps and what is watched while they run. Which of the results is published is `selection`'s. A step is a function of
the weights, the seed and its number, and of nothing else: so a run that is resumed, or cut into parts, or spread over
processes, takes the same steps.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn

from models.decision import activate
from models.metrics import score_task
from training.augment import Augment
from training.checkpoint import Snapshot, load_network, load_optimizer, network_tensors, optimizer_tensors
from training.distributed import average_statistics, replicate
from training.errors import Preempted, TrainingError
from training.history import Epoch, Sweep
from training.optim import make_optimizer
from training.progress import Bar, Events, say
from training.source import Source, epoch_order, mixed_seed, rows_for_ever
from training.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from models.manifest import AnyMetrics
    from models.recipe import Recipe
    from training.data import Images
    from training.device import Device
    from training.distributed import World
    from training.normalise import Normalise
    from training.objective import Objective
    from training.plan import Plan
    from training.stop import Stop

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_EVAL_BATCH = 64
_TIMED_STEPS = 3
# A checkpoint is at most this much work old when a machine dies without a word.
_CHECKPOINT_S = 120.0


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


@dataclass(frozen=True)
class FineTuned:
    """The network after the last step, its weight average, and what happened on the way."""

    last: nn.Module
    ema: nn.Module
    epochs: tuple[Epoch, ...]


@dataclass
class _State:
    """Where a run is: the optimizer of its phase, the average, and the losses of the epoch so far."""

    optimizer: torch.optim.Optimizer
    average: ModelEmaV3
    model: nn.Module
    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)


class FineTuner:
    """One fine-tuning run of `network` on images that are in memory."""

    def __init__(self, network: nn.Module, setting: Setting) -> None:
        """Take what every step needs. The network is trained in place."""
        self._setting = setting
        self._recipe = setting.recipe
        self._device = setting.device
        self._network = network.to(setting.device.torch, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._augment = Augment(setting.recipe)
        self._scaler = setting.device.scaler()
        self._parts = setting.recipe.accumulate
        # Of the last step, for the progress bar.
        self._hits: torch.Tensor | None = None
        self._seen = 0
        self._decided: dict[str, Any] = {}

    def run(
        self, train: Images, validation: Images | None, plan: Plan, sweep: Sweep | None = None, resumed: Snapshot | None = None
    ) -> FineTuned:
        """Train for the plan's epochs, from the start or from where a checkpoint was taken.

        Raises:
            TrainingError: If the loss stops being finite.
            Preempted: If the process was asked to stop; a checkpoint was saved.
        """
        source = Source(train, self._setting.objective, self._device)
        # What a checkpoint needs besides the state: the plan is not made again, and neither is the sweep.
        self._decided = {"plan": plan.to_json(), "sweep": sweep.model_dump() if sweep else None}
        state = self._begin(plan) if resumed is None else self._restore(plan, resumed)
        watch = Watch(state.epochs)
        saved = time.monotonic()
        while state.epoch < plan.all_epochs:
            if state.step == 0 and state.epoch in {0, plan.freeze_epochs}:
                self._enter(state, plan)
            self._epoch(source, plan, state)
            self._finish_epoch(state, plan, validation)
            watch.after(state.epochs)
            # One clock for all: they save together or not at all.
            if self._setting.world.any(time.monotonic() - saved > _CHECKPOINT_S, self._device.torch):
                self._save(state)
                saved = time.monotonic()
        self._save(state)
        return FineTuned(self._network.eval(), state.average.module.eval(), tuple(state.epochs))

    def evaluate(self, network: nn.Module, images: Images) -> AnyMetrics:
        """Score uncalibrated outputs on a split."""
        task = self._setting.objective.task
        return score_task(task, activate(self.outputs(network, images), task, 1.0), images.targets)

    @torch.inference_mode()
    def outputs(self, network: nn.Module, images: Images) -> npt.NDArray[np.float32]:
        """float32 `[N, K]` of every image, in order, without augmentation: logits, or values in their unit."""
        network.eval()
        share = self._setting.world.share(len(images))
        pixels = images.pixels[share]
        parts = [torch.zeros(0, self._setting.objective.outputs)]
        for start in range(0, len(pixels), _EVAL_BATCH):
            batch = self._setting.normalise(torch.from_numpy(pixels[start : start + _EVAL_BATCH]), self._device)
            # no autocast: what is measured must be what is exported
            parts.append(network(batch).float().cpu())
        return self._setting.objective.in_units(self._setting.world.gather(torch.cat(parts)).numpy())

    def seconds_per_step(self, train: Images, batch_size: int) -> float:
        """Time forward and backward on a copy, so that nothing is learned."""
        source = Source(train, self._setting.objective, self._device)
        network, self._network = self._network, copy.deepcopy(self._network)
        self._train_mode()
        rows = np.arange(min(batch_size, len(train)))
        times = []
        for _ in range(_TIMED_STEPS):
            started = time.perf_counter()
            self._backward(self._network, source, rows, seed=0)
            self._device.synchronize()
            times.append(time.perf_counter() - started)
        self._network = network
        # Every process must come to the same plan.
        return float(self._setting.world.mean(torch.tensor(min(times), device=self._device.torch)))

    def sweep(self, train: Images, lrs: Iterator[float], batch_size: int, highest: float) -> Iterator[float]:
        """Take one step at each rate on a copy of the network, and give the loss before each; for `lr_finder`.

        Args:
            train: The training images.
            lrs: Rates of the head; other layers keep their share.
            batch_size: Images a step.
            highest: The rate that the parameter groups are made for.
        """
        source = Source(train, self._setting.objective, self._device)
        network, self._network = self._network, copy.deepcopy(self._network)
        try:
            self._train_mode()
            optimizer = make_optimizer(self._network, self._recipe, highest)
            model = replicate(self._network, self._setting.world, self._device)
            batches = rows_for_ever(len(train), batch_size, self._recipe.seed)
            for number, (lr, rows) in enumerate(zip(lrs, batches, strict=False)):
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * lr / highest
                # The mean over the processes, so that all of them stop at the same rate.
                yield float(self._setting.world.mean(self._step(model, source, rows, optimizer, seed=number)))
        finally:
            self._network = network

    def _begin(self, plan: Plan) -> _State:
        decay = math.exp(-1 / max(1.0, self._recipe.ema_epochs * plan.steps_per_epoch))
        average = ModelEmaV3(self._network, decay=decay)
        return _State(make_optimizer(self._network, self._recipe, plan.lr), average, self._network)

    def _enter(self, state: _State, plan: Plan) -> None:
        """Begin a phase: which layers train, and an optimizer for them."""
        phase = plan.phase(state.epoch)
        self._network.requires_grad_(requires_grad=phase == "unfrozen")
        self._network.get_classifier().requires_grad_(requires_grad=True)  # type: ignore[operator]
        state.optimizer = make_optimizer(self._network, self._recipe, plan.peak_lr(phase))
        state.model = replicate(self._network, self._setting.world, self._device)

    def _epoch(self, source: Source, plan: Plan, state: _State) -> None:
        """Take the rest of the epoch's steps."""
        phase = plan.phase(state.epoch)
        schedule, first = plan.schedule(phase, self._recipe), plan.first_step(phase)
        order = epoch_order(len(source), state.epoch, self._recipe.seed)
        self._train_mode()
        name = f"epoch {state.epoch + 1}/{plan.all_epochs}"
        pending: list[torch.Tensor] = []
        started = time.monotonic()
        images, done = plan.steps_per_epoch * plan.batch_size, state.step * plan.batch_size
        with Bar(name, images, done, self._setting.events) as bar, self._setting.stop.deferred():
            while state.step < plan.steps_per_epoch:
                rows = np.sort(order[state.step * plan.batch_size : (state.step + 1) * plan.batch_size])
                number = state.epoch * plan.steps_per_epoch + state.step
                schedule.apply(state.optimizer, number - first)
                pending.append(self._step(state.model, source, rows, state.optimizer, seed=number))
                state.average.update(self._network)
                state.step += 1
                bar.step(len(rows), pending[-1], self._hits, self._seen)
                if self._setting.world.any(self._setting.stop.requested, self._device.torch):
                    state.losses += self._numbers(pending)
                    state.seconds += time.monotonic() - started
                    self._save(state)
                    raise Preempted
        state.losses += self._numbers(pending)
        state.seconds += time.monotonic() - started

    def _finish_epoch(self, state: _State, plan: Plan, validation: Images | None) -> None:
        """Note what the epoch came to, and look at validation."""
        world = self._setting.world
        loss = float(np.mean(state.losses))
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} in epoch {state.epoch + 1}; use a lower rate than lr={plan.lr:.2g}")
        average_statistics([self._network, state.average.module], world)
        watched = self.evaluate(state.average.module, validation) if validation is not None else None
        entry = Epoch(
            epoch=state.epoch + 1,
            phase=plan.phase(state.epoch),
            loss=loss,
            validation_loss=watched.loss if watched else None,
            validation_score=watched.headline[1] if watched else None,
            lr=max(group["lr"] for group in state.optimizer.param_groups),
            images_per_s=plan.steps_per_epoch * plan.batch_size / max(state.seconds, 1e-9),
            seconds=state.seconds,
        )
        state.epochs.append(entry)
        self._setting.events("epoch", **entry.model_dump())
        if watched is not None:
            name, value = watched.headline
            say(f"  loss {loss:.3f}   validation (average): {name} {value:.3f}, loss {watched.loss:.3f}")
        state.epoch, state.step, state.losses, state.seconds = state.epoch + 1, 0, [], 0.0

    def _step(
        self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], optimizer: torch.optim.Optimizer, seed: int
    ) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(model, source, rows, seed)
        self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        return loss

    def _backward(self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], seed: int) -> torch.Tensor:
        """Add up the gradients of one step, in as many parts as memory asks for; half as large where it runs out."""
        while True:
            try:
                return self._in_parts(model, source, rows, seed)
            except torch.OutOfMemoryError:
                size = -(-len(rows) // self._setting.world.size)
                if self._parts >= size or not self._setting.world.is_alone:
                    raise
                self._parts = min(size, 2 * self._parts)
                say(f"  out of memory; each step is computed in {self._parts} parts from here on, with the same result")
                model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()

    def _in_parts(self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mixed_seed(self._recipe.seed, seed))
        draws = self._augment.draw(len(rows), generator)
        # Dropout and the like, where a network has them.
        torch.manual_seed(mixed_seed(self._recipe.seed, seed) + self._setting.world.rank)
        share = self._setting.world.share(len(rows))
        mine, draws = rows[share], draws[share]
        total = torch.zeros((), device=self._device.torch)
        self._hits, self._seen = None, len(mine)
        for part in np.array_split(np.arange(len(mine)), min(self._parts, len(mine))):
            loss = self._loss(model, source, mine[part], draws[torch.from_numpy(part)]) * (len(part) / len(mine))
            self._scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _loss(self, model: nn.Module, source: Source, rows: npt.NDArray[np.int64], draws: torch.Tensor) -> torch.Tensor:
        pixels, targets = source.take(rows)
        images = self._augment(self._setting.normalise(self._augment.on_bytes(pixels, draws), self._device), draws)
        with self._device.autocast():
            outputs = model(images)
        hits = self._setting.objective.hits(outputs.detach(), targets)
        self._hits = hits if self._hits is None or hits is None else self._hits + hits
        return self._setting.objective.loss(outputs, targets)

    def _train_mode(self) -> None:
        self._network.train()
        if self._recipe.batch_norm == "frozen":
            for module in self._network.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.eval()

    def _save(self, state: _State) -> None:
        average_statistics([self._network, state.average.module], self._setting.world)
        progress: dict[str, Any] = {
            **self._decided,
            "epoch": state.epoch,
            "step": state.step,
            "losses": state.losses,
            "seconds": state.seconds,
            "epochs": [entry.model_dump() for entry in state.epochs],
            "scaler": self._scaler.state_dict(),
        }
        tensors = {
            **network_tensors("network", self._network),
            **network_tensors("average", state.average.module),
            **optimizer_tensors(state.optimizer),
        }
        self._setting.save(Snapshot(progress, tensors))

    def _restore(self, plan: Plan, resumed: Snapshot) -> _State:
        state = self._begin(plan)
        load_network("network", self._network, resumed.tensors)
        load_network("average", state.average.module, resumed.tensors)
        progress = resumed.progress
        state.epoch, state.step = progress["epoch"], progress["step"]
        state.losses, state.seconds = progress["losses"], progress["seconds"]
        state.epochs = [Epoch.model_validate(entry) for entry in progress["epochs"]]
        if progress["scaler"]:
            self._scaler.load_state_dict(progress["scaler"])
        if state.epoch < plan.all_epochs:
            self._enter(state, plan)
            load_optimizer(state.optimizer, resumed.tensors)
        return state

    def _numbers(self, losses: list[torch.Tensor]) -> list[float]:
        """The losses of some steps, each over all of its images, whichever process they were on."""
        values: list[float] = self._setting.world.mean(torch.stack(losses)).tolist() if losses else []
        return values
