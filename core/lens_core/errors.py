"""Errors of the core, each saying what was wrong and what to do about it."""


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


class NonFiniteError(LensCoreError, ArithmeticError):
    """NaN or infinity in the latents; the message names the step."""
