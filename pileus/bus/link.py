"""One connection to one NATS server, from its beginning to its loss. It never comes back by itself: that is `pileus.bus.nats`'s work.

nats-py parses and authenticates. Kept away from it, for it would wait where we must not: reconnecting (it holds on to a connection
whose unsent bytes nobody takes, and gives up for good when it is refused), its task and queue for each subscription, and its way of
reading credentials (which never ends on a file that holds none).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

log = structlog.get_logger(__name__)

CONNECT_LIMIT = 5.0
"""Seconds for one try to connect, TLS and all."""
CLOSE_LIMIT = 2.0
BUFFER_BYTES = 16 << 20
"""Bytes that a server may be behind in taking what we send."""

_CREDENTIALS = re.compile(rb"-----BEGIN NATS USER JWT-----\s+(\S+)\s.*?-----BEGIN USER NKEY SEED-----\s+(\S+)\s", re.DOTALL)

Take = Callable[[Msg], None]


class LinkError(Exception):
    """No connection; why, in words. `final`: trying again will not help until somebody changes something."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class _Sink(asyncio.Future[Msg]):
    """nats-py completes the Future of a subscription with each message as it arrives: this one takes them all, without a task or a
    queue in between."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def set_result(self, message: Msg) -> None:
        self._take(message)


class _Transport(TcpTransport):  # type: ignore[misc]
    """Can be cut whatever waits to be sent, and sends nothing in the clear where TLS was asked for."""

    def __init__(self, *, secure: bool) -> None:
        super().__init__()
        self._insecure = secure

    def __bool__(self) -> bool:
        return True  # or the client makes one of its own

    async def connect_tls(self, *arguments: Any, **options: Any) -> None:
        await super().connect_tls(*arguments, **options)
        self._insecure = False

    def write(self, payload: bytes) -> None:
        if self._insecure:
            raise LinkError("the server offers no TLS, but bus.url says tls://", final=True)
        super().write(payload)

    async def wait_closed(self) -> None:
        """Not waited for: it was cut, and after a failed handshake it would be for ever."""

    def abort(self) -> None:
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                writer.transport.abort()


class Link:
    """See the module. `lost` is set when the connection is over, `why` says the reason."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lost = asyncio.Event()
        self.why = "closed"
        self._transport = _Transport(secure=url.startswith("tls://"))
        self._client = Client()
        self._client._transport = self._transport
        self._open = False

    @classmethod
    async def open(cls, url: str, *, name: str, tls: ssl.SSLContext | None, credentials: Path | None) -> Link:
        """Connect once. Raises LinkError."""
        link = cls(url)
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await link._connect(name, tls, credentials)
        except TimeoutError:
            await link.close()
            raise LinkError("no answer") from None
        except BaseException:
            await link.close()
            raise
        return link

    async def _connect(self, name: str, tls: ssl.SSLContext | None, credentials: Path | None) -> None:
        options: dict[str, Any] = {}
        if credentials is not None:
            jwt, seed = await asyncio.to_thread(read_credentials, credentials)
            options = {"user_jwt_cb": lambda: jwt, "signature_cb": lambda nonce: _signed(seed, nonce)}
        try:
            await self._client.connect(
                [self.url],
                name=name,
                allow_reconnect=False,
                tls=tls,
                error_cb=self._failed,
                closed_cb=self._closed,
                pending_size=2 * BUFFER_BYTES,  # never reached: `publish` would wait there
                ping_interval=86400,  # `alive` asks, and knows what to do without an answer
                **options,
            )
        except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
            raise _explained(error) from None
        self._open = True

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return int(self._client.pending_data_size)

    @property
    def max_payload(self) -> int:
        """Bytes that a message may have here."""
        return int(self._client.max_payload)

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> bool:
        """Send at once, without waiting for the server; False where the connection is over."""
        try:
            await self._client.publish(subject, payload, reply)
        except nats.errors.ConnectionClosedError:
            self.lost.set()
            return False
        return True

    async def subscribe(self, subject: str, queue: str, take: Take) -> Subscription | None:
        """Have `take` called with each message; None where the connection is over."""
        try:
            return await self._client.subscribe(subject, queue, future=_Sink(take))
        except nats.errors.ConnectionClosedError:
            self.lost.set()
            return None

    async def unsubscribe(self, announced: Subscription) -> None:
        with contextlib.suppress(nats.errors.Error):
            await announced.unsubscribe()

    async def alive(self, limit: float) -> bool:
        """Ask the server; whether it answered, or sent anything else, in this time (s)."""
        heard = self._client.stats["in_msgs"]
        try:
            async with asyncio.timeout(limit):
                await self._client.rtt(86400)
        except (TimeoutError, nats.errors.Error, OSError):
            return not self.lost.is_set() and self._client.stats["in_msgs"] != heard
        return True

    async def close(self) -> None:
        """Cut it: what was not flushed may be lost."""
        self._open = False
        self._transport.abort()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_LIMIT):
                await self._client.close()

    async def _failed(self, error: Exception) -> None:
        """nats-py tells every error here; until we are connected, the first one ends the try."""
        if not self._open:
            raise error
        if isinstance(error, OSError | nats.errors.UnexpectedEOF):
            self.why = str(_explained(error))
            self.lost.set()
        else:
            log.error("the bus refused something", server=self.url, cause=str(error).removeprefix("nats: "))

    async def _closed(self) -> None:
        if self._open and self._client.last_error is not None:
            self.why = str(_explained(self._client.last_error))
        self.lost.set()


def read_credentials(file: Path) -> tuple[bytes, bytes]:
    """JWT and seed of a credentials file. Raises LinkError."""
    try:
        found = _CREDENTIALS.search(file.read_bytes() + b"\n")
    except OSError as error:
        raise LinkError(f"credentials {file}: {error.strerror}", final=True) from None
    if found is None:
        raise LinkError(f"credentials {file}: not a credentials file (pileus bus setup, pileus host add write them)", final=True)
    return found[1], found[2]


def _signed(seed: bytes, nonce: str) -> bytes:
    import nkeys

    return base64.b64encode(nkeys.from_seed(seed).sign(nonce.encode()))


def _explained(error: Exception) -> LinkError:
    """What went wrong, for a person."""
    text = str(error).removeprefix("nats: ").strip("'")
    if isinstance(error, ssl.SSLCertVerificationError):
        return LinkError(f"TLS: the server's certificate: {error.verify_message} (bus.ca)", final=True)
    if isinstance(error, ssl.SSLError):
        return LinkError(f"TLS: {error.reason or text}", final=True)
    if isinstance(error, nats.errors.AuthorizationError) or "authoriz" in text.lower() or "authentic" in text.lower():
        return LinkError("credentials refused (bus.credentials)", final=True)
    if isinstance(error, nats.errors.UnexpectedEOF):
        return LinkError("the server closed the connection")
    if isinstance(error, OSError):
        return LinkError(_strerror(error))
    return LinkError("no answer" if isinstance(error, TimeoutError) else text or type(error).__name__)


def _strerror(error: OSError) -> str:
    """asyncio puts words of its own in place of the system's, and several errors into one."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "name not known"
    found = re.search(r"\[Errno (\d+)\]", str(error))
    number = error.errno or (int(found[1]) if found else 0)
    return os.strerror(number) if number > 0 else str(error)
