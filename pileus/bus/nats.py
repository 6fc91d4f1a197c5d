"""The bus between machines: NATS core, nothing durable. What it loses while it is cut is lost, and counted (law 1).

A connection that is lost is made anew for ever, to the next of the servers; then subscriptions are announced again, what was held back
meanwhile is sent, and whoever asked by `on_reconnect` is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Announced

from pileus.bus import BusError, M, NoAnswer, R
from pileus.bus.delivery import Delivery, answering, count_lost, hearing, understood
from pileus.bus.link import BUFFER_BYTES, Link, LinkError
from pileus.errors import StartupError
from pileus.messages import token
from pileus.settings import Bus as BusSettings

log = structlog.get_logger(__name__)

START_LIMIT = 10.0
"""Seconds in which a server must be reached at start."""
PING_INTERVAL = 5.0
PING_LIMIT = 10.0
"""Seconds without an answer after which a connection is given up."""
PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds between tries to connect again: from the first to the second, with jitter, so that not all come back at once."""
HOOK_LIMIT = 5.0
FLUSH_LIMIT = 2.0
INBOX = "_INBOX"
"""What the subjects of answers begin with: `_INBOX.` the control plane's, `_INBOX_<token>.` a host's."""
NO_RESPONDERS = "503"


class _Held(NamedTuple):
    subject: str
    payload: bytes
    reply: str


class _Subscriber(Delivery[Msg]):
    def __init__(self, bus: NatsBus, subject: str, handle: Callable[[Msg], Awaitable[None]], queue: str, concurrency: int) -> None:
        super().__init__(subject, handle, concurrency)
        self.queue = queue
        self.announced: Announced | None = None
        self._bus = bus

    def take(self, message: Msg) -> None:
        self.put(message, len(message.data))

    async def close(self) -> None:
        await self._bus.detach(self)
        await super().close()


