"""What every bus does on the receiving side: keep what waits for a subscription within bounds, decode it, hand it over, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec
import structlog

from pileus.bus import WAITED, BusError, M, R, RemoteError, WrongSender, check_sender

log = structlog.get_logger(__name__)
Item = TypeVar("Item")

BUFFER = 65536
BUFFER_BYTES = 64 << 20
"""Messages, and bytes of them, that a subscription may be behind; what comes then is lost and logged."""


def count_lost(where: str) -> None:
    """One more message lost: `subscription` (its handlers are too slow) or `connection` (the bus takes no more)."""
    from pileus import metrics  # costs 100 ms: who loses nothing and is never asked does without

    metrics.BUS_LOST.labels(where).inc()


class Delivery(Generic[Item]):
    """The messages of one subscription: handled in order of arrival, by at most `concurrency` tasks, made when first needed."""

    def __init__(self, subject: str, handle: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
        self.subject = subject
        self.lost = 0
        self._handle = handle
        self._concurrency = concurrency
        self._waiting: asyncio.Queue[tuple[Item, int, float]] = asyncio.Queue(BUFFER)
        self._bytes = 0
        self._idle = 0
        self._tasks: list[asyncio.Task[None]] = []

    def put(self, item: Item, size: int) -> None:
        """Take a message of `size` bytes, or lose it."""
        if self._waiting.full() or self._bytes + size > BUFFER_BYTES:
            if self.lost % BUFFER == 0:
                behind = self._waiting.qsize()
                log.error("a subscriber is too far behind: messages are lost", subject=self.subject, behind=behind, lost=self.lost + 1)
            self.lost += 1
            count_lost("subscription")
            return
        self._bytes += size
        self._waiting.put_nowait((item, size, time.perf_counter()))
        if self._waiting.qsize() > self._idle and len(self._tasks) < self._concurrency:
            self._tasks.append(asyncio.create_task(self._run(), name="bus-subscriber"))

    async def close(self) -> None:
        """Handle no more; what is being handled is cancelled, and over when this returns."""
        tasks, self._tasks, self._concurrency = self._tasks, [], 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._idle += 1
            try:
                item, size, came = await self._waiting.get()
            finally:
                self._idle -= 1
            self._bytes -= size
            WAITED.set(time.perf_counter() - came)
            await self._handle(item)


def hearing(pattern: str, kind: type[M], handler: Callable[[M], Awaitable[None]]) -> Callable[[str, bytes], Awaitable[None]]:
    """What is done with a message that came by a subject of `pattern`. Never raises."""
    decoder = msgspec.msgpack.Decoder(kind)

    async def handle(subject: str, payload: bytes) -> None:
        try:
            message = decoder.decode(payload)
            check_sender(pattern, subject, message)
            await handler(message)
        except WrongSender as wrong:
            log.error("message dropped", cause=str(wrong))
        except Exception:
            log.exception("handler failed", subject=subject)

    return handle


def answering(pattern: str, kind: type[M], handler: Callable[[M], Awaitable[object]]) -> Callable[[str, bytes], Awaitable[bytes]]:
    """The reply to a request that came by a subject of `pattern`: `+` and the answer, or `-` and why there is none. Never raises."""
    decoder = msgspec.msgpack.Decoder(kind)

    async def handle(subject: str, payload: bytes) -> bytes:
        try:
            message = decoder.decode(payload)
            check_sender(pattern, subject, message)
            return b"+" + msgspec.msgpack.encode(await handler(message))
        except WrongSender as wrong:
            log.error("request refused", cause=str(wrong))
            return b"-" + str(wrong).encode()
        except Exception as error:
            log.exception("request failed", subject=subject)
            return b"-" + str(error).encode()

    return handle


def understood(subject: str, reply: bytes, answer: type[R]) -> R:
    """What a reply says. Raises RemoteError, or BusError where it is not an `answer`."""
    if reply[:1] == b"-":
        raise RemoteError(reply[1:].decode())
    try:
        return msgspec.msgpack.decode(memoryview(reply)[1:], type=answer)
    except msgspec.DecodeError as error:
        raise BusError(f"{subject}: {error}") from None
