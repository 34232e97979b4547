"""Step reports and cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

Cancel = threading.Event
"""Set it from any thread to stop sampling before the next step with `SamplingCancelledError`."""


@dataclass(frozen=True)
class StepReport:
    """State of the images of one size after a step.

    Attributes:
        step: Steps completed for these images, from 1 to `total`.
        total: Number of steps they take.
        sigma: Noise level reached, from near 1 down to 0.
        rows: Positions of these images among all images of the call.
        height: Pixels.
        width: Pixels.
        latents: Normalised tokens `[len(rows), tokens, channels]`.
        estimate: Estimate of the clean latents, same shape.
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
        """Render a quarter-size image of each estimate with a linear map, at almost no cost."""
        return self._preview(self.estimate, self.height, self.width)

    def pictures(self) -> list[Image.Image]:
        """Decode each estimate at full size, which takes about as long as a step."""
        return self._decode(self.estimate, self.height, self.width)


StepListener = Callable[[StepReport], None]
"""Called after every step. An exception it raises ends the call."""
