from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from training.simplify import simplified
from training.spatial import spread_of

pytestmark = pytest.mark.torch
FAMILIES = {
    "resnet18": 0,
    "mobilenetv2_035": 0,
    "mobilenetv3_small_050": 2,
    "mobilenetv4_conv_small_035": 3,
    "efficientnet_lite0": 0,
    "convnext_atto": 1,
    "convnextv2_atto": 1,
    "hgnetv2_b0": 3,
    "ghostnet_050": 2,
    "regnety_002": 0,
}


def shaken(name: str) -> nn.Module:
    """A network with random weights, those of norms and biases too: a norm that was just made does nothing."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mean_of_the_map_is_the_embedding_whatever_the_head_does(name: str) -> None:
    network, images = shaken(name), torch.randn(3, 3, 64, 64)
    spread = spread_of(network, images[:1])
    assert spread is not None
    assert len(spread.steps) >= FAMILIES[name]
    with torch.inference_mode():
        features = network.forward_features(images)  # type: ignore[operator]
        spatial = spread(features)
        embedding = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        logits = network(images)
        head = network.get_classifier()  # type: ignore[operator]
        mapped = nn.functional.conv2d(spatial, head.weight[:, :, None, None])
    assert spatial.shape[2:] == features.shape[2:]
    torch.testing.assert_close(spatial.mean((2, 3)), embedding, rtol=0, atol=1e-4 * float(embedding.abs().max()))
    torch.testing.assert_close(mapped.mean((2, 3)) + head.bias, logits, rtol=0, atol=1e-4 * float(logits.abs().max()))
    # It is a map, and not the embedding everywhere.
    assert float(spatial.std((2, 3)).max()) > 1e-3 * float(spatial.abs().max())


def test_a_head_that_takes_the_maximum_has_no_such_map() -> None:
    network = timm.create_model("resnet18", num_classes=5, global_pool="max").eval()
    assert spread_of(network, torch.randn(1, 3, 64, 64)) is None


def test_an_activation_that_writes_into_its_input_changes_nothing() -> None:
    network, images = shaken("mobilenetv3_small_050"), torch.randn(2, 3, 64, 64)
    plain = simplified(network, images)
    assert any(getattr(module, "inplace", False) for module in network.modules())
    assert not any(getattr(module, "inplace", False) for module in plain.modules())
    spread, plainly = spread_of(network, images), spread_of(plain, images)
    assert spread is not None
    assert plainly is not None
    with torch.inference_mode():
        features = network.forward_features(images)  # type: ignore[operator]
        torch.testing.assert_close(spread(features), plainly(features), rtol=1e-4, atol=1e-4 * float(features.abs().max()))
