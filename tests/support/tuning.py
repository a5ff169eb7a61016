"""A fine-tuning run small enough for a unit test: a random ResNet on images of three colours, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch

from models.dataset import Item
from models.recipe import Recipe
from training.data import Images
from training.device import Device
from training.distributed import World
from training.loop import FineTuner
from training.normalise import Normalise
from training.objective import make_objective
from training.plan import Plan
from training.progress import Events
from training.step import Setting
from training.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.recipe import Task
    from training.checkpoint import Snapshot

SIZE = 32
CPU = Device(torch.device("cpu"), None)


def colours(count: int, seed: int = 0, task: Task = "single_label") -> Images:
    """`count` noisy images, each of one of three colours; several labels or a number say the same in another way."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pixels = rng.integers(0, 120, (count, SIZE, SIZE, 3), dtype=np.uint8)
    pixels[np.arange(count), :, :, labels] += 100
    targets: Any = labels.astype(np.int64)
    if task == "multi_label":
        targets = np.eye(3, dtype=np.float32)[labels]
    if task == "regression":
        targets = (1000 + 100 * labels.astype(np.float32))[:, None]
    items = tuple(Item(Path(f"{i}.png"), int(label), "train", f"{i:064x}") for i, label in enumerate(labels))
    return Images(pixels, targets, items)


def recipe(**changes: Any) -> Recipe:
    """A random ResNet of half a million weights at 32 px, two epochs of 8."""
    return Recipe.model_validate(
        {
            "backbone": "test_resnet",
            "pretrained": False,
            "batch_norm": "frozen",
            "image_size": SIZE,
            "epochs": 2,
            "batch_size": 8,
            **changes,
        }
    )


def tuner(
    chosen: Recipe,
    train: Images,
    *,
    task: Task = "single_label",
    world: World | None = None,
    stop: Stop | None = None,
    save: Callable[[Snapshot], None] = lambda snapshot: None,
) -> FineTuner:
    """A tuner with a network whose weights depend on nothing but the seed."""
    torch.manual_seed(0)
    network = timm.create_model(chosen.backbone, num_classes=1 if task == "regression" else 3)
    setting = Setting(
        normalise=Normalise((0.5,) * 3, (0.25,) * 3),
        objective=make_objective(task, 3, chosen, train.targets),
        recipe=chosen,
        device=CPU,
        world=world or World(),
        stop=stop or Stop(),
        events=Events(),
        save=save,
    )
    return FineTuner(network, setting)


def plan(chosen: Recipe, images: int, lr: float = 1e-3) -> Plan:
    """The plan that a recipe with epochs and batch size makes."""
    assert chosen.epochs is not None
    assert chosen.batch_size is not None
    freeze_lr = chosen.freeze_lr or 2 * lr
    return Plan(chosen.batch_size, lr, chosen.epochs, chosen.freeze_epochs, freeze_lr, images // chosen.batch_size)
