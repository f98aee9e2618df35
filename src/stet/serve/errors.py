"""Errors as OpenAI's API shows them."""

from __future__ import annotations

from typing import Any

from stet.core.errors import CapacityError, LengthError, OptionError, StetError


class ApiError(Exception):
    """A request that is refused or has failed.

    Attributes:
        status: the HTTP status.
        message: one sentence.
        kind: `type` of OpenAI's error object.
        param: the field that is at fault, or None.
        code: a word for programs, or None.
        retry_after: seconds after which another try may succeed, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= _LONGEST else f"{message[: _LONGEST - 3]}..."
        self.kind = kind or _KINDS.get(status, "server_error" if status >= 500 else _INVALID)
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The error as a JSON object."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


_LONGEST = 800
"""Characters of a message, whatever it quotes."""

_INVALID = "invalid_request_error"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error for a request that cannot be run."""
    return ApiError(400, message, param=param, code=code)


def api_error(error: Exception) -> ApiError:
    """What a client is told of an error; of one that is no sentence of ours only its kind.

    Another library's message may say what is no client's business.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OptionError):
        code = "context_length_exceeded" if isinstance(error, LengthError) else None
        return invalid(str(error), code=code)
    if isinstance(error, CapacityError):
        return ApiError(503, str(error), code="no_room", retry_after=1)
    inner = error.__cause__ if type(error) is StetError else None
    if isinstance(error, StetError) and inner is None:
        return ApiError(500, str(error))
    name = type(inner or error).__name__
    return ApiError(500, f"The request failed by a fault of the server or of a policy ({name}).")
