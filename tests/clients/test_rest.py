"""Requests to another service: tokens, tries, limits, and what its refusals become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pileus.clients.rest import CONNECTIONS, Rest
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, PileusError, QuotaExceeded, TooLarge, Unavailable

Answer = Callable[[httpx.Request], httpx.Response]


class Counted:
    """Tokens t1, t2, …: a new one after each refusal."""

    def __init__(self) -> None:
        self.number = 1

    async def get(self) -> str:
        return f"t{self.number}"

    def refused(self, token: str) -> None:
        assert token == f"t{self.number}"
        self.number += 1

    async def close(self) -> None:
        pass


def rest(answer: Any, *, retries: int = 0, limit: float = 5) -> Rest:
    return Rest("http://neutron/", Counted(), name="Neutron", limit=limit, retries=retries, transport=httpx.MockTransport(answer))


def neutron(status: int, kind: str = "SomeError", message: str = "a sentence of theirs") -> httpx.Response:
    return httpx.Response(status, json={"NeutronError": {"type": kind, "message": message, "detail": ""}})


async def test_a_request_is_json_with_a_token() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": [1]}) if request.method != "DELETE" else httpx.Response(204)

    client = rest(answer)
    assert await client.call("POST", "/v2.0/ports", params={"id": ["a", "b"]}, body={"port": {}}) == {"ok": [1]}
    assert str(seen[0].url) == "http://neutron/v2.0/ports?id=a&id=b"
    assert (seen[0].headers["x-auth-token"], seen[0].headers["content-type"], seen[0].content) == ("t1", "application/json", b'{"port":{}}')
    assert await client.call("DELETE", "/v2.0/ports/x") is None
    await client.close()


@pytest.mark.parametrize(
    ("answer", "kind", "name", "text"),
    [
        (neutron(400), BadRequest, "SomeError", "a sentence of theirs"),
        (neutron(403), Forbidden, "SomeError", "a sentence of theirs"),
        (neutron(404, "PortNotFound"), NotFound, "PortNotFound", "a sentence of theirs"),
        (neutron(409, "IpAddressInUse"), Conflict, "IpAddressInUse", "a sentence of theirs"),
        (neutron(409, "OverQuota"), QuotaExceeded, "OverQuota", "a sentence of theirs"),
        (httpx.Response(404, text="<html>"), NotFound, "NotFound", "Neutron answered 404"),
        (httpx.Response(413), TooLarge, "TooLarge", "Neutron answered 413"),
        (httpx.Response(401), Unavailable, "Unavailable", "does not take our token: check service_auth"),
        (httpx.Response(429), Unavailable, "Unavailable", "answered 429"),
        (httpx.Response(503, json={"message": "busy"}), Unavailable, "Unavailable", "answered 503: busy"),
        (httpx.Response(200, text="<html>"), Unavailable, "Unavailable", "is it the right URL"),
    ],
)
async def test_a_refusal_becomes_ours(answer: httpx.Response, kind: type[PileusError], name: str, text: str) -> None:
    with pytest.raises(kind, match=text) as refused:
        await rest(lambda request: answer).call("GET", "/v2.0/ports")
    assert (type(refused.value), refused.value.kind) == (kind, name)


async def test_a_refused_token_is_renewed_once() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.headers["x-auth-token"] == "t2" else 401, json={})

    assert await rest(answer).call("GET", "/") == {}


def failing(times: int, how: httpx.Response | Exception, seen: list[str]) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        if len(seen) <= times:
            if isinstance(how, Exception):
                raise how
            return how
        return httpx.Response(200, json={})

    return answer


@pytest.mark.parametrize(
    ("method", "how", "again"),
    [
        ("GET", httpx.Response(502), True),
        ("PUT", httpx.Response(503), True),
        ("DELETE", httpx.Response(504), True),
        ("GET", httpx.ReadTimeout("slow"), True),
        ("GET", httpx.Response(500), False),
        ("POST", httpx.Response(503), False),  # it may have been done
        ("POST", httpx.ReadError("cut off"), False),
        ("POST", httpx.ConnectError("nobody"), True),  # it reached nobody
    ],
)
async def test_what_is_safe_is_tried_again(method: str, how: httpx.Response | Exception, again: bool) -> None:
    seen: list[str] = []
    client = rest(failing(1, how, seen), retries=2)
    if again:
        assert await client.call(method, "/") == {}
    else:
        with pytest.raises(Unavailable):
            await client.call(method, "/")
    assert len(seen) == (2 if again else 1)


async def test_tries_end() -> None:
    seen: list[str] = []
    with pytest.raises(Unavailable, match="did not answer: nobody"):
        await rest(failing(9, httpx.ConnectError("nobody"), seen), retries=2).call("GET", "/")
    assert len(seen) == 3
    seen.clear()
    with pytest.raises(Unavailable):
        await rest(failing(9, httpx.Response(503), seen)).call("GET", "/")
    assert len(seen) == 1


async def test_one_try_has_a_limit() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        raise AssertionError

    before = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer"):
        await rest(never, limit=0.05).call("GET", "/")
    assert time.monotonic() - before < 5


async def test_connections_are_few_and_kept() -> None:
    """Against a real socket: many requests at once, no more connections than the bound."""
    open_now = most = made = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most, made
        open_now, made = open_now + 1, made + 1
        most = max(most, open_now)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.002)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            pass
        finally:
            open_now -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    client = Rest(f"http://{host}:{port}", Counted(), name="Neutron", limit=10)
    async with server:
        assert await asyncio.gather(*[client.call("GET", "/") for _ in range(4 * CONNECTIONS)]) == [{}] * (4 * CONNECTIONS)
        assert await client.call("GET", "/") == {}
        assert made == most <= CONNECTIONS
        await client.close()
