"""All components of a pipeline under one plan: whoever works makes the others leave the device."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device
from torch import nn

from lens_core.memory.layout import layout_of
from lens_core.memory.placed import PlacedComponent
from lens_core.memory.plan import Placement
from lens_core.memory.transfer import Transfer, transfer_to


class Placements:
    """Carries out a plan's placements.

    Args:
        device: Where components compute.
        transfer: How weights get there; by default the best way for the device.
    """

    def __init__(self, device: torch.device, transfer: Transfer | None = None) -> None:
        self.device = device
        self._transfer = transfer or transfer_to(device)
        self._parts: dict[str, tuple[nn.Module, PlacedComponent]] = {}

    def place(self, components: Mapping[str, tuple[nn.Module, Placement]]) -> None:
        """Take components under control, those that stay on the device last.

        Loading takes their calls for a sign that they work: of `forward`, and of the methods that
        diffusers' `apply_forward_hook` marks.
        """
        stays = sorted(components, key=lambda name: components[name][1] == "resident")
        for name in stays:
            component, placement = components[name]
            self.remove(name)
            often = name == "transformer"
            placed = PlacedComponent(layout_of(component), placement, self._transfer, often)
            self._parts[name] = (component, placed)
            add_hook_to_module(component, _Working(self, name))

    def enter(self, name: str) -> None:
        """Bring a component to the device, after the others have made room."""
        others = [placed for other, (_, placed) in self._parts.items() if other != name]
        if any(placed.is_loaded for placed in others):
            for placed in others:
                placed.unload()
            self._transfer.settle(self._transfer.moment())
        self._parts[name][1].load()

    def leave(self, name: str) -> None:
        """Remove a component's weights from the device, unless they stay there."""
        if name in self._parts:
            self._parts[name][1].unload()

    def release(self) -> None:
        """Remove all weights from the device that do not stay there."""
        for name in self._parts:
            self.leave(name)

    def remove(self, name: str) -> None:
        """Stop managing a component; its weights return to where they are kept."""
        if name in self._parts:
            component, placed = self._parts.pop(name)
            placed.remove()
            remove_hook_from_module(component)

    def clear(self) -> None:
        """Stop managing all components."""
        for name in list(self._parts):
            self.remove(name)


class _Working(ModelHook):  # type: ignore[misc]
    """Tells the placements that a component begins to work."""

    def __init__(self, placements: Placements, name: str) -> None:
        self._placements = placements
        self._name = name
        self.execution_device = placements.device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Bring the weights, and the inputs to them."""
        self._placements.enter(self._name)
        return (
            send_to_device(args, self.execution_device),
            send_to_device(kwargs, self.execution_device),
        )


def working_device(component: nn.Module) -> torch.device:
    """Where a component computes, even if its weights are with the host just now."""
    hook = getattr(component, "_hf_hook", None)
    if isinstance(hook, _Working):
        return hook.execution_device
    device: torch.device = next(component.parameters()).device
    return device
