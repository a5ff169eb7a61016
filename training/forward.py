"""Every image through a network, in order and without augmentation: what is measured, and what the probe is fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from training.device import Device
    from training.distributed import World
    from training.normalise import Normalise

BATCH = 64


@torch.no_grad()
def forward_all(
    pixels: npt.NDArray[Any],
    compute: Callable[[torch.Tensor], torch.Tensor],
    normalise: Normalise,
    device: Device,
    world: World,
    done: Callable[[int], object] = lambda images: None,
) -> torch.Tensor:
    """What `compute` makes of every image, float32 on the CPU; several processes compute a share each.

    In full precision: what is measured must be what is exported. A batch that does not fit in memory is halved.

    Args:
        pixels: uint8 `[N, H, W, 3]`.
        compute: A batch of normalised images to rows.
        normalise: The backbone's.
        device: Where to compute.
        world: The other processes.
        done: Told after each batch how many images it had.
    """
    mine = pixels[world.share(len(pixels))]
    parts: list[torch.Tensor] = []
    batch, start = BATCH, 0
    with device.exact():
        while start < len(mine):
            taken = mine[start : start + batch]
            try:
                parts.append(compute(normalise(torch.from_numpy(taken), device)).float().cpu())
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
                say(f"  out of memory; {batch} images at once from here on")
                torch.cuda.empty_cache()
                continue
            start += len(taken)
            done(len(taken))
    return world.gather(parts)
