"""Errors of calls to a server.

SdkError
 +- LensServerError
     +- AuthenticationError
     +- RequestRefusedError
     +- ServerBusyError
     +- ServerFailedError
     +- ServerUnreachableError
     |   +- ServerTimeoutError
     +- RunEndedError
"""

from __future__ import annotations

from lens_sdk.errors import SdkError


class LensServerError(SdkError):
    """A call to a server that gave no result.

    Attributes:
        status: HTTP status; None if there was no answer.
        code: The server's short name for what was wrong.
        param: The parameter it is about.
        request_id: The server's name for the call.
        retry_after: Seconds after which asking again makes sense, if the server said so.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class AuthenticationError(LensServerError):
    """The server does not know the API key."""


class RequestRefusedError(LensServerError, ValueError):
    """The server cannot honour the request as it is; asking again does not help."""


class ServerBusyError(LensServerError):
    """Too much is waiting there, or the server is shutting down, and retrying did not help."""


class ServerFailedError(LensServerError):
    """The server failed."""


class ServerUnreachableError(LensServerError):
    """There is no connection, or it was lost and could not be made again."""


class ServerTimeoutError(ServerUnreachableError):
    """The server did not answer in time."""


class RunEndedError(LensServerError):
    """A run that ended before it was finished.

    Attributes:
        run_id: Its name, to look at it or resume it.
        run_status: What became of it: "cancelled", "failed" or "interrupted".
    """

    def __init__(self, message: str, *, run_id: str, run_status: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id
        self.run_status = run_status
