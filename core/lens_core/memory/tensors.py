"""Tensors that may be made of several others, as quantised weights are."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor is made of: itself, or codes and scales."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten()[0]:
        yield from parts_of(getattr(tensor, name))


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values; of a view, of the values it shows."""
    return sum(part.numel() * part.element_size() for part in parts_of(tensor))


def module_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of all parameters and buffers of some modules, shared ones counted once."""
    found = {
        id(tensor): tensor
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensor_bytes(tensor) for tensor in found.values())


def cast_parameters(component: nn.Module, dtype: torch.dtype) -> None:
    """Change the precision of parameters, and of nothing else, on the meta device or elsewhere."""
    for module in component.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                cast = nn.Parameter(parameter.to(dtype), requires_grad=False)
                module._parameters[name] = cast
