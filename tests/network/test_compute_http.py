"""The events API over HTTP: each of its answers."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from pileus.clients.compute import ExternalEvent
from pileus.clients.rest import Rest
from pileus.clients.tokens import OwnTokens
from pileus.errors import Unavailable
from pileus.network.compute_http import HttpComputeEvents

ONE = ExternalEvent("network-vif-plugged", "s1", "completed", "p1")
TWO = ExternalEvent("network-vif-plugged", "s2", "failed", "p2")


def client(answer: Callable[[httpx.Request], httpx.Response]) -> HttpComputeEvents:
    tokens = iter(["old", "new", "newer", "newest", "t5", "t6"])

    async def token() -> str:
        return next(tokens)

    rest = Rest("http://compute/v2.1/", OwnTokens(token), name="Nova", limit=5, transport=httpx.MockTransport(answer))
    return HttpComputeEvents(rest)


def codes(request: httpx.Request, of: Callable[[str], int]) -> list[dict[str, object]]:
    return [event | {"code": of(event["server_uuid"])} for event in json.loads(request.content)["events"]]


async def test_the_request_is_novas() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"events": codes(request, lambda server: 200)})

    found = await client(answer).send([ONE, TWO])
    assert [(delivery.event, delivery.code) for delivery in found] == [(ONE, 200), (TWO, 200)]
    assert str(seen[0].url) == "http://compute/v2.1/os-server-external-events"
    assert seen[0].headers["x-auth-token"] == "old"
    assert json.loads(seen[0].content) == {
        "events": [
            {"name": "network-vif-plugged", "server_uuid": "s1", "status": "completed", "tag": "p1"},
            {"name": "network-vif-plugged", "server_uuid": "s2", "status": "failed", "tag": "p2"},
        ]
    }
    assert await client(answer).send([]) == []


async def test_207_has_a_code_for_each() -> None:
    http = client(lambda request: httpx.Response(207, json={"events": codes(request, lambda s: 422 if s == "s1" else 200)[::-1]}))
    assert [delivery.code for delivery in await http.send([ONE, TWO])] == [422, 200]
    await http.close()


async def test_401_asks_for_a_new_token_once() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        fresh = request.headers["x-auth-token"] == "new"
        return httpx.Response(200, json={"events": codes(request, lambda s: 200)}) if fresh else httpx.Response(401)

    assert len(await client(answer).send([ONE])) == 1
    with pytest.raises(Unavailable):
        await client(lambda request: httpx.Response(401)).send([ONE])


async def test_a_refusal_of_the_whole_is_looked_into() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        events = codes(request, lambda server: 200)
        return (
            httpx.Response(400) if any(event["server_uuid"] == "s1" for event in events) else httpx.Response(200, json={"events": events})
        )

    assert [delivery.code for delivery in await client(answer).send([ONE, TWO])] == [400, 200]


async def test_an_older_novas_404_is_said_of_every_event_at_once() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404, json={"itemNotFound": {"code": 404, "message": "No instances found for any event"}})

    assert [delivery.code for delivery in await client(answer).send([ONE, TWO] * 50)] == [404] * 100
    assert len(seen) == 1


@pytest.mark.parametrize(
    "body", [b"<html>no such page</html>", b'{"itemNotFound": {"code": 404, "message": "The resource could not be found."}}']
)
async def test_a_404_of_somebody_else_loses_no_event(body: bytes) -> None:
    """A wrong URL, or a proxy without its Nova."""
    with pytest.raises(Unavailable, match=r"network\.nova_url is the compute endpoint"):
        await client(lambda request: httpx.Response(404, content=body)).send([ONE])


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(503),
        httpx.Response(200, text="hello"),
        httpx.Response(200, json=[]),
        httpx.Response(207, json={"events": [{"name": 1}]}),
    ],
)
async def test_any_other_answer_means_try_again(answer: httpx.Response) -> None:
    with pytest.raises(Unavailable):
        await client(lambda request: answer).send([ONE])


async def test_no_connection_means_try_again() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable, match="refused"):
        await client(answer).send([ONE])
