"""Which part of an image speaks for a label, from one forward pass.

Where the head is linear in the mean of the feature map, the class activation map (Zhou et al. 2016) is exact: the mean of
the map plus the head's bias is the logit. The map of a difference of two labels explains why the one and not the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """The last linear layer: float32 `[K, D]` and `[K]`. `weight` is None where the graph already answers the map."""

    weight: npt.NDArray[np.float32] | None
    bias: npt.NDArray[np.float32]


def activation_map(spatial: npt.NDArray[np.floating], head: Head, label: int) -> FloatArray:
    """The map of one label, `[h, w]`, in logits: mean + bias is the logit.

    Args:
        spatial: Of one image: `cam` `[K, h, w]`, or the feature map `[D, h, w]` where the head has its weight.
        head: The last layer.
        label: Index.
    """
    if head.weight is None:
        return np.asarray(spatial[label], dtype=np.float64)
    return np.tensordot(head.weight[label].astype(np.float64), np.asarray(spatial, dtype=np.float64), axes=1)


def contrast(spatial: npt.NDArray[np.floating], head: Head, label: int, other: int) -> FloatArray:
    """What speaks for `label` rather than `other`, `[h, w]`: its mean is the difference of the logits, biases included."""
    difference = activation_map(spatial, head, label) - activation_map(spatial, head, other)
    return np.asarray(difference + float(head.bias[label]) - float(head.bias[other]))


def incompleteness(heatmap: FloatArray, bias: float, logit: float) -> float:
    """How far mean + bias is from the logit, as a share of it, or absolutely where it is less than 1."""
    return float(abs(heatmap.mean() + bias - logit) / max(1.0, abs(logit)))
