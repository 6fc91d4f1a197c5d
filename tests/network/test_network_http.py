"""What only the network service over HTTP can meet: answers that are lost, other Neutrons, and what each question costs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Engine, event

from pileus.bus.inprocess import InProcessBus
from pileus.clients.network import RequestedNic
from pileus.clients.rest import Rest
from pileus.clients.tokens import OwnTokens
from pileus.compute.network_http import HttpNetwork
from pileus.compute.neutron_facts import MARK, PROFILE
from pileus.errors import Conflict, Unavailable
from pileus.http.face import Limits
from pileus.messages import AgentFacts, PortWiring
from pileus.network import agents, levels
from pileus.network.api.face import face
from pileus.network.service import Network
from pileus.network.tables import agent_beats
from pileus.profiles import STORY
from pileus.settings import Network as NetworkSettings
from pileus.settings import Settings
from pileus.store import Tx
from pileus.store.sqlite import SqliteStore
from tests.network.conftest import ALICE, Client, authenticate
from tests.network.test_network_client_contract import service_token

Change = Callable[[httpx.Request, Any], Any]
Part = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Line(httpx.AsyncBaseTransport):
    """The way to a network API. `lose`: requests (by method) that are done there and whose answer does not come back. `change`: what
    becomes of an answer."""

    inner: httpx.AsyncBaseTransport
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    lose: list[str] = field(default_factory=list)
    change: Change | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path.removeprefix('/v2.0')}")
        self.bodies.append(msgspec.json.decode(request.content) if request.content else None)
        answer = await self.inner.handle_async_request(request)
        content = await answer.aread()
        if request.method in self.lose:
            self.lose.remove(request.method)
            raise httpx.ReadError("cut off")
        if self.change is not None and content:
            content = msgspec.json.encode(self.change(request, msgspec.json.decode(content)))
        return httpx.Response(answer.status_code, content=content)


@pytest.fixture
async def line(network: Network) -> Line:
    return Line(httpx.ASGITransport(face(network, authenticate, "http://pileus/identity", "http://pileus", Limits())))


@pytest.fixture
async def http(line: Line) -> AsyncIterator[HttpNetwork]:
    client = HttpNetwork(Rest("http://pileus", OwnTokens(service_token), name="Neutron", limit=10, transport=line))
    yield client
    await client.close()


async def allocate(http: HttpNetwork, *nics: RequestedNic, server: str = "s1", host: str = "h1", key: str = "k1") -> list[PortWiring]:
    return await http.allocate(ALICE, server, list(nics), host=host, key=key, hostname="name", zone="nova")


async def ports_of(client: Client, server: str = "s1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get("/v2.0/ports", device_id=server))["ports"]
    return found


async def test_an_answer_that_was_lost_doubles_nothing(http: HttpNetwork, line: Line, client: Client) -> None:
    network, _ = await client.as_("alice").network()
    nic = RequestedNic(network_id=network["id"])
    line.lose = ["POST"]
    with pytest.raises(Unavailable):
        await allocate(http, nic, nic)
    (lost,) = await ports_of(client)  # it was made, and stays for the next try
    wired = await allocate(http, nic, nic)
    assert lost["id"] == wired[0].port_id
    assert {port["id"] for port in await ports_of(client)} == {port.port_id for port in wired}
    line.lose = ["PUT"]
    with pytest.raises(Unavailable):
        await allocate(http, nic, nic, host="h2", key="k2")
    again = await allocate(http, nic, nic, host="h2", key="k2")
    assert [port.port_id for port in again] == [port.port_id for port in wired]
    assert [port.generation for port in again] == [2, 2]
    line.lose = ["DELETE"]
    with pytest.raises(Unavailable):
        await http.release("s1", keep=[])
    await http.release("s1", keep=[])
    assert await ports_of(client) == []


async def test_a_port_that_came_twice_is_seen_once_and_goes(http: HttpNetwork, client: Client) -> None:
    """A request that was answered for dead and came through after its second try."""
    network, _ = await client.as_("alice").network()
    nic = RequestedNic(network_id=network["id"])
    (wired,) = await allocate(http, nic)
    (one,) = await ports_of(client)
    body = {"network_id": network["id"], "tenant_id": "p-alice", "device_id": "s1", "device_owner": "compute:nova", PROFILE: one[PROFILE]}
    service = client.as_("service")
    for _ in range(2):
        await service.post("/v2.0/ports", {"port": body})
        assert len(await ports_of(client)) == 2
        assert [port.port_id for port in await http.ports("s1")] == [wired.port_id]
        assert len((await http.addresses(["s1"]))["s1"]) == 1
        assert [port.port_id for port in await allocate(http, nic)] == [wired.port_id]
        assert len(await ports_of(client)) == 1
    await service.post("/v2.0/ports", {"port": body})
    await http.release("s1", keep=[])
    assert await ports_of(client) == []


async def test_compute_in_process_and_over_http_know_each_others_ports(http: HttpNetwork, network: Network, client: Client) -> None:
    """So a cloud may change from one to the other while it has servers."""
    alice = client.as_("alice")
    net, _ = await alice.network()
    near, nic = network.client, RequestedNic(network_id=net["id"])
    for one, other, server in ((near, http, "s1"), (http, near, "s2")):
        wired = await one.allocate(ALICE, server, [nic, nic], host="h1", key="k1", hostname=f"name-{server}", zone="nova")
        assert [port.dns_name for port in wired] == [f"name-{server}"] * 2
        assert await other.allocate(ALICE, server, [nic, nic], host="h1", key="k1", hostname=f"name-{server}", zone="nova") == wired
        assert await other.addresses([server]) == await one.addresses([server])
        assert await other.devices() == {server}
        (told,) = (await network.store.read(levels.details, "h1", [wired[0].port_id])).ports
        assert told.dns_name == f"name-{server}"  # what the host's DHCP goes by
        for caller in (alice, client):  # users, and admins too, leave a server its ports
            await caller.refused("DELETE", f"/v2.0/ports/{wired[0].port_id}", status=409, kind="PortInUse")
        await other.release(server, keep=[wired[1].port_id])
        assert await one.ports(server) == []
        (kept,) = [port for port in (await client.get("/v2.0/ports"))["ports"] if port["id"] == wired[1].port_id]
        assert (kept["device_id"], kept[PROFILE]) == ("", {})
        await alice.delete(f"/v2.0/ports/{wired[1].port_id}")


async def test_only_a_service_marks_a_port(client: Client) -> None:
    net, _ = await client.network()
    mark = {MARK: {"server": "s1", "index": 0, "key": "k"}, "x": 1}
    port = await client.port(net, **{PROFILE: mark, "binding:host_id": "h1"})
    assert port[PROFILE] == {"x": 1}
    path, service = f"/v2.0/ports/{port['id']}", client.as_("service")
    shown = (await service.put(path, {"port": {PROFILE: mark}}))["port"][PROFILE]
    assert (shown[MARK]["server"], shown["x"]) == ("s1", 1)
    back = (await client.put(path, {"port": {PROFILE: {"y": 2, MARK: {**shown[MARK], "server": "s2"}}}}))["port"][PROFILE]
    assert back == {"y": 2, MARK: shown[MARK]}
    await service.refused("PUT", path, {"port": {PROFILE: {MARK: {"server": "s2"}}}}, status=409, kind="PortInUse")
    bads: list[Any] = [{"server": 1}, {"index": -1}, {"server": "s" * 65}, []]
    for bad in bads:
        await service.refused("PUT", path, {"port": {PROFILE: {MARK: bad}}}, status=400, kind="InvalidInput")


def without_generation(request: httpx.Request, answer: Any) -> Any:
    return msgspec.json.decode(re.sub(rb',"generation":[0-9]+', b"", msgspec.json.encode(answer)))


async def test_the_local_signal_needs_a_network_service_of_ours(line: Line, client: Client) -> None:
    network, _ = await client.as_("alice").network()
    line.change = without_generation
    http = HttpNetwork(Rest("http://pileus", OwnTokens(service_token), name="Neutron", limit=10, transport=line), only_ours=True)
    with pytest.raises(Conflict, match=r"set compute\.plug_signal = callback"):
        await allocate(http, RequestedNic(network_id=network["id"]))
    assert await ports_of(client) == []
    await http.close()


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda port: port | {"binding:vif_type": "binding_failed"}, "HostTaken", "could not be bound on host h1"),
        (lambda network: network | {"provider:network_type": "flat"}, "NetworkType", "is of type flat: our hosts offer"),
    ],
)
async def test_what_another_neutron_may_say(http: HttpNetwork, line: Line, client: Client, change: Part, kind: str, text: str) -> None:
    network, _ = await client.as_("alice").network()
    mine = await client.as_("alice").port(network)

    def changed(request: httpx.Request, answer: Any) -> Any:
        if kind == "HostTaken":
            return {"port": change(answer["port"])} if request.method in ("POST", "PUT") else answer
        return {"networks": [change(each) for each in answer["networks"]]} if "networks" in answer else answer

    line.change = changed
    with pytest.raises(Conflict, match=text) as refused:
        await allocate(http, RequestedNic(port_id=mine["id"]), RequestedNic(network_id=network["id"]))
    assert refused.value.kind == kind
    line.change = None
    assert await ports_of(client) == []
    (left,) = [port for port in (await client.get("/v2.0/ports"))["ports"] if port["id"] == mine["id"]]
    assert (left["device_id"], left["binding:host_id"], left[PROFILE]) == ("", "", {})


async def test_a_dead_agent_is_a_reason_for_another_host(http: HttpNetwork, network: Network, client: Client) -> None:
    net, _ = await client.as_("alice").network()

    def died(tx: Tx) -> None:
        agents.hear(tx, [AgentFacts("h1")], [])
        agents.hearing(tx)
        beats = agent_beats.update()
        tx.execute(beats.where(agent_beats.c.host == agents.EARS).values(started_at=1.0))
        tx.execute(beats.where(agent_beats.c.host == "h1").values(heartbeat_at=1.0))

    await network.store.write(died)
    with pytest.raises(Conflict, match="agent of host h1 is dead") as refused:
        await allocate(http, RequestedNic(network_id=net["id"]))
    assert refused.value.kind == "HostTaken"
    await allocate(http, RequestedNic(network_id=net["id"]), host="h2")
    with pytest.raises(Conflict):
        await allocate(http, RequestedNic(network_id=net["id"]), key="k2")
    assert (await ports_of(client))[0]["binding:host_id"] == "h2"


async def test_a_boot_a_question_and_a_delete_cost_few_requests(http: HttpNetwork, line: Line, client: Client) -> None:
    network, _ = await client.as_("alice").network()
    nic = RequestedNic(network_id=network["id"])
    await allocate(http, nic)
    facts = ["GET /networks", "GET /subnets", "GET /ports"]
    assert line.asked == ["GET /ports", *facts, "POST /ports"]
    (body,) = [body["port"] for body in line.bodies if body]
    assert body == {
        "network_id": network["id"],
        "tenant_id": "p-alice",
        "admin_state_up": True,
        "device_id": "s1",
        "device_owner": "compute:nova",
        "binding:host_id": "h1",
        PROFILE: {MARK: {"server": "s1", "index": 0, "key": "k1", "bindings": 1, "hostname": "name"}},
    }
    line.asked.clear()
    await allocate(http, nic)
    assert line.asked == ["GET /ports", *facts]
    line.asked.clear()
    await http.release("s1", keep=[])
    assert [re.sub(r"/[0-9a-f-]{36}", "/ID", each) for each in line.asked] == ["GET /ports", "DELETE /ports/ID"]


async def test_healing_asks_what_nova_asks(http: HttpNetwork, line: Line, client: Client) -> None:
    alice = client.as_("alice")
    network, _ = await alice.network()
    await allocate(http, RequestedNic(network_id=network["id"]))
    await http.addresses(["s1"])  # what the other side offers is asked once in ten minutes
    line.asked.clear()
    await http.addresses(["s1"])
    one = ["GET /ports", "GET /networks", "GET /floatingips", "GET /subnets", "GET /ports", f"GET /networks/{network['id']}"]
    assert line.asked == one
    await alice.post("/v2.0/subnets", {"subnet": {"network_id": network["id"], "cidr": "fd00::/64", "ip_version": 6, "enable_dhcp": False}})
    await allocate(http, RequestedNic(network_id=network["id"]), server="s2")
    line.asked.clear()
    await http.addresses(["s2"])
    assert len(line.asked) == len(one) + 2
    line.asked.clear()
    assert await http.addresses(["s3"]) == {}
    assert line.asked == ["GET /ports"]


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The questions to any database meanwhile."""
    found: list[str] = []

    def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", count)


