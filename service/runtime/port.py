"""What the rest of the service knows of a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from models.preprocess import UInt8Array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


# uint8 `[N, H, W, 3]`, or N of `[H, W, 3]`, which a runtime puts together where it wants them.
Images = UInt8Array | Sequence[UInt8Array]


class Runtime(Protocol):
    """A loaded graph. `run` and `outputs` may be called from several threads at once.

    Both raise `DeviceLostError` if nothing that this process computes can be believed any more, and `OutOfMemoryError` if there
    was no room for this batch.
    """

    @property
    def name(self) -> str:
        """`onnxruntime`, ..."""

    @property
    def provider(self) -> str:
        """What really computes: `cuda` or `cpu`."""

    @property
    def precision(self) -> str:
        """`fp32`, ..."""

    def run(self, images: Images) -> npt.NDArray[np.float32]:
        """uint8 `[N, H, W, 3]` to logits `[N, K]`."""

    def outputs(self, images: Images, names: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """uint8 `[N, H, W, 3]` to the outputs of those names: `logits` `[N, K]`, `embedding` `[N, D]`, the map `[N, C, h, w]`."""
