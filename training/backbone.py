"""Pretrained backbones: timm's networks, ready to be trained, with the card that says how they want their input.

Where weights come from is `weights`'s. What is refused here is refused before anything is downloaded or trained: a licence
that nobody accepted, and a network that could not be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import timm
import torch

from models.recipe import CATALOGUE
from training import weights
from training.errors import LicenceError, TrainingError, WeightsUnavailableError

if TYPE_CHECKING:
    from torch import nn

    from models.recipe import Recipe

IMAGENET_LABELS = 1000


@dataclass(frozen=True)
class Pretrained:
    """A network with the head it came with, and its card: where the weights are from, and how it wants its input."""

    network: nn.Module
    weights: str
    licence: str
    image_size: int
    crop_ratio: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def create(recipe: Recipe, num_labels: int | None) -> Pretrained:
    """Build a backbone with its weights.

    Args:
        recipe: Which one, and whether and from where its weights are loaded.
        num_labels: Size of a new head, which starts at zero; None keeps the pretrained head, which must be ImageNet's.

    Raises:
        TrainingError: If timm has no such network, or it could not be served.
        WeightsUnavailableError: If its weights cannot be had.
        LicenceError: If their licence forbids commercial use and the recipe does not accept that.
    """
    config, source = weights.pretrained_config(recipe.backbone), weights.find(recipe)
    if weights.forbids_commerce(source.licence) and not recipe.allow_noncommercial:
        raise LicenceError(
            f"the weights of {recipe.backbone} are {source.licence}; pass allow_noncommercial=true if you may use them"
        )
    if not is_servable(skeleton(recipe.backbone), int(config.input_size[-1])):
        raise TrainingError(
            f"{recipe.backbone} cannot be served: it is no CNN whose head is one linear layer; "
            f"try one of {', '.join(CATALOGUE[:5])}"
        )
    network: Any = source.load()
    if num_labels is not None:
        network.reset_classifier(num_labels)
        for parameter in network.get_classifier().parameters():
            torch.nn.init.zeros_(parameter)
    elif network.num_classes != IMAGENET_LABELS:
        raise WeightsUnavailableError(
            f"the weights of {recipe.backbone} ({source.description}) have a head of {network.num_classes} labels, and "
            f"ImageNet's {IMAGENET_LABELS} were expected; fine-tune them instead"
        )
    settings = timm.data.resolve_model_data_config(network)
    return Pretrained(
        network=network.to(memory_format=torch.channels_last),
        weights=source.description,
        licence=source.licence,
        image_size=int(settings["input_size"][-1]),
        crop_ratio=float(settings["crop_pct"]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )


def skeleton(name: str) -> nn.Module:
    """A network of shapes without numbers (on torch's meta device): quick to make, and nothing is computed in it."""
    with torch.device("meta"):
        return timm.create_model(name)


def is_servable(network: Any, image_size: int) -> bool:
    """Whether features have height and width and the head can be one linear layer, as the exported graph needs it.

    Args:
        network: A skeleton. It gets another head.
        image_size: Pixels a side.
    """
    try:
        network.reset_classifier(2)
        with torch.inference_mode():
            features = network.eval().forward_features(torch.zeros(1, 3, image_size, image_size, device="meta"))
    except Exception:  # noqa: BLE001 - a network that asks for more than an image has its own way to say so
        return False
    return getattr(features, "ndim", 0) == 4 and isinstance(network.get_classifier(), torch.nn.Linear)
