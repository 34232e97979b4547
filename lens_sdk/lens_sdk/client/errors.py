"""Errors raised by calls to a server.

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
    """A call to a server returned no result.

    Attributes:
        status: HTTP status; None if there was no answer.
        code: The server's error code.
        param: The parameter that caused the error.
        request_id: The server's ID for the call.
        retry_after: Seconds to wait before retrying, if the server gave a time.
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
    """The server does not accept the API key."""


class RequestRefusedError(LensServerError, ValueError):
    """The server refuses the request; retrying it unchanged does not help."""


class ServerBusyError(LensServerError):
    """The server is overloaded or shutting down, and retrying did not help."""


class ServerFailedError(LensServerError):
    """The server failed."""


class ServerUnreachableError(LensServerError):
    """The server could not be reached, or the connection was lost and could not be restored."""


class ServerTimeoutError(ServerUnreachableError):
    """The server did not answer in time."""


class RunEndedError(LensServerError):
    """A run ended before it was finished.

    Attributes:
        run_id: ID of the run, for reading or resuming it.
        run_status: How the run ended: "cancelled", "failed" or "interrupted".
    """

    def __init__(self, message: str, *, run_id: str, run_status: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id
        self.run_status = run_status
