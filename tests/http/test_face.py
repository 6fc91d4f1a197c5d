"""The face: routing, who may call, bodies, faults, request ids."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

import httpx
import msgspec
import pytest

from pileus.context import Context
from pileus.errors import Conflict, PileusError, Unauthorized, Unavailable
from pileus.http import faults
from pileus.http.face import Allow, Call, Face, Limits, Reply, Route, decode
from pileus.http.microversions import Microversions

TOKENS = {
    "admin": Context("u1", project_id="p1", roles=frozenset({"admin", "member", "reader"})),
    "member": Context("u2", project_id="p2", roles=frozenset({"member", "reader"})),
    "reader": Context("u3", project_id="p2", roles=frozenset({"reader"})),
    "unscoped": Context("u4"),
    "domain": Context("u5", domain_id="d", roles=frozenset({"member", "reader"})),
    "service": Context("u6", project_id="p3", roles=frozenset({"service"})),
}


class Body(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0)]
    name: str = ""


class Service:
    def __init__(self) -> None:
        self.seen: list[Call] = []
        self.raises: BaseException | None = None


async def plain(service: Service, call: Call) -> Reply:
    service.seen.append(call)
    if service.raises is not None:
        raise service.raises
    return Reply(body={"user": call.context.user_id, "version": call.version})


async def take(service: Service, call: Call) -> Reply:
    body = await call.json(Body)
    return Reply(202, {"count": body.count})


async def empty(service: Service, call: Call) -> Reply:
    return Reply(204)


async def pour(service: Service, call: Call) -> Reply:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one "
        yield b"two"

    return Reply(headers={"Content-Type": "application/octet-stream"}, stream=chunks())


async def pour_and_break(service: Service, call: Call) -> Reply:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one "
        raise Conflict("gone meanwhile")

    return Reply(stream=chunks())


async def authenticate(token: str) -> Context:
    if token == "database-down":
        raise Unavailable("the database did not answer")
    if token not in TOKENS:
        raise Unauthorized("no such token")
    return TOKENS[token]


ALLOWED: tuple[Allow, ...] = ("anyone", "user", "reader", "member", "admin", "service")
ROUTES: list[Route[Service]] = [
    *(Route[Service]("GET", f"/{allow}", plain, allow) for allow in ALLOWED),
    Route("POST", "/things", take, "anyone"),
    Route("GET", "/things/{thing}", plain, "anyone"),
    Route("DELETE", "/things/{thing}", empty, "anyone"),
    Route("GET", "/pour", pour, "anyone"),
    Route("GET", "/break", pour_and_break, "anyone"),
    Route("GET", "/new", plain, "anyone", since=(2, 10)),
    Route("GET", "/old", plain, "anyone", until=(2, 9)),
]


@pytest.fixture
def service() -> Service:
    return Service()


def face(service: Service, microversions: Microversions | None = None) -> Face[Service]:
    return Face(
        service,
        ROUTES,
        base="http://api.test/x/",
        fault=faults.compute,
        authenticate=authenticate,
        identity_url="http://api.test/identity",
        microversions=microversions,
        limits=Limits(max_body=1000, max_limit=10),
    )


def client(service: Service, *, microversions: Microversions | None = None) -> httpx.AsyncClient:
    app = face(service, microversions)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://api.test")


@pytest.mark.parametrize(
    ("token", "good"),
    [
        (None, {"anyone"}),
        ("unscoped", {"anyone", "user"}),
        ("domain", {"anyone", "user"}),
        ("reader", {"anyone", "user", "reader"}),
        ("member", {"anyone", "user", "reader", "member"}),
        ("admin", set(ALLOWED)),
        ("service", {"anyone", "user", "service"}),
    ],
)
async def test_who_may_call(service: Service, token: str | None, good: set[str]) -> None:
    async with client(service) as http:
        for allow in ALLOWED:
            answer = await http.get(f"/{allow}", headers={"X-Auth-Token": token} if token else {})
            refused = 401 if token is None else 403
            assert answer.status_code == (200 if allow in good else refused), allow


async def test_a_bad_token_is_refused_with_a_challenge_and_ignored_where_none_is_needed(service: Service) -> None:
    async with client(service) as http:
        answer = await http.get("/user", headers={"X-Auth-Token": "nonsense"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Keystone uri="http://api.test/identity"'
        assert answer.json() == {"unauthorized": {"code": 401, "message": "no such token"}}
        missing = await http.get("/user")
        assert (missing.status_code, missing.headers["WWW-Authenticate"]) == (401, answer.headers["WWW-Authenticate"])
        assert (await http.get("/anyone", headers={"X-Auth-Token": "nonsense"})).json()["user"] == ""
        assert (await http.get("/anyone", headers={"X-Auth-Token": "member"})).json()["user"] == "u2"


async def test_a_handlers_own_401_carries_the_challenge_too(service: Service) -> None:
    service.raises = Unauthorized("wrong password")
    async with client(service) as http:
        assert (await http.get("/anyone")).headers["WWW-Authenticate"].startswith("Keystone ")


async def test_every_answer_has_a_request_id_of_ours(service: Service) -> None:
    async with client(service) as http:
        given = "req-00000000-0000-0000-0000-000000000000"
        answers = [await http.get(path, headers={"X-Openstack-Request-Id": given}) for path in ("/anyone", "/user", "/nowhere")]
    ids = [answer.headers["X-Openstack-Request-Id"] for answer in answers]
    assert all(re.fullmatch(r"req-[0-9a-f-]{36}", each) for each in ids)
    assert len({*ids, given}) == 4
    assert service.seen[0].context.request_id == ids[0]


async def test_routing(service: Service) -> None:
    async with client(service) as http:
        assert (await http.get("/nowhere")).status_code == 404
        wrong = await http.put("/things/1")
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "DELETE, GET")
        assert (await http.get("/things/%41b")).status_code == 200
        assert service.seen[-1].path == {"thing": "Ab"}
        gone = await http.delete("/things/1")
        assert (gone.status_code, gone.content) == (204, b"")
        assert "content-length" not in gone.headers
        head = await http.head("/things/1")
        assert (head.status_code, head.content) == (200, b"")
        assert service.seen[-1].base == "http://api.test/x"


@pytest.mark.parametrize("path", ["/things/a%00b", "/things/a%3F%00", "/things/a%23%00", "/anyone?x=%00"])
async def test_a_nul_is_refused_wherever_it_hides(service: Service, path: str) -> None:
    async with client(service) as http:
        assert (await http.get(path)).status_code == 400
    assert not service.seen


async def test_a_nonsensical_host_header_does_no_harm(service: Service) -> None:
    async with client(service) as http:
        assert (await http.get("/anyone", headers={"Host": "[::"})).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b'{"count": 3}', {}, 202, ""),
        (b'{"count": 3}', {"Content-Type": "application/json; charset=utf-8"}, 202, ""),
        (b'{"count": 3', {}, 400, "not JSON"),
        (b"", {}, 400, "not JSON"),
        (b"\xff\xfe", {}, 400, "not JSON"),
        (b"[" * 900, {}, 400, ""),
        (b'{"count": "3"}', {}, 400, "field/attribute count: Expected `int`, got `str`"),
        (b'{"count": -1}', {}, 400, "count: Expected `int` >= 0"),
        (b"[1]", {}, 400, "Invalid request body: Expected `object`, got `array`"),
        (b'{"count": 1, "name": "a\\u0000"}', {}, 400, "NUL"),
        (b'{"count": 1, "name": "\\ud800"}', {}, 400, "not JSON"),
        (b'{"count": 1}', {"Content-Type": "text/xml"}, 415, "send application/json"),
        (b'{"count": 1}' + b" " * 1000, {}, 413, "at most 1000 bytes"),
    ],
)
async def test_bodies(service: Service, content: bytes, headers: dict[str, str], status: int, said: str) -> None:
    async with client(service) as http:
        answer = await http.post("/things", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert said in answer.json().get("badRequest", answer.json().get("badMediaType", answer.json().get("overLimit", {}))).get("message", "")


async def test_a_body_that_is_too_large_is_not_read_to_its_end(service: Service) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b" " * 100
            await asyncio.sleep(0)

    async with client(service) as http:
        assert (await http.post("/things", content=endless())).status_code == 413
    assert sent < 100


async def test_a_body_that_stops_coming_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pileus.http.face.BODY_LIMIT", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with client(service) as http:
        assert (await http.post("/things", content=stalled())).status_code == 408


@pytest.mark.parametrize(
    ("raised", "status", "name"),
    [
        (Conflict("it is busy"), 409, "conflictingRequest"),
        (OverflowError("too big"), 400, "badRequest"),
        (Unavailable("no database"), 503, "serviceUnavailable"),
        (ZeroDivisionError("a secret detail"), 500, "computeFault"),
    ],
)
async def test_what_a_handler_raises_becomes_a_fault(service: Service, raised: Exception, status: int, name: str) -> None:
    service.raises = raised
    async with client(service) as http:
        answer = await http.get("/anyone")
        assert answer.status_code == status
        assert list(answer.json()) == [name]
        assert "a secret detail" not in answer.text
        assert (await http.head("/anyone")).content == b""


async def test_an_authentication_that_cannot_be_done_is_503_and_not_401(service: Service) -> None:
    async with client(service) as http:
        assert (await http.get("/user", headers={"X-Auth-Token": "database-down"})).status_code == 503


async def test_streams(service: Service) -> None:
    async with client(service) as http:
        answer = await http.get("/pour")
        assert (answer.content, answer.headers["Content-Type"]) == (b"one two", "application/octet-stream")


async def test_a_stream_that_breaks_is_cut_off_and_never_ended_as_if_whole(service: Service) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/break", "query_string": b"", "headers": []}
    await face(service)(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[1] == {"type": "http.response.body", "body": b"one ", "more_body": True}


@pytest.mark.parametrize(
    ("asked", "new", "old"),
    [
        (None, 404, 200),
        ("compute 2.9", 404, 200),
        ("compute 2.10", 200, 404),
        ("compute latest", 200, 404),
        ("compute 2.97", 406, 406),
        ("compute x", 400, 400),
    ],
)
async def test_routes_of_some_microversions(service: Service, asked: str | None, new: int, old: int) -> None:
    speaks = Microversions("compute", (2, 1), (2, 96), legacy="X-OpenStack-Nova-API-Version")
    headers = {"OpenStack-API-Version": asked} if asked else {}
    async with client(service, microversions=speaks) as http:
        assert ((await http.get("/new", headers=headers)).status_code, (await http.get("/old", headers=headers)).status_code) == (new, old)


async def test_the_version_that_was_used_is_said(service: Service) -> None:
    speaks = Microversions("compute", (2, 1), (2, 96), legacy="X-OpenStack-Nova-API-Version")
    async with client(service, microversions=speaks) as http:
        answer = await http.get("/new", headers={"X-OpenStack-Nova-API-Version": "2.12"})
    assert answer.json()["version"] == [2, 12]
    assert answer.headers["OpenStack-API-Version"] == "compute 2.12"
    assert answer.headers["X-OpenStack-Nova-API-Version"] == "2.12"
    assert answer.headers["Vary"] == "OpenStack-API-Version, X-OpenStack-Nova-API-Version"


def test_decode_names_the_place() -> None:
    with pytest.raises(PileusError, match=r"field/attribute things\[1\]\.count: Expected `int`"):
        decode(b'{"things": [{"count": 1}, {"count": null}]}', _Things)


class _Things(msgspec.Struct):
    things: list[Body]
