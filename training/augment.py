"""Augmentation of training images, a whole batch at once on the device. Validation images never come here.

Every draw comes from a table of numbers made beforehand (`draws`), a row an image. So a batch may be cut into parts, or
spread over devices, and each image still gets what it would have got in one piece.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torchvision.transforms import v2

if TYPE_CHECKING:
    from models.recipe import Recipe

# Columns of the table: each a uniform draw in [0, 1).
_ZOOM, _RIGHT, _DOWN, _CONTRAST, _BRIGHTNESS, _MIRROR, _TURN, _SATURATION, _ERASE, _AREA, _RATIO, _LEFT, _TOP, _TRIVIAL = range(
    14
)
_COLUMNS = 14
# Random erasing (Zhong et al. 2020): the rectangle's share of the area, and its height to width.
_ERASED_AREA = (0.02, 0.2)
_ERASED_RATIO = (0.3, 3.3)


class Augment:
    """Crop, shift, turn and mirror; brightness, contrast, saturation; erasing; TrivialAugment. Each image its own draw."""

    def __init__(self, recipe: Recipe) -> None:
        """Take the strengths from the recipe."""
        self._recipe = recipe
        self._is_on = recipe.augment != "none"
        self._moves = recipe.flip or recipe.rotate_deg > 0 or recipe.min_crop < 1 or recipe.shift > 0
        self._trivial = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)

    @staticmethod
    def draw(count: int, generator: torch.Generator) -> torch.Tensor:
        """The table for `count` images, float32 `[count, 14]` in [0, 1), on the CPU: a device does not change the draws."""
        return torch.rand(count, _COLUMNS, generator=generator)

    def on_bytes(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """TrivialAugment (Mueller and Hutter 2021), where the recipe asks for it.

        Args:
            pixels: uint8 `[N, H, W, 3]`. Not modified.
            draws: Rows of `draw`, one an image.
        """
        if self._recipe.augment != "trivial":
            return pixels
        images = []
        with torch.random.fork_rng(devices=[]):
            for image, row in zip(pixels.permute(0, 3, 1, 2), draws, strict=True):
                # torchvision draws from the global generator; seeded for each image it repeats itself.
                torch.manual_seed(int(row[_TRIVIAL] * 2**31))
                images.append(self._trivial(image))
        return torch.stack(images).permute(0, 2, 3, 1)

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: Normalised floats `[N, 3, H, W]`. Not modified.
            draws: Rows of `draw`, one an image.

        Returns:
            The same shape, channels last.
        """
        if not self._is_on:
            return images
        draws = draws.to(images.device, images.dtype)
        if self._moves:
            images = self._move(images, draws)
        images = self._relight(images, draws)
        if self._recipe.erase > 0:
            images = self._erase(images, draws)
        return images.contiguous(memory_format=torch.channels_last)

    def _move(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        # One affine map an image does crop, shift, turn and mirror in a single resampling.
        recipe = self._recipe
        side = (recipe.min_crop + (1 - recipe.min_crop) * draws[:, _ZOOM]).sqrt()
        room = (1 - side) + recipe.shift
        angle = math.radians(recipe.rotate_deg) * (2 * draws[:, _TURN] - 1)
        mirror = torch.where(draws[:, _MIRROR] < 0.5, -1.0, 1.0) if recipe.flip else torch.ones_like(side)
        theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
        theta[:, 0, 0] = side * angle.cos() * mirror
        theta[:, 0, 1] = -side * angle.sin()
        theta[:, 1, 0] = side * angle.sin() * mirror
        theta[:, 1, 1] = side * angle.cos()
        theta[:, 0, 2] = (2 * draws[:, _RIGHT] - 1) * room
        theta[:, 1, 2] = (2 * draws[:, _DOWN] - 1) * room
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _relight(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        recipe = self._recipe
        if recipe.saturation > 0:
            grey = images.mean(dim=1, keepdim=True)
            images = grey + (images - grey) * _around_one(recipe.saturation, draws[:, _SATURATION])
        if recipe.contrast > 0:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = (images - mean) * _around_one(recipe.contrast, draws[:, _CONTRAST]) + mean
        if recipe.brightness > 0:
            images = images + (_around_one(recipe.brightness, draws[:, _BRIGHTNESS]) - 1)
        return images

    def _erase(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Blank one rectangle to the mean colour of pretraining (0 after normalisation), inside the image."""
        _, _, height, width = images.shape
        low, high = _ERASED_AREA
        area = low + (high - low) * draws[:, _AREA]
        tall = torch.exp(math.log(_ERASED_RATIO[0]) + math.log(_ERASED_RATIO[1] / _ERASED_RATIO[0]) * draws[:, _RATIO])
        half_height = ((area * tall).sqrt().clamp(max=1) * height / 2).view(-1, 1, 1, 1)
        half_width = ((area / tall).sqrt().clamp(max=1) * width / 2).view(-1, 1, 1, 1)
        middle_y = half_height + (height - 2 * half_height) * draws[:, _TOP].view(-1, 1, 1, 1)
        middle_x = half_width + (width - 2 * half_width) * draws[:, _LEFT].view(-1, 1, 1, 1)
        rows = torch.arange(height, device=images.device, dtype=images.dtype).add(0.5).view(1, 1, -1, 1)
        columns = torch.arange(width, device=images.device, dtype=images.dtype).add(0.5).view(1, 1, 1, -1)
        inside = ((rows - middle_y).abs() <= half_height) & ((columns - middle_x).abs() <= half_width)
        chosen = (draws[:, _ERASE] < self._recipe.erase).view(-1, 1, 1, 1)
        return images.masked_fill(inside & chosen, 0.0)


def _around_one(strength: float, draws: torch.Tensor) -> torch.Tensor:
    """1 plus or minus up to `strength`, `[N, 1, 1, 1]`."""
    return (1 + strength * (2 * draws - 1)).view(-1, 1, 1, 1)
