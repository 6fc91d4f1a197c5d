"""A face: one service's API. Routes with who may use them, tokens, microversions, faults and request ids, alike for all five."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from pileus.context import Context
from pileus.errors import (
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    PileusError,
    Stalled,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from pileus.http.faults import Shape
from pileus.http.microversions import Microversions, Version

log = structlog.get_logger(__name__)

S = TypeVar("S")
T = TypeVar("T")

Allow = Literal["anyone", "user", "reader", "member", "admin", "service"]
"""Who may call a route. `user`: any valid token. reader and member need a project scope; `service` takes admins too."""

NO_MICROVERSION: Version = (0, 0)

BODY_LIMIT = 60.0
"""Seconds that a body which is held in memory may take to arrive."""


class Authenticate(Protocol):
    async def __call__(self, token: str) -> Context:
        """The caller behind a token. Raises Unauthorized."""
        ...


class Stream(Protocol):
    """Bytes as they come; closed at the end, whether or not all of them were taken."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def aclose(self) -> Awaitable[object]: ...


@dataclass
class Reply:
    """An answer. `body` becomes JSON; `stream` is sent as it comes."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Stream | None = None


@dataclass
class Call:
    """One request, as a handler sees it."""

    http: Request
    context: Context
    version: Version
    path: Mapping[str, str]
    base: str
    """The face's own URL, for links; no slash at its end."""
    max_body: int
    max_limit: int

    async def json(self, kind: type[T]) -> T:
        """The body as `kind`. Raises BadRequest, UnsupportedMediaType or TooLarge."""
        return decode(await self.body(), kind)

    @property
    def media(self) -> str:
        """The body's media type as the request says, without parameters; empty where it says nothing."""
        return self.http.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def body(self, media: str = "application/json") -> bytes:
        given = self.media
        if given != media and "content-type" in self.http.headers:
            raise UnsupportedMediaType(f"Unsupported Content-Type {given!r}; send {media}")
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_LIMIT):
                async for chunk in self.stream():
                    data += chunk
                    if len(data) > self.max_body:
                        raise TooLarge(f"Request is too large: at most {self.max_body} bytes")
        except TimeoutError:
            raise Stalled(f"The request's body was not there within {BODY_LIMIT:.0f} s; send it again") from None
        return bytes(data)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ClientDisconnect when it is cut off."""
        async for chunk in self.http.stream():
            if chunk:
                yield chunk

    def query(self, name: str) -> str | None:
        """One query parameter; the last one wins."""
        return self.http.query_params.get(name)

    def since(self, major: int, minor: int) -> bool:
        """Is the request's microversion at least this?"""
        return self.version >= (major, minor)


