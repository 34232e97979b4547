"""Numbers that a cast of their model leaves as precise as they are."""

from typing import Any, Self

from diffusers import AutoencoderKLFlux2
from torch import nn


class ExactBuffers(nn.Module):
    """A module without parts, whose buffers move with the model but keep their precision."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in list(self.named_buffers()):
            if moved.dtype != exact[name].dtype:
                setattr(self, name, exact[name].to(moved.device))
        return self


class ExactBatchNorm(ExactBuffers, nn.BatchNorm2d):
    """One whose statistics keep their precision."""


def keep_statistics(vae: AutoencoderKLFlux2) -> None:
    """Leave an autoencoder's statistics as they are whatever it is cast to from now on.

    They are few, and rounding them would shift the colours of every picture.
    """
    vae.bn.__class__ = ExactBatchNorm
