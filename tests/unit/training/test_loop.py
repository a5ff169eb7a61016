"""The loop's promises: a step depends on weights, seed and number alone, so stopping, cutting and repeating change nothing."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.support.tuning import colours, plan, recipe, tuner
from training.checkpoint import Run
from training.data import Images
from training.errors import Preempted, TrainingError
from training.stop import Stop

if TYPE_CHECKING:
    from pathlib import Path

    from models.manifest import AnyMetrics
    from models.recipe import Recipe
    from training.checkpoint import Snapshot
    from training.loop import FineTuned
    from training.source import Source

pytestmark = pytest.mark.torch
TRAIN, VALIDATION = colours(32), colours(12, seed=1)


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same(a: torch.nn.Module, b: torch.nn.Module, tolerance: float = 0.0) -> None:
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def run(chosen: Recipe) -> FineTuned:
    return tuner(chosen, TRAIN).run(TRAIN, VALIDATION, plan(chosen, len(TRAIN)))


class StopsAfter(Stop):
    """Asks the run to stop when it has been looked at `steps` times."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        super().__init__()

    @property
    def requested(self) -> bool:
        self._left -= 1
        return self._left <= 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def test_a_seed_repeats_itself_to_the_bit_and_another_does_not() -> None:
    first, again, other = run(recipe()), run(recipe()), run(recipe(seed=1))
    assert [entry.loss for entry in first.epochs] == [entry.loss for entry in again.epochs]
    assert_same(first.last, again.last)
    assert_same(first.ema, again.ema)
    assert [entry.loss for entry in first.epochs] != [entry.loss for entry in other.epochs]


@pytest.mark.parametrize("after", [1, 3, 4, 6, 7], ids=lambda after: f"step {after}")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "schedule": "one_cycle", "batch_norm": "train"},
        {"freeze_epochs": 1, "epochs": 1, "optimizer": "rmsprop", "augment": "trivial", "pretrained": True},
    ],
    ids=["adamw", "sgd", "frozen first"],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, after: int, changes: dict[str, object]) -> None:
    chosen = recipe(**changes)
    whole = run(chosen)
    stopped = Run.start(tmp_path, "birds", {"seed": 0})
    first = tuner(chosen, TRAIN, stop=StopsAfter(after), save=stopped.save)
    with pytest.raises(Preempted):
        first.run(TRAIN, VALIDATION, plan(chosen, len(TRAIN)))
    with pytest.raises(TrainingError, match="goes on in another process"):
        Run.resume(tmp_path, "birds", {"seed": 0})
    stopped.release()
    with pytest.raises(TrainingError, match="had another seed; give the same"):
        Run.resume(tmp_path, "birds", {"seed": 1})
    found = Run.resume(tmp_path, "birds", {"seed": 0})
    rest = tuner(chosen, TRAIN, save=found.save).run(TRAIN, VALIDATION, plan(chosen, len(TRAIN)), resumed=found.load())
    found.remove()
    assert [entry.loss for entry in rest.epochs] == [entry.loss for entry in whole.epochs]
    assert [entry.validation_loss for entry in rest.epochs] == [entry.validation_loss for entry in whole.epochs]
    assert_same(rest.last, whole.last)
    assert_same(rest.ema, whole.ema)


def test_a_finished_run_that_is_resumed_takes_no_step_more(tmp_path: Path) -> None:
    kept: list[Snapshot] = []
    chosen = recipe(epochs=1)
    whole = tuner(chosen, TRAIN, save=kept.append).run(TRAIN, VALIDATION, plan(chosen, len(TRAIN)))
    again = tuner(chosen, TRAIN, stop=StopsAfter(1)).run(TRAIN, VALIDATION, plan(chosen, len(TRAIN)), resumed=kept[-1])
    assert again.epochs == whole.epochs
    assert_same(again.last, whole.last)


def test_a_step_in_parts_is_the_step_in_one() -> None:
    whole, parts = run(recipe(epochs=1)), run(recipe(epochs=1, accumulate=3))
    assert [entry.loss for entry in parts.epochs] == pytest.approx([entry.loss for entry in whole.epochs], rel=1e-4)
    # One step is the same to rounding; AdamW's square roots make a little more of it over four.
    assert_same(parts.last, whole.last, tolerance=2e-3)


