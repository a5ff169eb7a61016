"""Whether the last layer's maps are exact, and what of that layer the service needs to draw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import nn

from models.confidence.heatmap import Head, activation_map, incompleteness
from models.manifest import MAX_CAM_LABELS
from training.confidence.lacking import Lacking

if TYPE_CHECKING:
    import onnxruntime

    from models.manifest import OutputSpec

TOLERANCE = 1e-3
_IMAGES = 32


@dataclass(frozen=True)
class Maps:
    """What the graph answers for a few images: logits `[N, K]`, and the third output `[N, C, h, w]`."""

    logits: npt.NDArray[np.float32]
    spatial: npt.NDArray[np.float32]


def ask_maps(session: onnxruntime.InferenceSession, pool: npt.NDArray[np.uint8], outputs: OutputSpec) -> Maps:
    """Ask about a few images of `pool` `[N, H, W, 3]`, from all along it."""
    chosen = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), _IMAGES)).astype(int))
    logits, spatial = session.run(["logits", outputs.spatial], {"image": pool[chosen]})
    return Maps(logits, spatial)


def find_head(network: nn.Module, outputs: OutputSpec, maps: Maps) -> Head:
    """The head as maps need it: its bias beside a `cam`, its weight too beside a feature map.

    Raises:
        Lacking: If the maps would not add up to the logits.
    """
    layer = network.get_classifier()  # type: ignore[operator]
    if not isinstance(layer, nn.Linear):
        raise Lacking("the head is no single linear layer, so no map would add up to a logit")
    weight = np.asarray(layer.weight.detach().cpu().numpy(), dtype=np.float32)
    bias = np.zeros(len(weight), np.float32) if layer.bias is None else np.asarray(layer.bias.detach().cpu(), dtype=np.float32)
    if outputs.spatial == "cam":
        return Head(None, bias)
    if weight.shape[1] != outputs.spatial_channels:
        raise Lacking("the head does not see the feature map's channels, so no map would add up to a logit")
    head = Head(weight, bias)
    if largest_incompleteness(head, maps) > TOLERANCE:
        raise Lacking("the head is not linear in the mean of the feature map, so no map would add up to a logit")
    return head


def largest_incompleteness(head: Head, maps: Maps) -> float:
    """How far mean(map) + bias is from the logit, at most, over the images and their 200 most probable labels."""
    found = 0.0
    for logits, spatial in zip(maps.logits, maps.spatial, strict=True):
        for label in np.argsort(-logits)[:MAX_CAM_LABELS].tolist():
            gap = incompleteness(activation_map(spatial, head, label), float(head.bias[label]), float(logits[label]))
            found = max(found, gap)
    return found
