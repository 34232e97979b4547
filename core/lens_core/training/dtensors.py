"""Tensors that may be whole or lie in parts over processes, as `DTensor`s."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; a whole tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors in main memory, gathered one by one; every process must take part.

    Args:
        tensors: Sharded or not, the same names in every process.
        keep: Whether this process wants them; others return nothing.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if keep:
            gathered[name] = full.to("cpu", copy=True)
    return gathered


def full_tensor(tensor: Tensor) -> Tensor:
    """A whole tensor from its parts; every process must take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def swap_values(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Swap the values of tensors of the same names and layout."""
    for name, tensor in one.items():
        mine, theirs = local(tensor.detach()), local(other[name].detach())
        kept = mine.clone()
        mine.copy_(theirs)
        theirs.copy_(kept)
