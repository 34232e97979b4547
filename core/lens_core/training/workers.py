"""Data-parallel workers: as many processes as `torchrun` starts, or just this one."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_PATIENCE = timedelta(hours=12)
"""How long processes wait for each other: one of them may write shards or draw meanwhile. Those
whose partner has died are ended by what started them."""


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Workers":
        """Join the group that `torchrun` describes in the environment, if it started us."""
        if "WORLD_SIZE" not in os.environ and not dist.is_initialized():
            return cls()
        if not dist.is_initialized():
            # Training states are exchanged in main memory, also where gradients are not.
            kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(kinds, timeout=_PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        """Leave the group, as a process must before it ends; a lone one has none."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's share: every `count`-th item from its own number on, marked True.

        All processes get equally many, since those that share weights must compute equally often:
        where the items do not suffice, the last turn is one of the first items, marked False.

        Args:
            items: At least one, the same in every process.
        """
        turns = -(-len(items) // self.count)
        numbers = range(self.rank, turns * self.count, self.count)
        return [(items[number % len(items)], number < len(items)) for number in numbers]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over all processes, in one message."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, item: T) -> list[T]:
        """Every process's item, in order of rank, on every process."""
        if self.count == 1:
            return [item]
        items: list[T | None] = [None] * self.count
        dist.all_gather_object(items, item)
        return [part for part in items if part is not None]
