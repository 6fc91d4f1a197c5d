"""The bus seam: hints and requests between the parts. Nothing on it is durable and every message may be lost, doubled or late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

M = TypeVar("M")
R = TypeVar("R")


class BusError(Exception):
    """A request was not answered. `NoAnswer`: nobody listens or the time is up."""


class NoAnswer(BusError):
    pass


class RemoteError(BusError):
    """The other side refused or failed; its words."""


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

    async def close(self) -> None: ...
