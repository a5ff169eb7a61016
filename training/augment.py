"""Augmentation of training images, a whole batch at once on the device. Validation images never come here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from models.recipe import Recipe

_SHIFT = 0.04
_LIGHT = 0.15


class Augment:
    """Random crop and shift, optional mirror, brightness and contrast; each image its own draw."""

    def __init__(self, recipe: Recipe) -> None:
        """Take the strengths from the recipe."""
        self._enabled = recipe.augment == "basic"
        self._flip = recipe.flip
        self._min_crop = recipe.min_crop

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: Normalised floats `[N, 3, H, W]`. Not modified.
            generator: Source of every draw, on the CPU, so that a device does not change the draws.

        Returns:
            The same shape and memory format.
        """
        if not self._enabled and not self._flip:
            return images
        draws = torch.rand(len(images), 6, generator=generator).to(images.device, images.dtype)
        if self._enabled:
            images = self._relight(self._crop(images, draws), draws)
        elif self._flip:
            images = torch.where(draws[:, 5].view(-1, 1, 1, 1) < 0.5, images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)

    def _crop(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        # One affine map an image does crop, shift and mirror in a single resampling.
        side = (self._min_crop + (1 - self._min_crop) * draws[:, 0]).sqrt()
        room = (1 - side) + _SHIFT
        theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
        mirror = torch.where(draws[:, 5] < 0.5, -1.0, 1.0) if self._flip else torch.ones_like(side)
        theta[:, 0, 0] = side * mirror
        theta[:, 1, 1] = side
        theta[:, 0, 2] = (2 * draws[:, 1] - 1) * room
        theta[:, 1, 2] = (2 * draws[:, 2] - 1) * room
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _relight(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        contrast = (1 + _LIGHT * (2 * draws[:, 3] - 1)).view(-1, 1, 1, 1)
        brightness = (_LIGHT * (2 * draws[:, 4] - 1)).view(-1, 1, 1, 1)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return (images - mean) * contrast + mean + brightness