def test_running_out_of_memory_halves_what_is_computed_at_once_and_not_the_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device with room for three images: cut in two a step of eight is still too much, in four it fits."""
    whole = run(recipe(epochs=1))
    small = tuner(recipe(epochs=1), TRAIN)
    forward = small._network.forward

    def room_for_three(images: torch.Tensor) -> torch.Tensor:
        if small._network.training and len(images) > 3:
            raise torch.OutOfMemoryError("no room")
        return forward(images)

    monkeypatch.setattr(small._network, "forward", room_for_three)
    tuned = small.run(TRAIN, None, plan(recipe(epochs=1), len(TRAIN)))
    assert tuned.epochs[0].loss == pytest.approx(whole.epochs[0].loss, rel=1e-4)
    assert "computed in 4 parts from here on" in capsys.readouterr().err


def test_memory_for_not_even_one_image_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuner(recipe(epochs=1), TRAIN)

    def no_room(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(small._network, "forward", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        small.run(TRAIN, None, plan(recipe(epochs=1), len(TRAIN)))


def test_validation_images_never_change_between_epochs() -> None:
    """With every augmentation on, what the network sees of validation is the same bytes in each epoch."""
    chosen = recipe(epochs=3, augment="trivial", flip=True, rotate_deg=30, erase=1.0, saturation=0.5)
    seen: list[bytes] = []
    trained: list[bytes] = []
    watched = tuner(chosen, TRAIN)

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (trained if module.training else seen).append(inputs[0].contiguous().numpy().tobytes())

    watched._network.register_forward_pre_hook(look)
    untouched = VALIDATION.pixels.copy()
    # the average is a copy of the network, hook included
    watched.run(TRAIN, VALIDATION, plan(chosen, len(TRAIN)))
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert len(set(trained)) == len(trained) == 12
    np.testing.assert_array_equal(VALIDATION.pixels, untouched)


def test_frozen_epochs_move_only_the_head_and_then_all_layers_move() -> None:
    chosen = recipe(pretrained=True, freeze_epochs=1, epochs=0)
    frozen = tuner(chosen, TRAIN)
    before = weights(frozen._network)
    after = weights(frozen.run(TRAIN, None, plan(chosen, len(TRAIN))).last)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"fc.weight", "fc.bias"}
    chosen = recipe(pretrained=True, freeze_epochs=1, epochs=1)
    both = tuner(chosen, TRAIN).run(TRAIN, None, plan(chosen, len(TRAIN)))
    assert [entry.phase for entry in both.epochs] == ["frozen", "unfrozen"]
    assert not torch.equal(both.last.state_dict()["conv1.0.weight"], before["conv1.0.weight"])


def test_frozen_batch_norm_keeps_its_statistics_and_trained_batch_norm_does_not() -> None:
    start = weights(tuner(recipe(), TRAIN)._network)["bn1.running_mean"]
    assert torch.equal(run(recipe(epochs=1)).last.state_dict()["bn1.running_mean"], start)
    assert not torch.equal(run(recipe(epochs=1, batch_norm="train")).last.state_dict()["bn1.running_mean"], start)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_learns(optimizer: str) -> None:
    chosen = recipe(epochs=8, optimizer=optimizer, label_smoothing=0.0, augment="none", stem_lr_scale=1.0)
    lr = {"sgd": 0.1, "rmsprop": 1e-3}.get(optimizer, 5e-3)
    losses = [entry.loss for entry in tuner(chosen, TRAIN).run(TRAIN, None, plan(chosen, len(TRAIN), lr)).epochs]
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize(("task", "score"), [("multi_label", 0.8), ("regression", 0.5)])
def test_the_other_tasks_learn_too(task: str, score: float) -> None:
    train, validation = colours(64, task=task), colours(24, seed=1, task=task)  # type: ignore[arg-type]
    chosen = recipe(epochs=6, augment="none", stem_lr_scale=1.0, schedule="constant", ema_epochs=0.1)
    tuned = tuner(chosen, train, task=task).run(train, validation, plan(chosen, len(train), 2e-3))  # type: ignore[arg-type]
    reached = tuned.epochs[-1].validation_score
    assert reached is not None
    assert reached > score


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_rate() -> None:
    chosen = recipe(epochs=9, optimizer="sgd", clip_norm=1e30, schedule="constant", stem_lr_scale=1.0)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in epoch \d; use a lower rate than lr=1"):
        tuner(chosen, TRAIN).run(TRAIN, None, plan(chosen, len(TRAIN), 1.0))


def test_fewer_images_than_a_batch_are_one_step() -> None:
    few = colours(3)
    chosen = recipe(epochs=1, batch_size=3)
    assert tuner(chosen, few).run(few, None, plan(chosen, 3)).epochs[0].images_per_s > 0


def test_timing_a_step_and_sweeping_rates_leave_the_network_as_it_was() -> None:
    timed = tuner(recipe(), TRAIN)
    before = weights(timed._network)
    assert timed.stepper.seconds(TRAIN, 8) > 0
    losses = list(timed.stepper.sweep(TRAIN, iter([1e-4, 1e-3, 1e-2]), 8, 1.0))
    assert len(losses) == 3
    after = weights(timed._network)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("epoch", [1, 2])
def test_term_during_validation_keeps_what_was_learnt_before(tmp_path: Path, epoch: int) -> None:
    """Also after the last epoch, when no step is left to look at the request."""
    stop, kept = Stop(), Run.start(tmp_path, "birds", {})
    asked = tuner(recipe(), TRAIN, stop=stop, save=kept.save)
    genuine = asked.evaluate

    def evaluate_and_be_asked(network: torch.nn.Module, images: Images) -> AnyMetrics:
        calls.append(1)
        if len(calls) == epoch:
            stop._asked(signal.SIGTERM, None)
        return genuine(network, images)

    calls: list[int] = []
    asked.evaluate = evaluate_and_be_asked  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        asked.run(TRAIN, VALIDATION, plan(recipe(), len(TRAIN)))
    found = kept.load()
    kept.remove()
    assert found is not None
    assert (found.progress["epoch"], found.progress["step"]) == (epoch, 0)


def test_a_checkpoint_is_taken_within_an_epoch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.CHECKPOINT_S", 0.0)
    saved: list[Snapshot] = []
    tuner(recipe(epochs=1), TRAIN, save=saved.append).run(TRAIN, None, plan(recipe(epochs=1), len(TRAIN)))
    assert [snapshot.progress["step"] for snapshot in saved][:4] == [1, 2, 3, 4]


def test_weights_that_the_last_step_ruined_are_named_like_a_loss_that_is_none() -> None:
    ruined = tuner(recipe(epochs=1), TRAIN)
    step = ruined.stepper.step

    def last_step_ruins(*arguments: object) -> torch.Tensor:
        loss = step(*arguments)  # type: ignore[arg-type]
        if arguments[-1] == 3:
            with torch.no_grad():
                ruined.stepper.network.fc.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
        return loss

    ruined.stepper.step = last_step_ruins  # type: ignore[method-assign, assignment]
    with pytest.raises(TrainingError, match="the loss became nan in epoch 1"):
        ruined.run(TRAIN, VALIDATION, plan(recipe(epochs=1), len(TRAIN)))


def test_a_batch_is_in_random_order_so_that_a_part_of_it_is_of_all_labels() -> None:
    """Data lies label by label; parts of a sorted batch would each be of a few labels."""
    order = np.argsort(TRAIN.targets, kind="stable")
    train = Images(TRAIN.pixels[order], TRAIN.targets[order], tuple(TRAIN.items[int(row)] for row in order))
    halves: list[torch.Tensor] = []
    watched = tuner(recipe(epochs=1, accumulate=2), train)
    genuine = watched.stepper._loss

    def look(model: torch.nn.Module, source: Source, rows: np.ndarray, draws: torch.Tensor) -> torch.Tensor:
        halves.append(source.take(rows)[1])
        return genuine(model, source, rows, draws)

    watched.stepper._loss = look  # type: ignore[method-assign]
    watched.run(train, None, plan(recipe(epochs=1, accumulate=2), len(train)))
    sorted_halves = sum(int(a.max()) <= int(b.min()) for a, b in zip(halves[::2], halves[1::2], strict=True))
    assert sorted_halves == 0


def test_measuring_halves_its_batches_where_memory_runs_out() -> None:
    images = colours(70)
    measured = tuner(recipe(), TRAIN)
    whole = measured.outputs(measured.stepper.network, images)
    forward, sizes = measured.stepper.network.forward, []

    def room_for_twenty(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 20:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(batch))
        return forward(batch)

    measured.stepper.network.forward = room_for_twenty  # type: ignore[method-assign]
    np.testing.assert_allclose(measured.outputs(measured.stepper.network, images), whole, atol=1e-5)
    assert sizes == [16, 16, 16, 16, 6]