@contextlib.asynccontextmanager
async def costly(folder: Path, bus: InProcessBus, statements: int) -> AsyncIterator[Line]:
    """The way to a network API whose requests cost so many statements more."""
    store = await asyncio.to_thread(SqliteStore.open, folder / "pileus.db")
    network = Network(store, bus, Settings(network=NetworkSettings(api_statements=statements)), notify=False)
    yield Line(httpx.ASGITransport(face(network, authenticate, "http://pileus/identity", "http://pileus", Limits())))
    await store.close()


@pytest.mark.parametrize("statements", [0, 7])
async def test_api_statements_are_what_each_request_costs_more(tmp_path: Path, bus: InProcessBus, statements: int) -> None:
    async with costly(tmp_path, bus, statements) as line, httpx.AsyncClient(transport=line, base_url="http://pileus") as session:
        client = Client(session)
        await client.network()
        with counted() as found:
            await client.get("/v2.0/networks")
        assert len(found) == statements + 2  # the networks, and their subnets


async def test_in_the_story_healing_a_server_costs_what_it_costs_neutron(tmp_path: Path, bus: InProcessBus) -> None:
    """About 90 statements, measured there."""
    (statements,) = [choice.value for choice in STORY if choice.key == "network.api_statements"]
    assert isinstance(statements, int)
    async with costly(tmp_path, bus, statements) as line, httpx.AsyncClient(transport=line, base_url="http://pileus") as session:
        network, _ = await Client(session, "alice").network()
        http = HttpNetwork(Rest("http://pileus", OwnTokens(service_token), name="Neutron", limit=10, transport=line))
        await allocate(http, RequestedNic(network_id=network["id"]))
        await http.addresses(["s1"])
        with counted() as found:
            assert len((await http.addresses(["s1"]))["s1"]) == 1
        assert 80 <= len(found) <= 100
        await http.close()


@pytest.mark.parametrize("answer", [{"NeutronError": {}}, [], "ports", None], ids=["another", "list", "text", "null"])
async def test_an_answer_that_is_no_neutrons_is_a_network_service_that_does_not_answer(http: HttpNetwork, line: Line, answer: Any) -> None:
    """And no fault of ours with a traceback: what asks is asked again, or answered 503."""
    line.change = lambda request, told: answer
    with pytest.raises(Unavailable, match="answered without 'ports'"):
        await http.addresses(["s1"])
    with pytest.raises(Unavailable, match="answered without 'networks'"):
        await http.constraint([RequestedNic(network_id="n1")])
