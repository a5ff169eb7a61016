"""The copy that is exported computes what the network does, with fewer layers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from training.simplify import simplified

pytestmark = pytest.mark.torch


class Small(nn.Module):
    """Three channels in, a bend of the usual way of convolution, norm and activation in `forward_features`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = True) -> torch.Tensor:
        return features.mean((2, 3))


class Straight(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.first(images)))


class ResultGoesElsewhere(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        result = self.first(images)
        return self.norm(result) + result


class ConvolutionUsedTwice(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        return self.other(self.second(self.norm(self.second(features))))


class ActivationBetween(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act(self.first(images)))


class NormOfTheBatch(Small):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(images))


def unsettled(network: nn.Module) -> nn.Module:
    """With statistics that are not those of a new network, under which any fold would do."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def assert_same(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> None:
    """Features and embedding, to a ten-thousandth of the largest value."""
    with torch.inference_mode():
        left, right = ours.forward_features(images), theirs.forward_features(images)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-4 * float(right.abs().max()))
        left, right = ours.forward_head(left, pre_logits=True), theirs.forward_head(right, pre_logits=True)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-4 * float(right.abs().max()))


@pytest.mark.parametrize(
    ("kind", "left"),
    [(Straight, 1), (ResultGoesElsewhere, 2), (ConvolutionUsedTwice, 2), (ActivationBetween, 2), (NormOfTheBatch, 2)],
)
def test_norms_are_folded_only_where_that_changes_nothing(kind: type[Small], left: int) -> None:
    network = unsettled(kind())
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = simplified(network, images)
    assert_same(plain, network, images)
    # `other` stays where nothing runs it.
    assert norms(plain) == left


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "tf_efficientnet_lite0"])
def test_networks_of_timm_lose_every_norm_and_are_not_changed_themselves(name: str) -> None:
    network = unsettled(timm.create_model(name)).to(memory_format=torch.channels_last)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    inplace = [getattr(module, "inplace", None) for module in network.modules()]
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    plain = simplified(network, images)
    assert norms(plain) == 0
    assert not any(getattr(module, "inplace", False) for module in plain.modules())
    assert_same(plain, network, images)
    assert [getattr(module, "inplace", None) for module in network.modules()] == inplace
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
