"""Weights that are on the device for a while, their originals in the host's memory.

The originals never move: copies take their places and are dropped again, so that nothing is copied
back. Parameters are replaced rather than refilled, which works for quantised tensors too.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lens_core.memory.tensors import parts_of
from lens_core.memory.transfer import Transfer
from lens_core.modulation import TabulatedModulation

Table = dict[str, Any]


class WeightGroup:
    """The weights of some modules, which come and go together.

    Layers that were added since, such as LoRAs, are part of it. Modulations that a table stands in
    for are not.

    Args:
        roots: The modules, with everything inside them.
        without: Modules inside them that belong to other groups.
        transfer: How copies reach the device.
    """

    def __init__(
        self, roots: Sequence[nn.Module], without: Collection[nn.Module], transfer: Transfer
    ) -> None:
        self._roots = roots
        self._without = {id(module) for module in without}
        self._transfer = transfer
        self._originals: list[tuple[Table, str, Tensor]] = []
        self._ready: Any = None

    @property
    def is_loaded(self) -> bool:
        """Whether copies are in place."""
        return bool(self._originals)

    def begin(self) -> None:
        """Begin to copy, unless it was done."""
        if self.is_loaded:
            return
        copies: dict[int, Tensor] = {}
        for table, name, tensor in self._entries():
            if id(tensor) not in copies:
                copies[id(tensor)] = _copy(tensor, self._transfer)
            self._originals.append((table, name, tensor))
        for table, name, tensor in self._originals:
            table[name] = copies[id(tensor)]
        self._ready = self._transfer.mark()

    def load(self) -> None:
        """Have the copies in place before anything is computed."""
        self.begin()
        self._transfer.wait(self._ready)

    def unload(self) -> None:
        """Put the originals back. Harmless if nothing was loaded."""
        for table, name, tensor in self._originals:
            table[name] = tensor
        self._originals.clear()
        self._ready = None

    def pin(self) -> None:
        """Lock the originals' pages, so that copying them need not wait for the host.

        Those of rounded weights stay as they are: torchao has no such thing.
        """
        for table, name, tensor in self._entries():
            if len(list(parts_of(tensor))) == 1 and not tensor.is_pinned():
                table[name] = _like(tensor, tensor.pin_memory())

    def _entries(self) -> Iterator[tuple[Table, str, Tensor]]:
        for root in self._roots:
            for module in self._modules(root):
                for table in (module._parameters, module._buffers):
                    for name, tensor in list(table.items()):
                        if tensor is not None:
                            yield table, name, tensor

    def _modules(self, module: nn.Module) -> Iterator[nn.Module]:
        if id(module) in self._without or isinstance(module, TabulatedModulation):
            return
        yield module
        for child in module.children():
            yield from self._modules(child)


def _copy(tensor: Tensor, transfer: Transfer) -> Tensor:
    with torch.no_grad():
        return _like(tensor, transfer.copy(tensor.detach()))


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=False)
    return values
