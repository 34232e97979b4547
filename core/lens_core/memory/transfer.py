"""Copying weights from the host to the device they are computed with."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from lens_core.memory.tensors import parts_of


class Transfer(Protocol):
    """How copies reach a device.

    Attributes:
        device: Where they go.
    """

    device: torch.device

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy on the device, complete only after `wait` for a later `mark`."""
        ...

    def mark(self) -> Any:
        """A moment after all copies begun so far."""
        ...

    def wait(self, mark: Any) -> None:
        """Let everything computed from now on come after that moment."""
        ...

    def moment(self) -> Any:
        """A moment after everything computed so far."""
        ...

    def settle(self, moment: Any) -> None:
        """Let the host wait for a moment, so that what was let go before it makes room."""
        ...


class DirectTransfer:
    """Copies that are complete when they return, on any device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy on the device, or the tensor itself if it is there."""
        return tensor.to(self.device)

    def mark(self) -> None:
        """Nothing to remember."""

    def wait(self, mark: None) -> None:
        """Nothing to wait for."""

    def moment(self) -> None:
        """Nothing to remember."""

    def settle(self, moment: None) -> None:
        """Nothing to wait for."""


class StreamTransfer:
    """Copies on a CUDA stream of their own, so that one block travels while another computes.

    The host goes on at once only where its memory is page-locked.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, tensor: Tensor) -> Tensor:
        """Begin a copy on the side stream."""
        with self._side():
            moved = tensor.to(self.device, non_blocking=True)
        # The memory was taken on the side stream: it must not be given away there while layers on
        # the stream that computes still read it.
        current = torch.cuda.current_stream(self.device)
        for part in parts_of(moved):
            part.record_stream(current)
        return moved

    def mark(self) -> torch.cuda.Event:
        """An event on the side stream."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        """Let the stream that computes wait, not the host."""
        torch.cuda.current_stream(self.device).wait_event(mark)

    def moment(self) -> torch.cuda.Event:
        """An event on the stream that computes."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def settle(self, moment: torch.cuda.Event) -> None:
        """Block the host; the allocator takes memory back once the device has read it."""
        moment.synchronize()

    def _side(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context


def transfer_to(device: torch.device) -> Transfer:
    """The fastest way to copy to a device."""
    return StreamTransfer(device) if device.type == "cuda" else DirectTransfer(device)
