"""Fine-tuning: phases and epochs, a weight average beside the weights, checkpoints, and what is watched meanwhile.

Which of the results is published is `selection`'s; what a step is, `step`'s.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.utils import ModelEmaV3

from models.decision import activate
from models.metrics import score_task
from training.checkpoint import Snapshot, load_network, load_optimizer, network_tensors, optimizer_tensors
from training.distributed import average_statistics, replicate
from training.errors import DivergedError, Preempted
from training.forward import forward_all
from training.history import Epoch, Sweep
from training.optim import make_optimizer
from training.progress import Bar, say
from training.source import Source, epoch_order
from training.step import Stepper
from training.watch import Watch

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

    from models.manifest import AnyMetrics
    from training.data import Images
    from training.plan import Plan
    from training.step import Setting

# A checkpoint is at most this much work old when a machine dies without a word.
CHECKPOINT_S = 120.0
# Processes agree on stopping and saving every so many steps, since asking is a message to all.
_ASK_EVERY = 10
_GO_ON, _SAVE, _STOP = 0, 1, 2


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
    lr: float = 0.0
    saved: float = field(default_factory=time.monotonic)


class FineTuner:
    """One fine-tuning run of `network` on images that are in memory."""

    def __init__(self, network: nn.Module, setting: Setting) -> None:
        """Take what the run needs. The network is trained in place."""
        self.stepper = Stepper(network, setting)
        self._network = self.stepper.network
        self._setting = setting
        self._recipe = setting.recipe
        self._device = setting.device
        self._decided: dict[str, Any] = {}

    def run(
        self, train: Images, validation: Images | None, plan: Plan, sweep: Sweep | None = None, resumed: Snapshot | None = None
    ) -> FineTuned:
        """Train for the plan's epochs, from the start or from where a checkpoint was taken.

        Raises:
            DivergedError: If the loss stops being finite.
            Preempted: If the process was asked to stop; a checkpoint was saved.
        """
        source = Source(train, self._setting.objective, self._device)
        # What a checkpoint needs besides the state: the plan is not made again, and neither is the sweep.
        self._decided = {"plan": plan.to_json(), "sweep": sweep.model_dump() if sweep else None}
        with self._setting.stop.deferred():
            state = self._begin(plan) if resumed is None else self._restore(plan, resumed)
            watch = Watch(state.epochs)
            is_new = state.epoch < plan.all_epochs
            while state.epoch < plan.all_epochs:
                if state.step == 0 and state.epoch in {0, plan.freeze_epochs}:
                    self._enter(state, plan)
                self._epoch(source, plan, state)
                self._finish_epoch(state, plan, validation)
                watch.after(state.epochs)
                self._obey(state, self._wish(state, ends_epoch=state.epoch < plan.all_epochs))
            if is_new:
                self._save(state)
        return FineTuned(self._network.eval(), state.average.module.eval(), tuple(state.epochs))

    def evaluate(self, network: nn.Module, images: Images) -> AnyMetrics:
        """Score uncalibrated outputs on a split."""
        task = self._setting.objective.task
        return score_task(task, activate(self.outputs(network, images), task, 1.0), images.targets)

    def outputs(self, network: nn.Module, images: Images) -> npt.NDArray[np.float32]:
        """float32 `[N, K]` of every image, in order, without augmentation: logits, or values in their unit."""
        setting = self._setting
        rows = forward_all(images.pixels, network.eval(), setting.normalise, setting.device, setting.world)
        return setting.objective.in_units(rows.numpy())

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
        self.stepper.train_mode()
        name = f"epoch {state.epoch + 1}/{plan.all_epochs}"
        images, done = plan.steps_per_epoch * plan.batch_size, state.step * plan.batch_size
        pending: list[torch.Tensor] = []
        started = time.monotonic()

        def note() -> None:
            """Move what happened since the last look into the state."""
            nonlocal started
            # Each over all of its images, whichever process they were on.
            state.losses += self._setting.world.mean(torch.stack(pending)).tolist() if pending else []
            state.seconds += time.monotonic() - started
            pending.clear()
            started = time.monotonic()

        with Bar(name, images, done, self._setting.events) as bar:
            while state.step < plan.steps_per_epoch:
                rows = order[state.step * plan.batch_size : (state.step + 1) * plan.batch_size]
                number = state.epoch * plan.steps_per_epoch + state.step
                state.lr = schedule.apply(state.optimizer, number - first)
                pending.append(self.stepper.step(state.model, source, rows, state.optimizer, number))
                state.average.update(self._network)
                state.step += 1
                bar.step(len(rows), pending[-1], self.stepper.hits, self.stepper.seen)
                if (wish := self._wish(state)) != _GO_ON:
                    note()
                    self._obey(state, wish)
        note()

    def _wish(self, state: _State, *, ends_epoch: bool = False) -> int:
        """What any process asks for: to stop, to save, or to go on. All of them get the same answer."""
        world = self._setting.world
        if not world.is_alone and state.step % _ASK_EVERY:
            return _GO_ON
        is_due = time.monotonic() - state.saved > CHECKPOINT_S or (ends_epoch and self._setting.saves_epochs)
        return world.highest(_STOP if self._setting.stop.requested else _SAVE if is_due else _GO_ON, self._device.torch)

    def _obey(self, state: _State, wish: int) -> None:
        if wish != _GO_ON:
            self._save(state)
        if wish == _STOP:
            raise Preempted

    def _finish_epoch(self, state: _State, plan: Plan, validation: Images | None) -> None:
        """Note what the epoch came to, and look at validation."""
        loss = float(np.mean(state.losses))
        # The last step's loss is of before that step.
        if math.isfinite(loss) and not all(bool(weight.isfinite().all()) for weight in self._network.parameters()):
            loss = math.nan
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} in epoch {state.epoch + 1}; use a lower rate than lr={plan.lr:.2g}")
        average_statistics([self._network, state.average.module], self._setting.world)
        watched = self.evaluate(state.average.module, validation) if validation is not None else None
        entry = Epoch(
            epoch=state.epoch + 1,
            phase=plan.phase(state.epoch),
            loss=loss,
            validation_loss=watched.loss if watched else None,
            validation_score=watched.headline[1] if watched else None,
            lr=state.lr,
            images_per_s=plan.steps_per_epoch * plan.batch_size / max(state.seconds, 1e-9),
            seconds=state.seconds,
        )
        state.epochs.append(entry)
        self._setting.events("epoch", **entry.model_dump())
        if watched is not None:
            name, value = watched.headline
            say(f"  loss {loss:.3f}   validation (average): {name} {value:.3f}, loss {watched.loss:.3f}")
        state.epoch, state.step, state.losses, state.seconds = state.epoch + 1, 0, [], 0.0

    def _save(self, state: _State) -> None:
        state.saved = time.monotonic()
        average_statistics([self._network, state.average.module], self._setting.world)
        if not self._setting.world.is_main:
            return
        progress: dict[str, Any] = {
            **self._decided,
            "epoch": state.epoch,
            "step": state.step,
            "losses": state.losses,
            "seconds": state.seconds,
            "epochs": [entry.model_dump() for entry in state.epochs],
            "lr": state.lr,
            "scaler": self.stepper.scaler.state_dict(),
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
        state.epoch, state.step, state.lr = progress["epoch"], progress["step"], progress["lr"]
        state.losses, state.seconds = progress["losses"], progress["seconds"]
        state.epochs = [Epoch.model_validate(entry) for entry in progress["epochs"]]
        if progress["scaler"]:
            self.stepper.scaler.load_state_dict(progress["scaler"])
        # At the beginning of a phase its optimizer is made anew.
        if state.epoch < plan.all_epochs and (state.step > 0 or state.epoch not in {0, plan.freeze_epochs}):
            self._enter(state, plan)
            load_optimizer(state.optimizer, resumed.tensors)
        return state
