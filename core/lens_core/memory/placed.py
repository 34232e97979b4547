"""A component whose weights are on the device only while it works."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from lens_core.memory.layout import Layout
from lens_core.memory.plan import Placement
from lens_core.memory.transfer import Transfer
from lens_core.memory.weights import WeightGroup


class PlacedComponent:
    """Brings a component's weights to the device and removes them again.

    Args:
        layout: The component and its blocks, in the order they run in.
        placement: `resident` is moved to the device at once and stays, others to the host.
        transfer: How weights reach the device.
        pins: Lock the pages of streamed blocks in the host's memory, for what runs many times.
    """

    def __init__(
        self, layout: Layout, placement: Placement, transfer: Transfer, pins: bool = False
    ) -> None:
        self._handles: list[RemovableHandle] = []
        self._transfer = transfer
        self._blocks: list[WeightGroup] = []
        self._main: WeightGroup | None = None
        self._heads: list[WeightGroup] = []
        if placement == "resident":
            layout.root.to(transfer.device)
            return
        layout.root.to("cpu")
        blocks = layout.blocks if placement == "stream" else ()
        self._main = WeightGroup([layout.root], [*blocks, *layout.heads], transfer)
        self._heads = [WeightGroup([head], (), transfer) for head in layout.heads]
        self._blocks = [WeightGroup([block], (), transfer) for block in blocks]
        if pins and transfer.device.type == "cuda":
            for group in self._blocks:
                group.pin()
        self._stream(blocks)
        for head, group in zip(layout.heads, self._heads, strict=True):
            self._handles.append(head.register_forward_pre_hook(_loading(group)))

    @property
    def is_loaded(self) -> bool:
        """Whether any weights are on the device that will leave it again."""
        groups = [*self._blocks, *self._heads, *([self._main] if self._main else [])]
        return any(group.is_loaded for group in groups)

    def load(self) -> None:
        """Bring what the whole component needs; blocks that are streamed come by themselves."""
        if self._main is not None:
            self._main.load()

    def unload(self) -> None:
        """Remove everything from the device that does not stay there."""
        for group in [*self._blocks, *self._heads, *([self._main] if self._main else [])]:
            group.unload()

    def remove(self) -> None:
        """Leave the component as it was before, its weights with the host or where they stayed."""
        self.unload()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _stream(self, blocks: Sequence[nn.Module]) -> None:
        pace = _Pace(self._transfer)
        for index, (block, group) in enumerate(zip(blocks, self._blocks, strict=True)):
            after = self._blocks[index + 1] if index + 1 < len(self._blocks) else None
            self._handles += [
                block.register_forward_pre_hook(_loading(group, after, pace)),
                block.register_forward_hook(_unloading(group, pace)),
            ]


class _Pace:
    """Keeps the host from running ahead of the device.

    Launching is faster than computing. Without it, copies of many blocks would be asked for while
    the first still computes, and none of their memory could be used twice.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._latest: Any = None

    def block_left(self) -> None:
        """Remember when what was computed so far is done."""
        self._latest = self._transfer.moment()

    def make_room(self) -> None:
        """Wait until the block that left last is no longer read."""
        if self._latest is not None:
            self._transfer.settle(self._latest)
            self._latest = None


def _loading(
    group: WeightGroup, after: WeightGroup | None = None, pace: _Pace | None = None
) -> Any:
    def hook(_module: nn.Module, _inputs: Any) -> None:
        group.begin()
        if pace is not None:
            pace.make_room()
        if after is not None:
            after.begin()
        group.load()

    return hook


def _unloading(group: WeightGroup, pace: _Pace) -> Any:
    def hook(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        group.unload()
        pace.block_left()

    return hook
