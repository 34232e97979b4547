"""Buffers that keep their precision when the model around them is cast."""

from typing import Any, Self

from diffusers import AutoencoderKLFlux2
from torch import nn


class ExactBuffers(nn.Module):
    """A module without submodules whose buffers move with the model but are never cast."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in list(self.named_buffers()):
            if moved.dtype != exact[name].dtype:
                setattr(self, name, exact[name].to(moved.device))
        return self


class ExactBatchNorm(ExactBuffers, nn.BatchNorm2d):
    """A BatchNorm whose running statistics are never cast."""


def keep_statistics(vae: AutoencoderKLFlux2) -> None:
    """Keep the precision of an autoencoder's BatchNorm statistics through later casts.

    They are few, and rounding them would shift the colours of every picture.
    """
    vae.bn.__class__ = ExactBatchNorm
