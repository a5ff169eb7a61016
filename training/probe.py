"""The linear probe: the task's loss on the backbone's features alone (logistic regression), an answer in seconds.

Its accuracy is the baseline that is reported, and its solution is where the head starts (LP-FT, Kumar et al. 2022), so
that fine-tuning begins from an answer instead of destroying the features from a random one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from training.forward import forward_all
from training.progress import bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from models.dataset import Split
    from training.data import Images
    from training.device import Device
    from training.distributed import World
    from training.normalise import Normalise
    from training.objective import Objective

PENALTIES = (1e-3, 1e-2, 1e-1)
_DEFAULT_PENALTY = 1e-2
# Measured: docs/experiments.md.
_LEAST_SPREAD = 0.3
_TINY = 1e-5


@dataclass(frozen=True)
class Probe:
    """A linear model on embeddings: outputs = embedding @ weight.T + bias. `penalty` is the L2 that won."""

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float

    def logits(self, embeddings: torch.Tensor) -> npt.NDArray[np.float32]:
        """float32 `[N, K]` for embeddings `[N, D]`."""
        return (embeddings @ self.weight.T + self.bias).numpy()


def embed(
    network: nn.Module, splits: Mapping[Split, Images], normalise: Normalise, device: Device, world: World
) -> dict[Split, torch.Tensor]:
    """The pooled features of every image, `[N, D]` float32 on the CPU; computed once for all that needs them."""
    network.eval()

    def pooled(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]
        return features

    total = sum(len(images.pixels[world.share(len(images))]) for images in splits.values())
    with bar("features", total) as done:
        return {
            split: forward_all(images.pixels, pooled, normalise, device, world, done.update) for split, images in splits.items()
        }


def fit_probe(
    train: tuple[torch.Tensor, torch.Tensor], validation: tuple[torch.Tensor, torch.Tensor] | None, objective: Objective
) -> Probe:
    """Fit one classifier a penalty and keep the one with the lowest validation loss.

    Args:
        train: Embeddings `[N, D]` and targets as the objective takes them.
        validation: The same, or None: then the middle penalty is taken unseen.
        objective: The loss; without label smoothing it is minimised.
    """
    mean, std = spread(train[0])
    standard = (train[0] - mean) / std
    candidates = []
    for penalty in PENALTIES if validation is not None else (_DEFAULT_PENALTY,):
        weight, bias = fit_linear(standard, train[1], objective, penalty)
        # Standardisation is folded in, so that the head takes raw embeddings.
        folded = Probe(weight / std, bias - (weight / std) @ mean, penalty)
        loss = 0.0
        if validation is not None:
            outputs = validation[0] @ folded.weight.T + folded.bias
            loss = float(objective.loss(outputs, validation[1], smooth=False))
        candidates.append((loss, folded))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def spread(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each feature `[D]`; the deviation is at least 0.3 of what features have on average.

    A feature that hardly ever fires would otherwise be blown up, and the one image in which it does would decide by it alone.
    """
    std = features.std(0, correction=0)
    return features.mean(0), std.clamp_min(max(_LEAST_SPREAD * float(std.mean()), _TINY))


def fit_linear(
    features: torch.Tensor, targets: torch.Tensor, objective: Objective, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimise mean loss + penalty / 2 * |W|^2 by L-BFGS; the bias is not penalised.

    Args:
        features: Standardised, `[N, D]`.
        targets: As the objective takes them.
        objective: The loss, and K.
        penalty: L2.

    Returns:
        Weight `[K, D]` and bias `[K]`.
    """
    weight = torch.zeros(objective.outputs, features.shape[1], requires_grad=True)
    bias = torch.zeros(objective.outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        outputs = features @ weight.T + bias
        loss = objective.loss(outputs, targets, smooth=False) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def install(probe: Probe, network: nn.Module) -> None:
    """Make the probe's solution the network's head."""
    head = network.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        head.weight.copy_(probe.weight.view_as(head.weight))
        head.bias.copy_(probe.bias)
