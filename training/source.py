"""Where a step's images come from, and in which order: functions of the seed and a number, and of nothing that was before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from training.data import Images
    from training.device import Device
    from training.objective import Objective

# Images stay on the GPU where they take at most this share of its free memory.
_RESIDENT_SHARE = 0.4


class Source:
    """Training images by row: on the GPU where they fit, else in memory, a batch at a time."""

    def __init__(self, images: Images, objective: Objective, device: Device) -> None:
        """Take the images; those of a GPU travel once, where they fit."""
        self._device = device
        self._images = images
        self._targets = objective.tensor(images.targets).to(device.torch)
        self._resident = self._move() if device.is_cuda else None

    def __len__(self) -> int:
        """How many images."""
        return len(self._images)

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 `[n, H, W, 3]` and targets of some rows, on the device."""
        index = torch.from_numpy(rows).to(self._device.torch)
        if self._resident is not None:
            return self._resident[index], self._targets[index]
        pixels = torch.from_numpy(self._images.pixels[rows])
        if self._device.is_cuda:
            pixels = pixels.pin_memory().to(self._device.torch, non_blocking=True)
        return pixels, self._targets[index]

    def _move(self) -> torch.Tensor | None:
        free, _ = torch.cuda.mem_get_info(self._device.torch)
        if self._images.pixels.nbytes > free * _RESIDENT_SHARE:
            return None
        return torch.from_numpy(np.ascontiguousarray(self._images.pixels)).to(self._device.torch)


def mixed_seed(seed: int, number: int) -> int:
    """One seed of two numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def epoch_order(images: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    """The order of an epoch (0-based)."""
    return np.random.default_rng((seed, epoch)).permutation(images)


def rows_for_ever(images: int, batch_size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of one step after another, epoch after epoch."""
    epoch = 0
    while True:
        order = epoch_order(images, epoch, seed)
        for start in range(0, max(1, images - batch_size + 1), batch_size):
            yield order[start : start + batch_size]
        epoch += 1
