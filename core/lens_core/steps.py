"""What callers are told after every sampler step, and how they end sampling."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

Cancel = threading.Event
"""Set by any thread, it ends sampling before the next step with `SamplingCancelledError`."""


@dataclass(frozen=True)
class StepReport:
    """Pictures of one size after a step.

    Attributes:
        step: Steps done of these pictures, from 1 to `total`.
        total: Steps they take.
        sigma: The noise level that is reached, from near 1 to 0.
        rows: Positions of the pictures among all of the call.
        height: Pixels.
        width: Pixels.
        latents: Normalised tokens `[len(rows), tokens, channels]`.
        estimate: What the latents would be without the noise that is left, same shape.
    """

    step: int
    total: int
    sigma: float
    rows: tuple[int, ...]
    height: int
    width: int
    latents: Tensor = field(repr=False)
    estimate: Tensor = field(repr=False)
    _preview: Callable[[Tensor, int, int], list[Image.Image]] = field(repr=False)
    _decode: Callable[[Tensor, int, int], list[Image.Image]] = field(repr=False)

    def previews(self) -> list[Image.Image]:
        """A quarter-size picture of each estimate, by a linear map; next to free."""
        return self._preview(self.estimate, self.height, self.width)

    def pictures(self) -> list[Image.Image]:
        """Each estimate decoded in full, which costs about as much as a step."""
        return self._decode(self.estimate, self.height, self.width)


StepListener = Callable[[StepReport], None]
"""Called after every step; an exception from it ends the call."""
