"""Stand-ins for a device with memory of its own, and a reader of torch's allocator."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lens_core.memory.transfer import DirectTransfer


class Cloning(DirectTransfer):
    """A device of its own within the host's memory: what goes there is a copy that takes room."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.copied = 0

    def copy(self, tensor: Tensor) -> Tensor:
        self.copied += 1
        return tensor.clone()


class Late(DirectTransfer):
    """A device that has not yet done what it was asked to: memory that is let go is not free.

    It becomes free when the host has waited for a later moment, and not before.
    """

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.live = self.peak = self.settled = 0
        self._gone: list[int] = []

    def copy(self, tensor: Tensor) -> Tensor:
        copied = tensor.clone()
        storage = copied.untyped_storage()
        weakref.finalize(storage, self._gone.append, storage.nbytes())
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        return copied

    def moment(self) -> Any:
        return len(self._gone)

    def settle(self, moment: Any) -> None:
        self.live -= sum(self._gone[self.settled : moment])
        self.settled = max(self.settled, moment)


class Unpaced(Late):
    """A device for which the host never waits."""

    def settle(self, moment: Any) -> None:
        pass


def measured(run: Callable[[], Any]) -> int:
    """Most bytes that torch's allocator gave out at once, beyond those it had given before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