class NatsBus:
    """See `pileus.bus.Bus`; made by `connect`. `lost` counts messages that the connection could not take."""

    def __init__(self, settings: BusSettings, name: str, host: str) -> None:
        self.lost = 0
        self._settings = settings
        self._name = name
        self._urls = settings.url.split(",")
        random.shuffle(self._urls)
        self._turn = itertools.cycle(self._urls)
        self._tls = _trusting(settings)
        self._credentials = Path(settings.credentials) if settings.credentials else None
        self._link: Link | None = None
        self._why = "no answer"
        self._subscribers: dict[_Subscriber, None] = {}
        self._unannounced: deque[_Subscriber] = deque()
        self._announcer: asyncio.Task[None] | None = None
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._inbox = f"{INBOX}{'_' + token(host) if host else ''}.{secrets.token_hex(8)}"
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._hooks: dict[object, Callable[[], Awaitable[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        """A cancellation is not enough: nats-py's waits swallow it at times (docs/decisions/0005)."""

    @classmethod
    async def connect(cls, settings: BusSettings, *, name: str, host: str = "") -> NatsBus:
        """Connect to one of the servers of `bus.url`, as `host` or (empty) as the control plane. Raises StartupError in one line."""
        bus = cls(settings, name, host)
        try:
            async with asyncio.timeout(START_LIMIT):
                await bus._start()
        except TimeoutError:
            raise StartupError(f"bus {settings.url}: {bus._why}") from None
        bus._tasks.append(asyncio.create_task(bus._keep(), name="bus-connection"))
        return bus

    async def publish(self, subject: str, message: object) -> None:
        await self._send(subject, msgspec.msgpack.encode(message), "")

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

        async def handle(message: Msg) -> None:
            await heard(message.subject, message.data)

        return self._add(_Subscriber(self, subject, handle, queue, concurrency))

    def serve(
        self,
        subject: str,
        kind: type[M],
        handler: Callable[[M], Awaitable[object]],
        *,
        queue: str = "",
        concurrency: int = 1,
    ) -> _Subscriber:
        answer = answering(subject, kind, handler)

        async def handle(message: Msg) -> None:
            said = await answer(message.subject, message.data)
            if not message.reply.startswith(INBOX):  # an asker names where we speak to: nobody is to have a command sent so
                return
            if self._link is not None and len(said) > self._link.max_payload:
                said = f"-the answer is too large for the bus: {len(said)} bytes, it takes {self._link.max_payload}".encode()
            await self._send(message.reply, said, "")

        return self._add(_Subscriber(self, subject, handle, queue, concurrency))

    async def request(self, subject: str, message: object, answer: type[R], *, timeout: float) -> R:
        word = secrets.token_hex(8)  # hosts may speak to the control plane's inboxes: nobody is to guess another's answer's place
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._answers[word] = future
        try:
            async with asyncio.timeout(timeout):
                if not await self._send(subject, msgspec.msgpack.encode(message), f"{self._inbox}.{word}"):
                    raise BusError(f"{subject}: the bus takes no more, or no message so large")
                reply = await future
        except TimeoutError:
            raise NoAnswer(f"{subject}: no answer within {timeout:g} s") from None
        finally:
            del self._answers[word]
        if not reply.data and reply.headers and reply.headers.get("Status") == NO_RESPONDERS:
            raise NoAnswer(f"nobody answers {subject}")
        return understood(subject, reply.data, answer)

    def on_reconnect(self, tell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        key = object()
        self._hooks[key] = tell

        def forget() -> None:
            self._hooks.pop(key, None)

        return forget

    async def flush(self) -> None:
        """Wait until the server has what was subscribed to and sent: a word to ourselves comes back after it. Not for long."""
        word = secrets.token_hex(8)
        self._answers[word] = back = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError, NoAnswer):
            async with asyncio.timeout(FLUSH_LIMIT):
                await self._send(f"{self._inbox}.{word}", b"", "")
                await back
        del self._answers[word]

    async def close(self) -> None:
        self._closing = True
        for subscriber in list(self._subscribers):
            await subscriber.close()
        tasks = [*self._tasks, *([self._announcer] if self._announcer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            await self.flush()
            await self._link.close()
            self._link = None

    async def detach(self, subscriber: _Subscriber) -> None:
        """A subscription ends: nothing more of it is taken from the server."""
        self._subscribers.pop(subscriber, None)
        announced, subscriber.announced = subscriber.announced, None
        if announced is not None and self._link is not None:
            await self._link.unsubscribe(announced)

    def _add(self, subscriber: _Subscriber) -> _Subscriber:
        """Announced before anything that is sent after this; at the latest by a task, where nothing is sent."""
        self._subscribers[subscriber] = None
        self._unannounced.append(subscriber)
        if self._announcer is None or self._announcer.done():
            self._announcer = asyncio.create_task(self._announce(), name="bus-announcer")
        return subscriber

    async def _announce(self) -> None:
        while self._unannounced and self._link is not None:
            await self._announce_one(self._link, self._unannounced.popleft())

    async def _announce_one(self, link: Link, subscriber: _Subscriber) -> None:
        if subscriber in self._subscribers:  # not closed meanwhile
            subscriber.announced = await link.subscribe(subscriber.subject, subscriber.queue, subscriber.take)

    async def _send(self, subject: str, payload: bytes, reply: str) -> bool:
        """Whether the message was taken: sent, or held until the connection is there again."""
        if self._unannounced:
            await self._announce()
        link = self._link
        if link is None:
            return self._hold(_Held(subject, payload, reply))
        if len(payload) > link.max_payload:
            log.error("message too large for the bus", subject=subject, size=len(payload), most=link.max_payload)
            return False
        if link.backlog + len(payload) > BUFFER_BYTES:
            return self._lose()
        return await link.publish(subject, payload, reply) or self._hold(_Held(subject, payload, reply))

    def _hold(self, message: _Held) -> bool:
        if self._held_bytes + len(message.payload) > BUFFER_BYTES:
            return self._lose()
        self._held.append(message)
        self._held_bytes += len(message.payload)
        return True

    def _lose(self) -> bool:
        if self.lost % 65536 == 0:
            log.error("the bus takes no more: messages are lost", buffered=BUFFER_BYTES, lost=self.lost + 1)
        self.lost += 1
        count_lost("connection")
        return False

    def _answered(self, message: Msg) -> None:
        future = self._answers.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    async def _start(self) -> None:
        """The first connection. Raises StartupError where no server will take us before somebody changes something."""
        final = 0
        while final < len(self._urls):
            try:
                return await self._use(await self._opened())
            except LinkError as error:
                self._why = str(error)
                final = final + 1 if error.final else 0
            await asyncio.sleep(0 if final else PAUSE)
        raise StartupError(f"bus {self._settings.url}: {self._why}")

    async def _opened(self) -> Link:
        """One try to connect, to the next of the servers. Raises LinkError."""
        return await Link.open(next(self._turn), name=self._name, tls=self._tls, credentials=self._credentials)

    async def _use(self, link: Link) -> None:
        """Announce all subscriptions, then send what was held back."""
        self._unannounced.clear()
        await link.subscribe(f"{self._inbox}.*", "", self._answered)
        for subscriber in list(self._subscribers):
            await self._announce_one(link, subscriber)
        while self._held and not link.lost.is_set():
            message = self._held.popleft()
            self._held_bytes -= len(message.payload)
            await link.publish(*message)
        self._link = link
        await self._announce()

    async def _keep(self) -> None:
        """Have a connection, for ever."""
        while (link := self._link) is not None:
            await self._watch(link)
            if self._closing:
                return
            self._link = None
            log.warning("bus lost", server=link.url, cause=link.why)
            self._give_up_requests()
            await link.close()
            await self._regain()
            for tell in list(self._hooks.values()):
                try:
                    async with asyncio.timeout(HOOK_LIMIT):
                        await tell()
                except Exception:
                    log.exception("what was to follow the bus's return failed")

    async def _watch(self, link: Link) -> None:
        """Returns when the connection is over."""
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL):
                    await link.lost.wait()
            if link.lost.is_set():
                return
            if not await link.alive(PING_LIMIT):
                link.why = f"no answer within {PING_LIMIT:g} s"
                return

    async def _regain(self) -> None:
        pause, told = PAUSE, ""
        while not self._closing:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                link = await self._opened()
            except LinkError as error:
                if error.final and str(error) != told:
                    told = str(error)
                    log.error("bus cannot be regained before somebody changes something; it is tried on", cause=told)
                continue
            except Exception:
                log.exception("bus: a try to connect failed; it is tried on")
                continue
            await self._use(link)
            log.info("bus regained", server=link.url, lost=self.lost)
            return

    def _give_up_requests(self) -> None:
        """Their answers would have come by the connection that is lost: who asked may ask again now."""
        for future in self._answers.values():
            if not future.done():
                future.set_exception(NoAnswer("the connection to the bus was lost"))


def _trusting(settings: BusSettings) -> ssl.SSLContext | None:
    """What a server's certificate is checked with. Raises StartupError."""
    if not settings.ca and "tls://" not in settings.url:
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca or None)
    except OSError as error:
        why = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise StartupError(f"bus.ca {settings.ca}: {why}") from None
