"""Errors of the SDK itself, each saying what was wrong and what to do about it.

`LensError` is the base of all errors that the packages raise on purpose, those of calls to servers
(`lens_sdk.client.errors`) included; `lens_sdk.error_kinds` sorts them by what can be done.
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
        packages: What is missing.
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
    """A model name that is neither known nor a folder with a Lens checkpoint."""


class MissingWeightsError(SdkError, ValueError):
    """A published model whose weights are not on this machine.

    Attributes:
        model: Its name.
        parts: What is missing.
    """

    def __init__(self, model: str, parts: tuple[str, ...]) -> None:
        super().__init__(
            f"The weights of {model} are not on this machine: there is no {', '.join(parts)}.",
            hint=f"Fetch them with: lens pull {model} (about 22 GB in all)",
        )
        self.model = model
        self.parts = parts


class ReproductionError(SdkError, ValueError):
    """A picture that cannot be made again from what its file says."""


class UnknownPartError(SdkError, ValueError):
    """A reasoner or judge that is none of those on offer."""


class SettingsError(SdkError, ValueError):
    """A setting that is not known or cannot be used; the message says where it was found."""


class NothingToCompareError(SdkError, ValueError):
    """No pictures where some are to be compared."""


class UnfinishedRunError(SdkError, ValueError):
    """A folder that holds a run with other settings than those it is to go on with."""


class BatchFileError(SdkError, ValueError):
    """A file of requests with lines that cannot be used; the message names them."""


class LimitReachedError(SdkError):
    """A run that a limit ended before its target was reached.

    Attributes:
        stop_reason: Which limit.
        result: The run; None if there is nothing of it.
    """

    def __init__(self, message: str, *, stop_reason: str, result: LoopResult | None) -> None:
        super().__init__(message, hint="Allow more rounds, pictures, time or money.")
        self.stop_reason = stop_reason
        self.result = result

    @property
    def best(self) -> Candidate | None:
        """The best picture so far, if there is any."""
        return None if self.result is None else self.result.best

    @classmethod
    def of(cls, result: LoopResult) -> LimitReachedError:
        """The error of a run."""
        best = None if result.best is None else result.best.score
        so_far = "nothing is judged" if best is None else f"the best score is {best:.2f}"
        words = result.stop_reason.replace("_", " ")
        return cls(
            f"The run ended before its target, by {words}; {so_far}.",
            stop_reason=result.stop_reason,
            result=result,
        )


class NothingDrawnError(LimitReachedError):
    """A run that reached a limit before there was any picture."""

    def __init__(self, stop_reason: str) -> None:
        super().__init__(
            f"The run ended before any picture was drawn: {stop_reason}.",
            stop_reason=stop_reason,
            result=None,
        )
        self.hint = "Allow more time or money; with a cost limit, every model needs a known price."


class PartlyDrawnError(SdkError, GeneratorError):
    """A call of which some pictures were drawn before another one failed; the cause says why.

    Attributes:
        images: The pictures there are.
    """

    def __init__(
        self, message: str, *, images: Sequence[GeneratedImage] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.images = tuple(images)
