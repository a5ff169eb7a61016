"""The same network with fewer and plainer layers, so that the exporter has less to take apart.

An exported file holds no batch norms either way; but for one that is still there the exporter traces it through several
passes, each layer under symbolic shapes, and that is where the time of an export goes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOLERANCE = 1e-4


@torch.inference_mode()
def simplified(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Copy a network and make the copy quicker to export; what it computes stays the same.

    Activations no longer write into their input, and tensors are laid out plainly: the exporter would take an in-place
    activation apart into primitives, and index channels-last features by a range over the batch. Batch norms are folded
    into the convolutions before them, unless that changes an output (a convolution whose result also goes elsewhere).

    Args:
        network: A timm network in evaluation mode. Not changed.
        images: Normalised floats `[N, 3, H, W]` to run it on.
    """
    folded = _plain_copy(network)
    for convolution, name, norm in list(_followed_by_norm(folded, images)):
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        folded.set_submodule(name, rest)
    return folded if _agree(network, folded, images) else _plain_copy(network)


def _plain_copy(network: nn.Module) -> nn.Module:
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in plain.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return plain


def _followed_by_norm(network: nn.Module, images: torch.Tensor) -> Iterator[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """Convolutions and the batch norms that take their result as it is, both used once."""
    calls: list[nn.Module] = []
    # The results are kept, so that no other tensor can get the identity of one of them.
    results: dict[int, tuple[nn.Module, torch.Tensor]] = {}
    takes: dict[nn.Module, nn.Module] = {}

    def note_result(module: nn.Module, _inputs: Any, result: torch.Tensor) -> None:
        calls.append(module)
        results[id(result)] = (module, result)

    def note_input(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        calls.append(module)
        if id(inputs[0]) in results:
            takes[module] = results[id(inputs[0])][0]

    hooks = [module.register_forward_hook(note_result) for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(note_input) for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    _outputs(network, images)
    for hook in hooks:
        hook.remove()
    for name, module in network.named_modules():
        once = module in takes and calls.count(module) == calls.count(takes[module]) == 1
        # A norm without statistics of its own takes them from the batch, and is no constant to fold.
        if once and module.running_mean is not None:
            yield takes[module], name, module  # type: ignore[misc]


def _agree(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> bool:
    pairs = zip(_outputs(ours, images), _outputs(theirs, images), strict=True)
    return all(bool((left - right).abs().max() <= _TOLERANCE * left.abs().max().clamp_min(1)) for left, right in pairs)


def _outputs(network: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and embedding; not the logits, for a head that was just made answers zero to everything."""
    features = network.forward_features(images)
    return features, network.forward_head(features, pre_logits=True)
