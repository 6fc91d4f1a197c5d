"""The bus within one process. Messages are encoded all the same, so that nothing works here that would not work between machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from pileus.bus import M, NoAnswer, R
from pileus.bus.delivery import Delivery, answering, hearing, understood

Fate = Callable[[str, bytes], Sequence[float]]
"""For tests and the lab: the delays (s) after which copies of a message arrive. `()` loses it, `(0, 0)` doubles it."""

_Item = tuple[str, bytes, "asyncio.Future[bytes] | None"]


class _Subscriber(Delivery[_Item]):
    def __init__(self, subject: str, handle: Callable[[_Item], Awaitable[None]], queue: str, concurrency: int) -> None:
        super().__init__(subject, handle, concurrency)
        self.queue = queue
        self._detach: Callable[[], None] = lambda: None

    def attach(self, detach: Callable[[], None]) -> None:
        self._detach = detach

    async def close(self) -> None:
        self._detach()
        await super().close()


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
        heard = hearing(subject, kind, handler)

        async def handle(item: _Item) -> None:
            await heard(item[0], item[1])

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
        reply = answering(subject, kind, handler)

        async def handle(item: _Item) -> None:
            came_by, payload, answer = item
            said = await reply(came_by, payload)
            if answer is not None and not answer.done():
                answer.set_result(said)

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
        return understood(subject, reply, answer)

    def on_reconnect(self, tell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Never called: within one process nothing is ever cut."""
        return lambda: None

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
            members[self._turn % len(members)].put((subject, payload, answer), len(payload))

    def _listening(self, subject: str) -> list[_Subscriber]:
        found = list(self._subscribers.get(subject, ()))
        for pattern in self._patterns:
            if _matches(pattern, subject):
                found += self._subscribers[pattern]
        return found


def _matches(pattern: str, subject: str) -> bool:
    words, signs = subject.split("."), pattern.split(".")
    return len(words) == len(signs) and all(sign in ("*", word) for sign, word in zip(signs, words, strict=True))
