"""Several processes that train one model: `torchrun --nproc-per-node N -m training fit ...`.

torchrun starts the same command N times and says so in the environment; without it there is one process and nothing here
does anything. Every process holds the same split and draws the same numbers; each computes its share of every batch; rank 0
alone writes and talks.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed, nn

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from training.device import Device

T = TypeVar("T")
# A rank that died must not leave the others waiting for ever; the longest honest wait is for rank 0's export.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """How many processes train together, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def share(self, count: int) -> slice:
        """This rank's share of `count` rows in order: sizes differ by at most one, and nothing is counted twice."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Every rank's rows, in the order of ranks, on every rank; rows are CPU tensors, and a rank may have none."""
        if self.is_alone:
            return torch.cat(list(rows))
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, list(rows))
        return torch.cat([row for part in parts for row in part])

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks, on every rank."""
        if self.is_alone:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value / self.size

    def highest(self, value: int, device: torch.device) -> int:
        """The highest of all ranks' values, on every rank."""
        if self.is_alone:
            return value
        most = torch.tensor(value, device=device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return int(most)

    def from_main(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank.

        Raises:
            Exception: Whatever `make` raises, on every rank.
        """
        if self.is_alone:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = make()
            except Exception as err:  # noqa: BLE001 - the other ranks wait for an answer
                box[1] = err
        distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        made: T = box[0]
        return made

    def same(self, what: str, value: str) -> None:
        """Refuse to go on where the ranks do not agree.

        Raises:
            TrainingError: If they do not.
        """
        if self.is_alone:
            return
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise TrainingError(f"the processes see different {what}; give every one of them the same files and recipe")


def join(device: Device) -> World:
    """Join the others where torchrun started this process; else be alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    distributed.init_process_group("nccl" if device.is_cuda else "gloo", timeout=_TIMEOUT)
    return World(distributed.get_rank(), distributed.get_world_size())


def leave(world: World) -> None:
    """Say goodbye; without it the others' collectives end in an error."""
    if not world.is_alone:
        distributed.destroy_process_group()


def replicate(network: nn.Module, world: World, device: Device) -> nn.Module:
    """The network with gradients averaged over the ranks; the network itself where there are no others.

    Call it again when which parameters train changes.
    """
    if world.is_alone:
        return network
    wrap: Any = nn.parallel.DistributedDataParallel
    # Statistics of batch norm are averaged by `average_statistics`, not overwritten with rank 0's at every step.
    spelt = inspect.signature(wrap).parameters
    alone = {"forward_sync_buffers" if "forward_sync_buffers" in spelt else "broadcast_buffers": False}
    ids = [device.torch.index or 0] if device.is_cuda else None
    replica: nn.Module = wrap(network, device_ids=ids, gradient_as_bucket_view=True, **alone)
    return replica


def average_statistics(networks: Sequence[nn.Module], world: World) -> None:
    """Make the running statistics of batch norm the mean over the ranks, before anything is evaluated or saved."""
    if world.is_alone:
        return
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(world.mean(buffer))
