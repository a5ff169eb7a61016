"""`backbones`: the networks to choose from, and what is known of each before any weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm

from models.recipe import CATALOGUE
from training.backbone import is_servable, skeleton
from training.errors import TrainingError
from training.progress import say
from training.weights import forbids_commerce, is_published, licence, place, pretrained_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timm.models import PretrainedCfg
    from torch import nn

# ImageNet-1k validation top-1 in percent, as published with timm (results/ in its repository), at the input size that the
# table shows. Each belongs to one set of weights: should timm's default become another, the table says nothing of it.
_IMAGENET_TOP1: dict[str, float] = {
    "resnet18.a1_in1k": 71.5,
    "resnet34.a1_in1k": 76.4,
    "resnet50.a1_in1k": 80.4,
    "mobilenetv2_100.ra_in1k": 73.0,
    "mobilenetv3_large_100.ra_in1k": 75.8,
    "efficientnet_b0.ra_in1k": 77.7,
    "tf_efficientnet_lite0.in1k": 74.8,
    "tf_efficientnet_lite1.in1k": 76.6,
    "tf_efficientnet_lite2.in1k": 77.5,
    "tf_efficientnetv2_s.in21k_ft_in1k": 83.3,
    "convnext_tiny.in12k_ft_in1k": 84.2,
    "hgnetv2_b0.ssld_stage2_ft_in1k": 77.4,
    "hgnetv2_b4.ssld_stage2_ft_in1k": 83.7,
}
_HEADER = ("input px", "params M", "top-1 %", "licence", "weights here")


def table(pattern: str | None) -> Iterator[str]:
    """The lines of the table, each as soon as it is known.

    Args:
        pattern: None for the catalogue alone. Else as in a shell (`regnety_*`): every other CNN of timm whose name matches
            follows; with a dot in it, single sets of weights (`resnet50.*`).

    Raises:
        TrainingError: If nothing matches the pattern.
    """
    names = [*CATALOGUE, *(name for name in _matching(pattern) if name not in CATALOGUE)]
    width = max(map(len, names))
    yield _line(width, "backbone", *_HEADER)
    refused = others = 0
    for name in names:
        config = pretrained_config(name)
        network = skeleton(name)
        row = _row(width, name, config, network)
        # What stands in the catalogue is known to be one; a test holds it to that.
        if name not in CATALOGUE:
            if not is_servable(network, _image_size(config)):
                continue
            others += 1
            refused += forbids_commerce(licence(config))
        yield row
    if pattern and not others:
        say(f"no other CNN of timm matches {pattern!r}")
    if refused:
        say(f"{refused} with a licence that forbids commercial use: they need allow_noncommercial=true")


def _matching(pattern: str | None) -> list[str]:
    if pattern is None:
        return []
    found = timm.list_pretrained(pattern) if "." in pattern else timm.list_models(pattern)
    if not found:
        raise TrainingError(f"no network of timm matches {pattern!r}; try 'convnext*', or with a dot for weights, 'resnet50.*'")
    return found


def _row(width: int, name: str, config: PretrainedCfg, network: nn.Module) -> str:
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    top1 = _IMAGENET_TOP1.get(f"{config.architecture}.{config.tag}")
    published = is_published(config)
    return _line(
        width,
        name,
        str(_image_size(config)),
        f"{parameters:.1f}",
        "-" if top1 is None else f"{top1:.1f}",
        licence(config) if published else "-",
        (place(config) or "no") if published else "none published",
    )


def _image_size(config: PretrainedCfg) -> int:
    return int(config.input_size[-1])


def _line(width: int, name: str, size: str, parameters: str, top1: str, terms: str, here: str) -> str:
    return f"{name:{width}}  {size:>8}  {parameters:>8}  {top1:>7}  {terms:20}  {here}"
