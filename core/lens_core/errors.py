"""Errors of the core, each saying what was wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_core.steps import StepReport


class LensCoreError(Exception):
    """Base class of every error raised on purpose by `lens_core`."""


class InvalidSizeError(LensCoreError, ValueError):
    """A picture size that Lens cannot make: not a multiple of 16, too long, or too large."""


class PromptError(LensCoreError, ValueError):
    """A prompt that is missing, empty, of the wrong type or of the wrong count."""


class ParameterError(LensCoreError, ValueError):
    """An argument outside its allowed range, or arguments that exclude each other."""


class PrecisionError(LensCoreError, ValueError):
    """A number format the model cannot run in; Lens overflows float16."""


class ComponentError(LensCoreError, ValueError):
    """Components that do not belong together, such as layer counts or channels that differ."""


class CheckpointError(LensCoreError, ValueError):
    """A checkpoint that is incomplete, unreadable or not of the expected kind."""


class HubUnreachableError(CheckpointError):
    """The hub does not answer, so that a checkpoint cannot be had now; it may be had later."""


class NonFiniteError(LensCoreError, ArithmeticError):
    """NaN or infinity in the latents; the message names the step."""


class SamplingCancelledError(LensCoreError):
    """Sampling was cancelled between two steps; what exists is kept here.

    Attributes:
        images: One entry per picture of the call: those of sizes that were finished, in the form
            that was asked for, and None for the others.
        under_way: The latest step of the pictures that were being sampled, which can be decoded;
            None if none was done.
    """

    def __init__(self, message: str, under_way: StepReport | None = None) -> None:
        super().__init__(message)
        self.images: Sequence[Any] = ()
        self.under_way = under_way


def first_line(error: BaseException) -> str:
    """What another library's error says, without the rest of its output."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
