"""A store of its own for each test, the rules' configuration, and callers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Connection

from pileus.bus.inprocess import InProcessBus
from pileus.context import Context
from pileus.errors import Unauthorized
from pileus.http.face import Limits
from pileus.network.api.face import face
from pileus.network.config import Config, read
from pileus.network.service import Network
from pileus.settings import Network as NetworkSettings
from pileus.settings import Settings
from tests.engines.stores import AnyStore, both, connected, opened, run_in_greenlet

ADMIN = Context("u-admin", project_id="p-admin", roles=frozenset({"admin", "member", "reader"}))
ALICE = Context("u-alice", project_id="p-alice", roles=frozenset({"member", "reader"}))
BOB = Context("u-bob", project_id="p-bob", roles=frozenset({"member", "reader"}))
SERVICE = Context("u-pileus", project_id="p-service", roles=frozenset({"service"}))
EVE = Context("u-eve", project_id="p-alice", roles=frozenset({"reader"}))

SETTINGS = Settings(network=NetworkSettings(vlan_ranges=["physnet1:100:102", "physnet2"], max_fixed_ips=3))


@pytest.fixture
def config() -> Config:
    return read(SETTINGS, notify=True)


@pytest.fixture
def tx(request: pytest.FixtureRequest, engine: str) -> Iterator[Connection]:
    with connected(request, engine) as connection:
        yield connection


pytest_generate_tests = both


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return run_in_greenlet(pyfuncitem)


@pytest.fixture
async def store(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> AsyncIterator[AnyStore]:
    async with opened(request, engine, tmp_path) as found:
        yield found


CALLERS = {"admin": ADMIN, "alice": ALICE, "bob": BOB, "eve": EVE, "service": SERVICE}


async def authenticate(token: str) -> Context:
    """A token is its caller's name."""
    if token not in CALLERS:
        raise Unauthorized("The token is unknown or has expired.")
    return CALLERS[token]


@pytest.fixture
def bus() -> InProcessBus:
    return InProcessBus()


@pytest.fixture
async def network(store: AnyStore, bus: InProcessBus) -> AsyncIterator[Network]:
    service = Network(store, bus, SETTINGS, notify=False)
    yield service
    await bus.close()


class Client:
    """Speaks to the face; `as_` chooses the caller. Expects the given status and gives the body."""

    def __init__(self, session: httpx.AsyncClient, token: str = "admin") -> None:
        self.session = session
        self.token = token

    def as_(self, token: str) -> Client:
        return Client(self.session, token)

    async def call(self, method: str, path: str, body: Any = None, *, expect: int = 200, **query: Any) -> Any:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"X-Auth-Token": self.token}
        answer = await self.session.request(method, path, content=content, headers=headers, params=query or None)
        assert answer.status_code == expect, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def get(self, path: str, *, expect: int = 200, **query: Any) -> Any:
        return await self.call("GET", path, expect=expect, **query)

    async def post(self, path: str, body: Any, *, expect: int = 201) -> Any:
        return await self.call("POST", path, body, expect=expect)

    async def put(self, path: str, body: Any, *, expect: int = 200) -> Any:
        return await self.call("PUT", path, body, expect=expect)

    async def delete(self, path: str, *, expect: int = 204) -> Any:
        return await self.call("DELETE", path, expect=expect)

    async def refused(self, method: str, path: str, body: Any = None, *, status: int, kind: str, **query: Any) -> str:
        """The sentence of a refusal of that status and type."""
        error = (await self.call(method, path, body, expect=status, **query))["NeutronError"]
        assert error["type"] == kind, error
        assert error["message"]
        return str(error["message"])

    async def network(self, name: str = "net", cidr: str | None = "10.0.0.0/24", **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A network and its subnet ({} without a CIDR)."""
        network = (await self.post("/v2.0/networks", {"network": {"name": name, **more}}))["network"]
        if cidr is None:
            return network, {}
        body = {"subnet": {"network_id": network["id"], "cidr": cidr, "ip_version": 6 if ":" in cidr else 4}}
        return network, (await self.post("/v2.0/subnets", body))["subnet"]

    async def port(self, network: dict[str, Any], **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = (await self.post("/v2.0/ports", {"port": {"network_id": network["id"], **more}}))["port"]
        return found


@pytest.fixture
async def client(network: Network) -> AsyncIterator[Client]:
    app = face(network, authenticate, "http://pileus/identity", "http://pileus", Limits())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus") as session:
        yield Client(session)