Handler = Callable[[S, Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Route(Generic[S]):
    """`path` in Starlette's form. Outside of `since`…`until` (both included) the route does not exist (404)."""

    method: str
    path: str
    handler: Handler[S]
    allow: Allow
    since: Version = NO_MICROVERSION
    until: Version = (9999, 9999)
    instead: str = ""
    """A header that stands for a token: a request with it comes through unauthenticated, and its handler must judge it."""


@dataclass(frozen=True)
class Limits:
    max_body: int = 1 << 20
    max_limit: int = 1000


class Face(Generic[S]):
    """An ASGI application for one service under one prefix of the URL space."""

    def __init__(
        self,
        service: S,
        routes: Sequence[Route[S]],
        *,
        base: str,
        fault: Shape,
        authenticate: Authenticate,
        identity_url: str,
        microversions: Microversions | None = None,
        limits: Limits | None = None,
        request_id_headers: Sequence[str] = ("X-Openstack-Request-Id",),
    ) -> None:
        self.routes = routes
        self.microversions = microversions
        self._service = service
        self._base = base.rstrip("/")
        self._fault = fault
        self._authenticate = authenticate
        self._challenge = {"WWW-Authenticate": f'Keystone uri="{identity_url}"'}
        self._limits = limits or Limits()
        self._request_id_headers = request_id_headers
        by_path: dict[str, list[Route[S]]] = {}
        for route in routes:
            by_path.setdefault(route.path, []).append(route)
        self._router = Router([Path(path, _Endpoint(found)) for path, found in by_path.items()], redirect_slashes=False, default=_no_route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        # Always ours: a client may send one id of its own with many requests, and actions are found by it.
        request_id = f"req-{uuid.uuid4()}"
        headers = dict.fromkeys(self._request_id_headers, request_id)
        answering = _Answering(send)
        try:
            reply = await self._reply(request, request_id, headers)
            await _send(answering, reply, headers)
        except ClientDisconnect:
            log.info("client went away", path=scope["path"], request_id=request_id)
        except PileusError as error:
            await self._refuse(request, error, request_id, headers, answering)
        except asyncio.CancelledError:  # the server ends, and has waited as long as it may
            await self._refuse(request, Unavailable("The cloud is ending; ask again when it is back."), request_id, headers, answering)
            raise
        except OverflowError:
            await self._refuse(request, BadRequest("a number in the request is too large"), request_id, headers, answering)
        except Exception:
            log.exception("request failed", path=scope["path"], method=scope["method"], request_id=request_id)
            sorry = PileusError(f"An unexpected error prevented the server from fulfilling your request ({request_id}).")
            await self._refuse(request, sorry, request_id, headers, answering)

    async def _reply(self, request: Request, request_id: str, headers: dict[str, str]) -> Reply:
        version = NO_MICROVERSION
        if self.microversions is not None:
            version = self.microversions.asked(request.headers)
            headers.update(self.microversions.headers(version))
        scope = request.scope  # and never request.url, which a nonsensical Host header breaks
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise BadRequest("a NUL character is not allowed")
        await self._router(scope, _never_receive, _never_send)
        candidates: list[Route[S]] = scope["pileus.routes"]
        alive = [route for route in candidates if version == NO_MICROVERSION or route.since <= version <= route.until]
        if not alive:
            raise NotFound("The resource could not be found.")
        route = next((r for r in alive if r.method == request.method or (r.method == "GET" and request.method == "HEAD")), None)
        if route is None:
            allowed = ", ".join(sorted({r.method for r in alive}))
            raise MethodNotAllowed(f"{request.method} is not allowed here; allowed: {allowed}", headers={"Allow": allowed})
        allow: Allow = "anyone" if route.instead and route.instead in request.headers else route.allow
        context = await self._caller(request, allow, request_id)
        call = Call(request, context, version, scope["path_params"], self._base, self._limits.max_body, self._limits.max_limit)
        reply = await route.handler(self._service, call)
        if request.method == "HEAD" and route.method == "GET":
            reply = dataclasses.replace(reply, body=None, stream=None)
        return reply

    async def _caller(self, request: Request, allow: Allow, request_id: str) -> Context:
        token = request.headers.get("x-auth-token")
        if allow == "anyone" and token is None:
            return Context(user_id="", request_id=request_id)
        if not token:
            raise Unauthorized("The request you have made requires authentication.", headers=self._challenge)
        try:
            context = await self._authenticate(token)
        except Unauthorized as error:
            if allow == "anyone":
                return Context(user_id="", request_id=request_id)
            error.headers = self._challenge | error.headers
            raise
        _check(context, allow)
        return dataclasses.replace(context, request_id=request_id)

    async def _refuse(self, request: Request, error: PileusError, request_id: str, headers: dict[str, str], answering: _Answering) -> None:
        if answering.started:
            return  # the status is out; cutting the connection is all that is left to tell the client
        if isinstance(error, Unauthorized):
            error.headers = self._challenge | error.headers
        status, body, media = self._fault(error, request_id, request.headers.get("accept", ""))
        await _start(answering, status, {**headers, **error.headers, "Content-Type": media, "Content-Length": str(len(body))})
        await answering({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


def decode(data: bytes, kind: type[T]) -> T:
    """JSON bytes as `kind`. Raises BadRequest that names the place and what was expected."""
    if b"\\u0000" in data:
        raise BadRequest("a NUL character is not allowed in strings")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        where = place.rstrip("`").lstrip(".")
        raise BadRequest(f"Invalid input for field/attribute {where}: {text}" if where else f"Invalid request body: {text}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("Malformed request body: it is not JSON") from None


def _check(context: Context, allow: Allow) -> None:
    if allow in ("anyone", "user"):
        return
    if allow in ("admin", "service"):
        if not (context.is_admin or (allow == "service" and "service" in context.roles)):
            raise Forbidden("You are not authorized to perform the requested action: it needs the admin role.")
        return
    if allow not in context.roles:
        raise Forbidden(f"You are not authorized to perform the requested action: it needs the {allow} role.")
    if context.project_id is None:
        raise Forbidden("The token has no project scope; ask for one that has.")


class _Endpoint:
    """What Starlette's router finds for a path: the routes that share it."""

    def __init__(self, routes: list[Route[Any]]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["pileus.routes"] = self._routes


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound("The resource could not be found.")


async def _never_receive() -> Any:
    raise AssertionError("routing reads no body")


async def _never_send(message: Any) -> None:
    raise AssertionError("routing sends nothing")


class _Answering:
    """A `send` that knows whether the answer has begun."""

    def __init__(self, send: Send) -> None:
        self.started = False
        self._send = send

    async def __call__(self, message: Any) -> None:
        self.started = True
        try:
            async with asyncio.timeout(BODY_LIMIT):
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None  # it does not read what it asked for


async def _start(answering: _Answering, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.lower().encode("latin-1"), str(value).encode("latin-1", "replace")) for name, value in headers.items()]
    await answering({"type": "http.response.start", "status": status, "headers": raw})


async def _send(answering: _Answering, reply: Reply, headers: Mapping[str, str]) -> None:
    if reply.stream is not None:
        await _start(answering, reply.status, {**headers, **reply.headers})
        async with contextlib.aclosing(reply.stream) as chunks:
            async for chunk in chunks:
                await answering({"type": "http.response.body", "body": chunk, "more_body": True})
        await answering({"type": "http.response.body", "body": b""})
        return
    body = b"" if reply.body is None else msgspec.json.encode(reply.body)
    extra = {"Content-Type": "application/json"} if body else {}
    if reply.status != 204:
        extra["Content-Length"] = str(len(body))
    await _start(answering, reply.status, {**headers, **extra, **reply.headers})
    await answering({"type": "http.response.body", "body": body})
