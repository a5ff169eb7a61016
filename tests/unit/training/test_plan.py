"""What "auto" becomes."""

from __future__ import annotations

import pytest

from models.recipe import Recipe
from training.errors import TrainingError
from training.plan import Plan, batch_size_for, default_batch_size, make_plan

pytestmark = pytest.mark.torch


def made(recipe: Recipe, images: int, *, is_cuda: bool = False, world: int = 1, step_s: float = 0.01) -> Plan:
    return make_plan(recipe, images, is_cuda=is_cuda, world=world, seconds_per_step=lambda batch: step_s)


@pytest.mark.parametrize(("images", "batch"), [(1, 16), (500, 16), (1500, 32), (6000, 128), (60_000, 256)])
def test_a_batch_by_rule_gives_about_forty_steps(images: int, batch: int) -> None:
    assert default_batch_size(images) == batch


def test_a_batch_is_never_larger_than_the_data_and_a_multiple_of_the_processes() -> None:
    assert made(Recipe(), 5).batch_size == 5
    assert made(Recipe(batch_size=32), 1000, world=3).batch_size == batch_size_for(Recipe(batch_size=32), 1000, 3) == 30
    assert made(Recipe(), 3).steps_per_epoch == 1


def test_epochs_are_six_or_what_fits_and_never_below_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert made(Recipe(), 1500).epochs == 6
    assert capsys.readouterr().err == ""
    # 46 steps of a second: two epochs fit two minutes.
    assert made(Recipe(), 1500, step_s=0.8).epochs == 3
    assert "3 of 6 epochs fit 2 min here; pass --epochs 6" in capsys.readouterr().err
    assert made(Recipe(freeze_epochs=1), 1500, step_s=0.8).epochs == 2
    assert made(Recipe(), 1500, step_s=100).epochs == 2
    assert made(Recipe(), 1500, step_s=0.8, is_cuda=True).epochs == 6
    assert made(Recipe(budget_minutes=10), 1500, step_s=0.8).epochs == 6


def test_epochs_that_are_given_are_not_timed() -> None:
    def never(batch: int) -> float:
        raise AssertionError

    assert make_plan(Recipe(epochs=7), 100, is_cuda=False, world=1, seconds_per_step=never).epochs == 7


def test_the_frozen_phase_has_twice_the_rate_unless_it_is_given() -> None:
    plan = made(Recipe(freeze_epochs=2, lr=1e-3, epochs=3), 320)
    assert (plan.freeze_lr, plan.all_epochs) == (2e-3, 5)
    assert [plan.phase(epoch) for epoch in range(5)] == ["frozen"] * 2 + ["unfrozen"] * 3
    assert plan.first_step("unfrozen") == 2 * plan.steps_per_epoch
    assert made(Recipe(freeze_epochs=2, freeze_lr=0.5), 320).freeze_lr == 0.5
    assert Plan.from_json(plan.to_json()) == plan


def test_what_is_resolved_stands_in_the_recipe_as_it_was_asked_for() -> None:
    recipe = Recipe()
    assert recipe.model_copy(update=made(recipe, 320).resolved()).freeze_lr is None


def test_more_parts_than_a_step_has_images_are_refused_before_the_first_step() -> None:
    with pytest.raises(TrainingError, match=r"accumulate is 32, more parts than a step's 16 images"):
        made(Recipe(accumulate=32), 500)
    with pytest.raises(TrainingError, match=r"accumulate is 12, more parts than a step's 8 images"):
        made(Recipe(accumulate=12), 500, world=2)
