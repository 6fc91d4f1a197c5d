"""The bus seam: hints and requests between the parts. Nothing on it is durable and every message may be lost, doubled or late.

A subject is words joined by dots. Who listens may put `*` for one of them, as in `from.*.observed`: there the sender's name stands. A
bus lets a sender use its own name only, and a message that comes in by such a subject must name the same sender in its `host`;
another one is dropped and logged (`check_sender`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Protocol, TypeVar

from pileus.messages import token

M = TypeVar("M")
R = TypeVar("R")


WAITED: ContextVar[float] = ContextVar("WAITED", default=0.0)
"""Seconds that the message which is being handled waited in this process, behind others of its subscription."""


class BusError(Exception):
    """A request was not answered. `NoAnswer`: nobody listens or the time is up."""


class NoAnswer(BusError):
    pass


class RemoteError(BusError):
    """The other side refused or failed; its words."""


class WrongSender(BusError):
    """A message says that it is from another than the one whose subject it came by."""


def check_sender(pattern: str, subject: str, message: object) -> None:
    """Raises WrongSender where `pattern` has a `*` and the message's `host` is not the word that stands there."""
    if "*" not in pattern:
        return
    found = next(word for sign, word in zip(pattern.split("."), subject.split("."), strict=True) if sign == "*")
    said = token(str(getattr(message, "host", "")))
    if said != found:
        raise WrongSender(f"{subject}: a message that says it is from {said}")


class Subscription(Protocol):
    async def close(self) -> None:
        """Take no more messages; those being handled are finished or cancelled before this returns."""


class Bus(Protocol):
    async def publish(self, subject: str, message: object) -> None:
        """Send to everyone who subscribed (one member of each queue group). Returns at once."""

    def subscribe(
        self,
        subject: str,
        kind: type[M],
        handler: Callable[[M], Awaitable[None]],
        *,
        queue: str = "",
        concurrency: int = 1,
    ) -> Subscription:
        """Handle messages of a subject, `concurrency` at a time, in order of arrival. An error of the handler is logged, not raised."""

    def serve(
        self,
        subject: str,
        kind: type[M],
        handler: Callable[[M], Awaitable[object]],
        *,
        queue: str = "",
        concurrency: int = 1,
    ) -> Subscription:
        """Answer requests."""

    async def request(self, subject: str, message: object, answer: type[R], *, timeout: float) -> R:
        """Ask one server of the subject. Raises NoAnswer or RemoteError."""

    def on_reconnect(self, tell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Call `tell` each time the connection is there again after it was lost: messages were, too, so levels are to be read anew.

        One after another, so it should be quick; an error of it is logged. Returns what ends it.
        """
        ...

    async def close(self) -> None: ...
