"""The bus within one process. Messages are encoded all the same, so that nothing works here that would not work between machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from pileus.bus import BusError, M, NoAnswer, R, RemoteError, WrongSender, check_sender

log = structlog.get_logger(__name__)

BUFFER = 65536
"""Messages that a subscriber may be behind; what comes then is lost and logged, as on a real bus."""

Fate = Callable[[str, bytes], Sequence[float]]
"""For tests and the lab: the delays (s) after which copies of a message arrive. `()` loses it, `(0, 0)` doubles it."""

_Item = tuple[str, bytes, "asyncio.Future[bytes] | None"]


class _Subscriber:
    def __init__(
        self, subject: str, handler: Callable[[str, bytes, asyncio.Future[bytes] | None], Awaitable[None]], queue: str, concurrency: int
    ) -> None:
        self.subject = subject
        self.queue = queue
        self.buffer: asyncio.Queue[_Item] = asyncio.Queue(BUFFER)
        self.dropped = 0
        self._handler = handler
        self._detach: Callable[[], None] = lambda: None
        self._tasks = [asyncio.create_task(self._run(), name="bus-subscriber") for _ in range(concurrency)]

    def attach(self, detach: Callable[[], None]) -> None:
        self._detach = detach

    def put(self, item: _Item) -> None:
        try:
            self.buffer.put_nowait(item)
        except asyncio.QueueFull:
            if self.dropped % BUFFER == 0:
                log.error("a subscriber is too far behind: messages are lost", subject=self.subject, behind=BUFFER, lost=self.dropped + 1)
            self.dropped += 1

    async def close(self) -> None:
        self._detach()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            subject, payload, answer = await self.buffer.get()
            await self._handler(subject, payload, answer)


class InProcessBus:
    """See `pileus.bus.Bus`."""

    def __init__(self, fate: Fate | None = None) -> None:
        self.fate = fate
        self._subscribers: dict[str, list[_Subscriber]] = {}
        self._patterns: list[str] = []
        self._turn = 0

    async def publish(self, subject: str, message: object) -> None:
        self._send(subject, msgspec.msgpack.encode(message), None)

    def subscribe(
        self,
        subject: str,
        kind: type[M],
        handler: Callable[[M], Awaitable[None]],
        *,
        queue: str = "",
        concurrency: int = 1,
    ) -> _Subscriber:
        decoder = msgspec.msgpack.Decoder(kind)

        async def handle(came_by: str, payload: bytes, _answer: asyncio.Future[bytes] | None) -> None:
            try:
                message = decoder.decode(payload)
                check_sender(subject, came_by, message)
                await handler(message)
            except WrongSender as wrong:
                log.error("message dropped", cause=str(wrong))
            except Exception:
                log.exception("handler failed", subject=came_by)

        return self._add(_Subscriber(subject, handle, queue, concurrency))

    def serve(
        self,
        subject: str,
        kind: type[M],
        handler: Callable[[M], Awaitable[object]],
        *,
        queue: str = "",
        concurrency: int = 1,
    ) -> _Subscriber:
        decoder = msgspec.msgpack.Decoder(kind)

        async def handle(came_by: str, payload: bytes, answer: asyncio.Future[bytes] | None) -> None:
            try:
                message = decoder.decode(payload)
                check_sender(subject, came_by, message)
                reply = b"+" + msgspec.msgpack.encode(await handler(message))
            except WrongSender as wrong:
                log.error("request refused", cause=str(wrong))
                reply = b"-" + str(wrong).encode()
            except Exception as error:
                log.exception("request failed", subject=came_by)
                reply = b"-" + str(error).encode()
            if answer is not None and not answer.done():
                answer.set_result(reply)

        return self._add(_Subscriber(subject, handle, queue, concurrency))

    async def request(self, subject: str, message: object, answer: type[R], *, timeout: float) -> R:
        if not self._listening(subject):
            raise NoAnswer(f"nobody answers {subject}")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._send(subject, msgspec.msgpack.encode(message), future)
        try:
            async with asyncio.timeout(timeout):
                reply = await future
        except TimeoutError:
            raise NoAnswer(f"{subject}: no answer within {timeout:g} s") from None
        if reply[:1] == b"-":
            raise RemoteError(reply[1:].decode())
        try:
            return msgspec.msgpack.decode(reply[1:], type=answer)
        except msgspec.DecodeError as error:
            raise BusError(f"{subject}: {error}") from None

    async def close(self) -> None:
        for subscribers in list(self._subscribers.values()):
            for subscriber in list(subscribers):
                await subscriber.close()

    def _add(self, subscriber: _Subscriber) -> _Subscriber:
        self._subscribers.setdefault(subscriber.subject, []).append(subscriber)
        if "*" in subscriber.subject and subscriber.subject not in self._patterns:
            self._patterns.append(subscriber.subject)

        def detach() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers[subscriber.subject].remove(subscriber)

        subscriber.attach(detach)
        return subscriber

    def _send(self, subject: str, payload: bytes, answer: asyncio.Future[bytes] | None) -> None:
        delays = (0.0,) if self.fate is None else self.fate(subject, payload)
        for delay in delays:
            if delay:
                asyncio.get_running_loop().call_later(delay, self._deliver, subject, payload, answer)
            else:
                self._deliver(subject, payload, answer)

    def _deliver(self, subject: str, payload: bytes, answer: asyncio.Future[bytes] | None) -> None:
        groups: dict[str | _Subscriber, list[_Subscriber]] = {}
        for subscriber in self._listening(subject):
            groups.setdefault(subscriber.queue or subscriber, []).append(subscriber)
        self._turn += 1
        for members in groups.values():
            members[self._turn % len(members)].put((subject, payload, answer))

    def _listening(self, subject: str) -> list[_Subscriber]:
        found = list(self._subscribers.get(subject, ()))
        for pattern in self._patterns:
            if _matches(pattern, subject):
                found += self._subscribers[pattern]
        return found


def _matches(pattern: str, subject: str) -> bool:
    words, signs = subject.split("."), pattern.split(".")
    return len(words) == len(signs) and all(sign in ("*", word) for sign, word in zip(signs, words, strict=True))
