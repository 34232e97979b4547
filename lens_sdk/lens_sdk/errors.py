"""Errors of the SDK itself, each saying what was wrong and what to do about it."""

from lens_reasoner.errors import ReasonerError


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


class UnknownPartError(SdkError, ValueError):
    """A reasoner or judge that is none of those on offer."""


class SettingsError(SdkError, ValueError):
    """A setting that is not known or cannot be used; the message says where it was found."""


class UnfinishedRunError(SdkError, ValueError):
    """A folder that holds a run with other settings than those it is to go on with."""


class NothingDrawnError(SdkError):
    """A run that reached a limit before there was any picture.

    Attributes:
        stop_reason: Why it ended.
    """

    def __init__(self, stop_reason: str) -> None:
        super().__init__(
            f"The run ended before any picture was drawn: {stop_reason}.",
            hint="Allow more time or money; with a cost limit, every model needs a known price.",
        )
        self.stop_reason = stop_reason
