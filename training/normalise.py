"""uint8 pixels to what the backbone was trained on. One module: training calls it, and the exported graph contains it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from training.device import Device


class Normalise(nn.Module):
    """uint8 `[N, H, W, 3]` to float32 `[N, 3, H, W]`: (pixel / 255 - mean) / std, a channel each."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        """Fold the division by 255, the mean and the standard deviation into one multiply and one add."""
        super().__init__()
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("shift", -torch.tensor(mean).view(1, 3, 1, 1) / deviation)

    def forward(self, pixels: torch.Tensor, device: Device | None = None) -> torch.Tensor:
        """Normalise a batch, on `device` where one is given; bytes travel, not floats."""
        if device is not None:
            pixels = pixels.to(device.torch, non_blocking=True)
            self.to(device.torch)
        # [N, H, W, 3] read as [N, 3, H, W] is channels_last already: no copy
        return pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
