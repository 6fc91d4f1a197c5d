"""The errors that rules raise. They know nothing of HTTP bodies: each API face renders them in its own service's shape."""

from __future__ import annotations


class PileusError(Exception):
    """A refusal with a sentence for the person who asked.

    `status` is the HTTP status a face answers with; `kind` is the machine-readable name where a service has one
    (Neutron's `type`, placement's `code`). The message says what to change.
    """

    status = 500
    kind = ""

    def __init__(self, message: str, *, kind: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or self.kind or type(self).__name__
        self.headers = headers or {}


class BadRequest(PileusError):
    status = 400


class Unauthorized(PileusError):
    status = 401


class Forbidden(PileusError):
    status = 403


class QuotaExceeded(Forbidden):
    """A project's limit is reached. Nova answers 403, Neutron 409: the face knows."""

    kind = "OverQuota"


class NotFound(PileusError):
    status = 404


class MethodNotAllowed(PileusError):
    status = 405


class NotAcceptable(PileusError):
    status = 406


class Stalled(PileusError):
    """A request whose body has stopped coming."""

    status = 408


class Conflict(PileusError):
    status = 409


class TooLarge(PileusError):
    status = 413


class UnsupportedMediaType(PileusError):
    status = 415


class RangeNotSatisfiable(PileusError):
    status = 416


class TooManyRequests(PileusError):
    """Enough of this waits already; `Retry-After` says when there may be room."""

    status = 429

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


class Unavailable(PileusError):
    """Something we depend on did not answer in time; asking again may help."""

    status = 503


class StartupError(Exception):
    """Pileus cannot start (or a command cannot run): one clear line for the person at the terminal, exit code 1."""
