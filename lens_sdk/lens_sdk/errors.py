"""Errors of the SDK itself; each says what was wrong and what to do about it.

`LensError` is the base class of all errors that the packages raise on purpose, including those of
calls to servers (`lens_sdk.client.errors`). `lens_sdk.error_kinds` groups them by remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lens_reasoner.errors import GeneratorError, ReasonerError

if TYPE_CHECKING:
    from lens_reasoner import Candidate, GeneratedImage, LoopResult

LensError = ReasonerError
"""Base class of every error raised on purpose; it has a `message` and a `hint`."""


class SdkError(ReasonerError):
    """Base class of the errors raised on purpose by `lens_sdk`."""


class MissingExtraError(SdkError, ImportError):
    """Packages of an optional extra are not installed.

    Attributes:
        extra: Name of the extra.
        packages: The missing packages.
    """

    def __init__(self, extra: str, packages: tuple[str, ...]) -> None:
        SdkError.__init__(
            self,
            f"Running a model on this machine needs {', '.join(packages)}.",
            hint=f'Install with: pip install "lens-sdk[{extra}]"',
        )
        self.extra = extra
        self.packages = packages


class UnknownModelError(SdkError, ValueError):
    """A model name is neither known nor a folder with a Lens checkpoint."""


class MissingWeightsError(SdkError, ValueError):
    """The weights of a published model are not on this machine.

    Attributes:
        model: The name of the model.
        parts: The missing parts.
    """

    def __init__(self, model: str, parts: tuple[str, ...]) -> None:
        super().__init__(
            f"The weights of {model} are not on this machine: there is no {', '.join(parts)}.",
            hint=f"Fetch them with: lens pull {model} (about 22 GB in all)",
        )
        self.model = model
        self.parts = parts


class ReproductionError(SdkError, ValueError):
    """An image cannot be reproduced from the record in its file."""


class UnknownPartError(SdkError, ValueError):
    """A reasoner, judge or other part is not one of the available choices."""


class SettingsError(SdkError, ValueError):
    """A setting is unknown or invalid; the message says where it was found."""


class NothingToCompareError(SdkError, ValueError):
    """There are no images to compare."""


class UnfinishedRunError(SdkError, ValueError):
    """A folder holds a run with settings other than those to resume it with."""


class BatchFileError(SdkError, ValueError):
    """A file of requests has invalid lines; the message names them."""


class LimitReachedError(SdkError):
    """A limit ended a run before it reached its target.

    Attributes:
        stop_reason: The limit that ended it.
        result: The run so far; None if there is none.
    """

    def __init__(self, message: str, *, stop_reason: str, result: LoopResult | None) -> None:
        super().__init__(message, hint="Allow more rounds, images, time or money.")
        self.stop_reason = stop_reason
        self.result = result

    @property
    def best(self) -> Candidate | None:
        """The best image so far, if there is one."""
        return None if self.result is None else self.result.best

    @classmethod
    def of(cls, result: LoopResult) -> LimitReachedError:
        """Make the error for a run."""
        best = None if result.best is None else result.best.score
        so_far = "nothing is judged" if best is None else f"the best score is {best:.2f}"
        words = result.stop_reason.replace("_", " ")
        return cls(
            f"The run ended before its target, by {words}; {so_far}.",
            stop_reason=result.stop_reason,
            result=result,
        )


class NothingDrawnError(LimitReachedError):
    """A run reached a limit before there was any image."""

    def __init__(self, stop_reason: str) -> None:
        super().__init__(
            f"The run ended before any image was generated: {stop_reason}.",
            stop_reason=stop_reason,
            result=None,
        )
        self.hint = "Allow more time or money; with a cost limit, every model needs a known price."


class PartlyDrawnError(SdkError, GeneratorError):
    """A call failed after some of its images were generated; the cause says why.

    Attributes:
        images: The images generated before the failure.
    """

    def __init__(
        self, message: str, *, images: Sequence[GeneratedImage] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.images = tuple(images)
