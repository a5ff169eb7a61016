"""A map whose mean is the embedding, for every head: what an activation map is made of.

Most networks average the feature map and put a linear layer on the mean; then the feature map is that map already. Others do
more in between: ConvNeXt normalises the mean, MobileNetV3 and HGNetV2 put a convolution and an activation on it. Each such
step is taken at every position with what it does to the mean held fixed (the norm's deviation, the activation's ratio of
output to input), so that the mean of the result is exactly what the step makes of the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.models.hgnet import LearnableAffineBlock
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOLERANCE = 1e-3
_TINY = 1e-12
_IDLE = (nn.Identity, nn.Flatten, nn.Dropout, nn.AdaptiveAvgPool2d)


class Spread(nn.Module):
    """A head's steps between the mean and the last layer, taken at every position."""

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        """Take the steps in their order; none is a head that is linear in the mean."""
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The feature map `[N, C, h, w]` to a map `[N, D, h, w]` whose mean over h and w is the embedding."""
        for step in self.steps:
            features = _spread(step, features)
        return features


def spread_of(network: Any, images: torch.Tensor) -> Spread | None:
    """Find a head's steps by running it, and prove on `images` that the mean is the embedding.

    Args:
        network: A timm network in evaluation mode.
        images: Normalised floats `[N, 3, H, W]`.

    Returns:
        The steps; None where the features have no height and width, or the mean is not the embedding.
    """
    called: list[nn.Module] = []
    # A norm that activates too has its activation for a child, which comes next.
    parts = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d) or not any(part.children())]
    with torch.inference_mode():
        features = network.forward_features(images)
        hooks = [part.register_forward_pre_hook(lambda module, _inputs: called.append(module)) for part in parts]
        embedding = network.forward_head(features, pre_logits=True)
        for hook in hooks:
            hook.remove()
        if features.ndim != 4:
            return None
        spread = Spread([module for module in called if not isinstance(module, _IDLE)]).eval()
        try:
            mean = spread(features).mean((2, 3))
        except (RuntimeError, TypeError, ValueError):
            # a step of a kind that is not known, and does not work on a map
            return None
    if mean.shape != embedding.shape:
        return None
    largest = max(1.0, float(embedding.abs().max()))
    return spread if bool((mean - embedding).abs().max() <= _TOLERANCE * largest) else None


def _spread(step: nn.Module, features: torch.Tensor) -> torch.Tensor:
    if isinstance(step, nn.Conv2d | LearnableAffineBlock):
        # affine: what it makes of the mean is the mean of what it makes
        return step(features)  # type: ignore[no-any-return]
    if isinstance(step, nn.BatchNorm2d):
        return nn.functional.batch_norm(features, step.running_mean, step.running_var, step.weight, step.bias, eps=step.eps)
    mean = features.mean((2, 3), keepdim=True)
    offset = features - mean
    if isinstance(step, nn.LayerNorm):
        scale = (mean.var(dim=1, keepdim=True, correction=0) + step.eps).rsqrt()
        offset = (offset - offset.mean(dim=1, keepdim=True)) * scale
        return _norm(step, mean) + (offset if step.weight is None else offset * step.weight[:, None, None])
    # some activations write into what they are given
    result = step(mean.clone())
    is_tiny = mean.abs() < _TINY
    ratio = torch.where(is_tiny, torch.zeros_like(mean), result / torch.where(is_tiny, torch.ones_like(mean), mean))
    return result + ratio * offset


def _norm(step: nn.LayerNorm, mean: torch.Tensor) -> torch.Tensor:
    """The norm over the channels of `[N, C, 1, 1]`, whichever layout the module itself takes."""
    return nn.functional.layer_norm(mean.flatten(1), step.normalized_shape, step.weight, step.bias, step.eps)[:, :, None, None]
