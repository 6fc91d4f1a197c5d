"""An OpenFlow connection to one bridge's management socket: bundles of changes, and questions about flows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from pileus.host.switch import openflow
from pileus.host.switch.openflow import FoundFlow, Message
from pileus.host.switch.sockets import connect_unix

_FLUSHES = 1000
"""Requests to forget connections whose errors are waited for; there is no answer where there is none."""


class BridgeError(Exception):
    """The bridge refused a change, or did not answer. One line."""


class BridgeLost(BridgeError):
    """The connection ended; nothing is known of what was under way."""


class Bridge(asyncio.Protocol):
    """What is sent in one order arrives in that order: two bundles never overtake one another.

    `on_close` is called once when the connection ends by itself.
    """

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._xids = itertools.cycle(range(1, 0xFFFFFFFF))
        self._bundles = itertools.cycle(range(1, 0xFFFFFFFF))
        self._errors: dict[int, _Bundle] = {}
        self._commits: dict[int, _Bundle] = {}
        self._questions: dict[int, tuple[asyncio.Future[list[FoundFlow]], list[FoundFlow]]] = {}
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._flushes: dict[int, int] = {}
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, path: Path, on_close: Callable[[], None], *, limit: float) -> Bridge:
        """Connect and greet within `limit` seconds. Raises OSError, TimeoutError, BridgeError."""
        async with asyncio.timeout(limit):
            channel = await connect_unix(path)
            try:
                _, bridge = await asyncio.get_running_loop().create_unix_connection(lambda: cls(on_close), sock=channel)
            except BaseException:
                channel.close()
                raise
            try:
                await bridge._greeted
            except BaseException:
                bridge.close()
                raise
        return bridge

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def bundle(self, changes: Sequence[Message]) -> asyncio.Future[None]:
        """Send changes as one atomic bundle, at once; the future ends when they are in force, or with BridgeError.

        Not a coroutine, so that whoever decides on changes sends them in the order of deciding.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.alive:
            done.set_exception(BridgeLost("the bridge's OpenFlow connection is down"))
            return done
        number = next(self._bundles)
        bundle = _Bundle(done)
        data = [openflow.bundle_control(number, openflow.BUNDLE_OPEN, self._expect(bundle))]
        data += [openflow.bundle_add(number, change, self._expect(bundle)) for change in changes]
        commit = self._expect(bundle)
        self._commits[commit] = bundle
        data.append(openflow.bundle_control(number, openflow.BUNDLE_COMMIT, commit))
        self._transport.write(b"".join(data))
        return done

    async def flows(self, *, table: int | None = None, cookie: int = 0, mask: int = 0, limit: float = 10.0) -> list[FoundFlow]:
        """The flows of a table (None: of all) with this cookie in the bits of the mask. Raises BridgeError, TimeoutError."""
        answer: asyncio.Future[list[FoundFlow]] = asyncio.get_running_loop().create_future()
        xid = next(self._xids)
        self._questions[xid] = (answer, [])
        try:
            self._send(openflow.flow_request(xid, table=table, cookie=cookie, mask=mask))
            async with asyncio.timeout(limit):
                return await answer
        finally:
            self._questions.pop(xid, None)

    async def call(self, change: Message, *, limit: float = 10.0) -> None:
        """One change by itself, until the bridge says that it is done. Raises BridgeError, TimeoutError."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        xid = next(self._xids)
        self._calls[xid] = answer
        try:
            self._send(openflow.encode(change, xid) + openflow.barrier(xid))
            async with asyncio.timeout(limit):
                await answer
        finally:
            self._calls.pop(xid, None)

    def flush_zone(self, zone: int) -> None:
        """Forget the connections of a conntrack zone, before whatever is sent next."""
        if self._transport is not None and self.alive:
            self._transport.write(openflow.flush_zone(zone, next(self._xids)))

    def flush_address(self, zone: int, address: str) -> None:
        """The same of those connections that an address has part in. A switch that cannot look for them forgets the whole zone: what stands
        there is made anew by the next packet that the rules let pass."""
        if self._transport is not None and self.alive:
            xid = next(self._xids)
            self._flushes[xid] = zone
            if len(self._flushes) > _FLUSHES:
                del self._flushes[next(iter(self._flushes))]
            self._transport.write(openflow.flush_address(zone, address, xid))

    def close(self) -> None:
        """End the connection; the bridge goes on as it is."""
        self._on_close = lambda: None
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(openflow.hello(next(self._xids)) + openflow.see_fragments(next(self._xids)))

    def data_received(self, data: bytes) -> None:
        self._data += data
        offset = 0
        while len(self._data) - offset >= openflow.HEADER.size:
            _, kind, length, xid = openflow.HEADER.unpack_from(self._data, offset)
            if length < openflow.HEADER.size or len(self._data) - offset < length:
                break
            body = bytes(self._data[offset + openflow.HEADER.size : offset + length])
            offset += length
            handler = _HANDLERS.get(kind)
            if handler is not None:
                handler(self, xid, body)
        del self._data[:offset]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        lost = BridgeLost("the bridge's OpenFlow connection was lost")
        waiting: list[asyncio.Future[None] | asyncio.Future[list[FoundFlow]]] = [self._greeted]
        waiting += [bundle.done for bundle in self._commits.values()]
        waiting += [answer for answer, _ in self._questions.values()]
        waiting += self._calls.values()
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
                future.exception()
        self._commits.clear()
        self._errors.clear()
        self._on_close()

    # --- Messages of the bridge

    def _hello(self, xid: int, body: bytes) -> None:
        if not self._greeted.done():
            self._greeted.set_result(None)

    def _echo(self, xid: int, body: bytes) -> None:
        self._send(openflow.message(openflow.ECHO_REPLY, xid, body))

    def _error(self, xid: int, body: bytes) -> None:
        text = openflow.error_text(body)
        if not self._greeted.done():
            self._greeted.set_exception(BridgeError(f"the bridge speaks no OpenFlow 1.5: {text}"))
            return
        if xid in self._questions and not self._questions[xid][0].done():
            self._questions[xid][0].set_exception(BridgeError(text))
        if xid in self._flushes:
            self.flush_zone(self._flushes.pop(xid))
        self._answer(xid, BridgeError(text))
        bundle = self._errors.get(xid)
        if bundle is None:
            return
        bundle.error = bundle.error or text
        if xid in self._commits:
            self._finish(xid)

    def _barrier(self, xid: int, body: bytes) -> None:
        self._answer(xid, None)

    def _answer(self, xid: int, error: BridgeError | None) -> None:
        call = self._calls.get(xid)
        if call is None or call.done():
            return
        if error is None:
            call.set_result(None)
        else:
            call.set_exception(error)

    def _bundle_control(self, xid: int, body: bytes) -> None:
        if openflow.bundle_kind(body) == openflow.BUNDLE_COMMITTED and xid in self._commits:
            self._finish(xid)

    def _flow_stats(self, xid: int, body: bytes) -> None:
        if xid not in self._questions:
            return
        answer, found = self._questions[xid]
        flows, more = openflow.flow_reply(body)
        found += flows
        if not more and not answer.done():
            answer.set_result(found)

    # ---

    def _expect(self, bundle: _Bundle) -> int:
        xid = next(self._xids)
        bundle.xids.append(xid)
        self._errors[xid] = bundle
        return xid

    def _finish(self, commit: int) -> None:
        bundle = self._commits.pop(commit)
        for xid in bundle.xids:
            self._errors.pop(xid, None)
        if bundle.done.done():
            return
        if bundle.error:
            bundle.done.set_exception(BridgeError(bundle.error))
        else:
            bundle.done.set_result(None)

    def _send(self, data: bytes) -> None:
        if self._transport is None or not self.alive:
            raise BridgeLost("the bridge's OpenFlow connection is down")
        self._transport.write(data)


class _Bundle:
    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.xids: list[int] = []
        self.error = ""


_HANDLERS: dict[int, Callable[[Bridge, int, bytes], None]] = {
    openflow.HELLO: Bridge._hello,
    openflow.ERROR: Bridge._error,
    openflow.ECHO_REQUEST: Bridge._echo,
    openflow.MULTIPART_REPLY: Bridge._flow_stats,
    openflow.BUNDLE_CONTROL: Bridge._bundle_control,
    openflow.BARRIER_REPLY: Bridge._barrier,
}
