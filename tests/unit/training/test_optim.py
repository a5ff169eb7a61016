"""Rates for each depth, and schedules that are functions of the step."""

from __future__ import annotations

import pytest
import timm
import torch

from models.recipe import Recipe
from training.optim import Schedule, default_lr, make_optimizer

pytestmark = pytest.mark.torch


def test_layer_rates_fall_geometrically_from_head_to_stem() -> None:
    network = timm.create_model("resnet18", num_classes=3)
    optimizer = make_optimizer(network, Recipe(stem_lr_scale=0.1), 1e-2)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(network.fc.weight)] == pytest.approx(1e-2)
    assert rate[id(network.conv1.weight)] == pytest.approx(1e-3, rel=0.01)
    assert rate[id(network.conv1.weight)] < rate[id(network.layer2[0].conv1.weight)] < rate[id(network.fc.weight)]
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed[id(network.fc.weight)] == 0.05
    assert decayed[id(network.bn1.weight)] == 0
    assert decayed[id(network.fc.bias)] == 0
    assert len(rate) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("optimizer", "kind", "decay"),
    [
        ("adamw", torch.optim.AdamW, 0.05),
        ("adam", torch.optim.Adam, 0.0),
        ("sgd", torch.optim.SGD, 1e-4),
        ("rmsprop", torch.optim.RMSprop, 0.0),
    ],
)
def test_each_optimizer_is_torchs_with_a_decay_that_suits_it(
    optimizer: str, kind: type[torch.optim.Optimizer], decay: float
) -> None:
    network = timm.create_model("test_resnet", num_classes=3)
    made = make_optimizer(network, Recipe.from_mapping({"optimizer": optimizer}), 1e-3)
    assert type(made) is kind
    assert max(group["weight_decay"] for group in made.param_groups) == decay
    asked = make_optimizer(network, Recipe.from_mapping({"optimizer": optimizer, "weight_decay": 0.25}), 1e-3)
    assert max(group["weight_decay"] for group in asked.param_groups) == 0.25


def test_adams_default_rate_is_the_classic_one() -> None:
    assert default_lr("adam", 32) == pytest.approx(1e-3)


def test_rates_by_rule_grow_with_the_batch() -> None:
    assert default_lr("adamw", 128) == pytest.approx(2 * default_lr("adamw", 32))
    assert default_lr("sgd", 128) == pytest.approx(4 * default_lr("sgd", 32))
    assert default_lr("sgd", 4096) == 1.0


def two_groups() -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "peak_lr": rate} for rate in (1.0, 0.1)]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def rates_of(schedule: Schedule) -> list[tuple[float, float]]:
    optimizer = two_groups()
    rates = []
    for step in range(schedule.steps):
        assert schedule.apply(optimizer, step) == optimizer.param_groups[0]["lr"]
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"]))
    return rates


@pytest.mark.parametrize("kind", ["cosine", "one_cycle", "constant"])
def test_schedule_rises_to_the_peak_and_every_group_keeps_its_share(kind: str) -> None:
    rates = rates_of(Schedule(kind, steps=100, warmup=0.1))
    head = [rate[0] for rate in rates]
    top = head.index(max(head))
    assert max(head) == pytest.approx(1.0)
    assert top in {9, 10}
    assert head[: top + 1] == sorted(head[: top + 1])
    assert head[top:] == sorted(head[top:], reverse=True)
    assert (head[-1] < 0.01) == (kind != "constant")
    assert all(stem == pytest.approx(share * 0.1) for share, stem in rates)


def test_one_cycle_starts_at_a_25th_and_its_momentum_mirrors_the_rate() -> None:
    schedule = Schedule("one_cycle", steps=100, warmup=0.25)
    assert schedule.share(0) == pytest.approx(1 / 25)
    assert schedule.momentum(0) == pytest.approx(0.95)
    assert schedule.momentum(25) == pytest.approx(0.85)
    assert schedule.momentum(100) == pytest.approx(0.95)
    optimizer = two_groups()
    schedule.apply(optimizer, 25)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.85)
    assert Schedule("cosine", 100, 0.25).momentum(0) is None


@pytest.mark.parametrize("kind", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_schedule_of_hardly_any_steps_is_finite_and_learns(kind: str, steps: int) -> None:
    shares = [Schedule(kind, steps, 0.1).share(step) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
