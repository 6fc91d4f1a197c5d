"""The network service as compute sees it: one contract, in process and over HTTP: against our own network API, and against the same as
if it were another's, whose ports do not say which of their bindings they speak of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from pileus.clients.network import NetworkClient, PortReadiness, RequestedNic, ServerAddress
from pileus.clients.rest import Rest
from pileus.clients.tokens import OwnTokens
from pileus.compute.network_http import HttpNetwork
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, QuotaExceeded
from pileus.http.face import Limits
from pileus.messages import AgentFacts, PortLevel, PortWiring
from pileus.network import agents, levels, networks, ports, quotas, security_groups, subnets, visible
from pileus.network.api.face import face
from pileus.network.client import InProcessNetwork
from pileus.network.service import Network
from pileus.store import Tx
from pileus.store.sql import Row
from tests.engines.stores import AnyStore
from tests.network.conftest import ADMIN, ALICE, BOB, authenticate


async def service_token() -> str:
    return "service"


class Foreign(httpx.AsyncBaseTransport):
    """What an ordinary Neutron answers: no generations of ours."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        text = re.sub(rb',"generation":[0-9]+', b"", await answer.aread())
        return httpx.Response(answer.status_code, content=text)


@pytest.fixture(params=["in process", "http", "foreign"])
async def client(request: pytest.FixtureRequest, network: Network) -> AsyncIterator[NetworkClient]:
    if request.param == "in process":
        yield InProcessNetwork(network.store, network.config)
        return
    transport: httpx.AsyncBaseTransport = httpx.ASGITransport(
        face(network, authenticate, "http://pileus/identity", "http://pileus", Limits(max_limit=50))
    )
    ours = request.param == "http"
    rest = Rest("http://pileus", OwnTokens(service_token), name="Neutron", limit=10, transport=transport if ours else Foreign(transport))
    http = HttpNetwork(rest, only_ours=ours)
    yield http
    await http.close()


@dataclasses.dataclass
class World:
    """What is there beside the seam."""

    store: AnyStore
    network: Network

    async def net(self, context: Context = ALICE, cidr: str | None = "10.0.0.0/24", **more: Any) -> Row:
        def make(tx: Tx) -> Row:
            made = networks.create(tx, self.network.config, networks.NewNetwork(context.project, **more))
            if cidr:
                subnets.create(tx, self.network.config, context, subnets.NewSubnet(made["id"], cidr, 4, context.project))
            return made

        return await self.store.write(make)

    async def port(self, network: Row, context: Context = ALICE, **more: Any) -> Row:
        new = ports.NewPort(context.project, **more)
        return (await self.store.write(ports.create_on, self.network.config, ADMIN, [(network["id"], new)]))[0]

    async def shown(self, port_id: str) -> Row:
        return await self.store.read(visible.port, ADMIN, port_id)

    async def agent_says(self, wired: PortWiring, host: str, level: str) -> None:
        said = PortLevel(wired.port_id, host, wired.generation, level, "no such device")  # type: ignore[arg-type]
        await self.store.write(levels.take, self.network.config, [said])

    async def agent(self, host: str, address: str = "") -> None:
        await self.store.write(
            lambda tx: agents.hear(tx, [AgentFacts(host, network_types=["geneve"] if address else [], address=address)], [])
        )

    async def group(self, name: str, context: Context = ALICE) -> str:
        new = security_groups.NewGroup(context.project, name)
        return str((await self.store.write(security_groups.create_on, self.network.config, [new]))[0]["id"])

    async def used(self) -> int:
        return (await self.store.read(quotas.usage, "p-alice"))["port"]


@pytest.fixture
def world(store: AnyStore, network: Network) -> World:
    return World(store, network)


def nic(network: Row, **more: Any) -> RequestedNic:
    return RequestedNic(network_id=network["id"], **more)


async def allocate(
    client: NetworkClient, *nics: RequestedNic, server: str = "s1", host: str = "h1", key: str = "k1", context: Context = ALICE
) -> list[PortWiring]:
    return await client.allocate(context, server, list(nics), host=host, key=key, hostname=f"name-{server}", zone="nova")


async def test_ports_come_bound_and_in_the_order_asked_for(client: NetworkClient, world: World) -> None:
    red, blue = await world.net(name="red"), await world.net(cidr="10.1.0.0/24", name="blue")
    wired = await allocate(client, nic(blue), nic(red, fixed_ip="10.0.0.77"))
    assert [port.network_id for port in wired] == [blue["id"], red["id"]]
    assert [port.fixed_ips[0].address for port in wired] == ["10.1.0.3", "10.0.0.77"]
    assert [port.generation for port in wired] == [1, 1]
    first = wired[1]
    assert (first.network_type, first.segmentation_id, first.mtu) == (red["type"], red["segmentation_id"], red["mtu"])
    assert (first.subnets[0].cidr, first.subnets[0].gateway, first.subnets[0].dhcp_address) == ("10.0.0.0/24", "10.0.0.1", "10.0.0.2")
    assert (first.dns_name, first.port_security, first.admin_up) == ("name-s1", True, True)
    row = await world.shown(wired[0].port_id)
    assert (row["device_id"], row["device_owner"], row["status"], row["host"]) == ("s1", "compute:nova", "DOWN", "h1")
    assert (row["project_id"], row["mac"]) == ("p-alice", wired[0].mac)
    assert await client.addresses(["s1", "s2"]) == {
        "s1": [
            ServerAddress("blue", "10.1.0.3", 4, wired[0].mac, wired[0].port_id),
            ServerAddress("red", "10.0.0.77", 4, wired[1].mac, wired[1].port_id),
        ]
    }
    shown = await client.ports("s1")
    assert [(port.port_id, port.network_id, port.status, port.index) for port in shown] == [
        (wired[0].port_id, blue["id"], "DOWN", 0),
        (wired[1].port_id, red["id"], "DOWN", 1),
    ]
    assert shown[1].fixed_ips == ((wired[1].fixed_ips[0].subnet_id, "10.0.0.77"),)
    assert await allocate(client, server="s-none") == []


async def test_the_same_key_changes_nothing_and_a_move_binds_anew(client: NetworkClient, world: World) -> None:
    network = await world.net(type="local")
    one = await allocate(client, nic(network))
    used = await world.used()
    assert await allocate(client, nic(network)) == one
    other = await allocate(client, nic(network), host="h2", key="k2")
    assert (other[0].port_id, other[0].fixed_ips) == (one[0].port_id, one[0].fixed_ips)
    assert other[0].generation > one[0].generation
    assert (await world.shown(one[0].port_id))["host"] == "h2"
    assert await world.used() == used


async def test_readiness_is_the_level_at_the_generation_that_was_given(client: NetworkClient, world: World) -> None:
    network = await world.net()
    (port,) = await allocate(client, nic(network))

    async def level(host: str = "h1") -> list[PortReadiness]:
        return await client.readiness([port.port_id, "00000000-0000-0000-0000-000000000000"], host=host)

    assert await level() == [PortReadiness(port.port_id, port.generation, 0, 0)]
    await world.agent_says(port, "h1", "wired")
    assert await level() == [PortReadiness(port.port_id, port.generation, port.generation, 0)]
    assert await level("h2") == []  # another host has no business with it
    before, (port,) = port, await allocate(client, nic(network), host="h2", key="k2")
    assert await level("h2") == [PortReadiness(port.port_id, port.generation, 0, 0)]
    await world.agent_says(before, "h1", "wired")  # late, of the binding that has ended
    assert (await level("h2"))[0].wired == 0
    await world.agent_says(port, "h2", "failed")
    (failed,) = await level("h2")
    assert (failed.wired, failed.failed) == (0, port.generation) and failed.cause
    assert await client.readiness([], host="h1") == []


async def test_release_gives_all_back_but_what_the_user_gave(client: NetworkClient, world: World) -> None:
    network = await world.net()
    mine = await world.port(network)
    used = await world.used()
    wired = await allocate(client, nic(network), RequestedNic(port_id=mine["id"]))
    assert wired[1].port_id == mine["id"]
    assert await world.used() == used + 1
    assert await client.devices() == {"s1"}
    await client.release("s1", keep=[mine["id"]])
    await client.release("s1", keep=[mine["id"]])
    row = await world.shown(mine["id"])
    assert (row["device_id"], row["device_owner"], row["host"], row["status"]) == ("", "", "", "DOWN")
    assert await world.used() == used
    assert (await client.devices(), await client.ports("s1"), await client.addresses(["s1"])) == (set(), [], {})
    (again,) = await allocate(client, RequestedNic(port_id=mine["id"]), server="s2")
    assert again.generation > wired[1].generation


async def test_unbound_ports_stay_the_servers_own(client: NetworkClient, world: World) -> None:
    network = await world.net()
    (port,) = await allocate(client, nic(network))
    await client.unbind("s1")
    await client.unbind("s1")
    assert (await world.shown(port.port_id))["host"] == ""
    assert [each.port_id for each in await client.ports("s1")] == [port.port_id]
    (again,) = await allocate(client, nic(network), host="h2", key="k2")
    assert again.port_id == port.port_id and again.generation > port.generation


async def test_what_a_ports_owner_wrote_into_device_id_decides_nothing(client: NetworkClient, world: World) -> None:
    bobs = await world.port(await world.net(BOB), BOB, device_id="s1", device_owner="compute:nova")
    assert (await client.addresses(["s1"]), await client.ports("s1"), await client.devices()) == ({}, [], set())
    await client.release("s1", keep=[])
    assert (await world.shown(bobs["id"]))["device_id"] == "s1"


async def test_an_attempt_that_is_refused_leaves_nothing(client: NetworkClient, world: World) -> None:
    network = await world.net()
    mine = await world.port(network, profile={"theirs": 1})
    await world.store.write(quotas.set_limits, "p-alice", {"port": await world.used() + 1})
    with pytest.raises(QuotaExceeded):
        await allocate(client, RequestedNic(port_id=mine["id"]), nic(network), nic(network))
    row = await world.shown(mine["id"])
    assert (row["device_id"], row["host"], row["profile"]) == ("", "", {"theirs": 1})
    assert await client.devices() == set()
    await allocate(client, RequestedNic(port_id=mine["id"]), nic(network))


async def test_a_users_port_serves_one_server(client: NetworkClient, world: World) -> None:
    network = await world.net()
    mine, bobs = await world.port(network), await world.port(await world.net(BOB), BOB)
    given = [RequestedNic(port_id=mine["id"])]
    assert (await client.check(ALICE, given, count=1)).nics == given
    await allocate(client, *given)
    for attempt in (client.check(ALICE, given, count=1), allocate(client, *given, server="s2")):
        with pytest.raises(Conflict, match="in use"):
            await attempt
    for attempt in (client.check(ALICE, [RequestedNic(port_id=bobs["id"])], count=1), allocate(client, RequestedNic(port_id=bobs["id"]))):
        with pytest.raises(NotFound):
            await attempt


async def test_check_refuses_with_a_sentence(client: NetworkClient, world: World) -> None:
    mine, bare, bobs = await world.net(), await world.net(cidr=None), await world.net(BOB)
    shared = await world.net(ADMIN, shared=True)
    taken = (await allocate(client, nic(mine)))[0].fixed_ips[0].address

    async def refused(kind: type[Exception], *nics: RequestedNic, count: int = 1) -> None:
        with pytest.raises(kind, match=r"\w+ \w+"):
            await client.check(ALICE, list(nics), count=count)

    await refused(NotFound, nic(bobs))
    await refused(NotFound, RequestedNic(network_id="nowhere"))
    await refused(NotFound, RequestedNic(port_id="nowhere"))
    await refused(BadRequest, nic(bare))
    await refused(BadRequest, RequestedNic())
    await refused(BadRequest, nic(mine, fixed_ip="not an address"))
    await refused(BadRequest, nic(mine, fixed_ip="10.9.9.9"))
    await refused(BadRequest, nic(mine, fixed_ip="10.0.0.255"))
    await refused(BadRequest, nic(mine, fixed_ip="10.0.0.50"), count=2)
    await refused(Conflict, nic(mine, fixed_ip=taken))
    await refused(Forbidden, nic(shared, fixed_ip="10.0.0.50"))
    assert (await client.check(ALICE, [nic(shared)], count=3)).nics == [nic(shared)]
    with pytest.raises(Conflict, match="use a Network ID"):
        await client.check(ALICE, "auto", count=1)
    assert (await client.check(ALICE, "none", count=1)).nics == []
    with pytest.raises(NotFound):
        await allocate(client, nic(bobs), server="s2")
    await world.store.write(quotas.set_limits, "p-alice", {"port": await world.used() + 2})
    await client.check(ALICE, [nic(mine)], count=2)
    await refused(QuotaExceeded, nic(mine), count=3)


async def test_auto_takes_the_only_network_and_none_is_fine(client: NetworkClient, world: World) -> None:
    assert (await client.check(ALICE, "auto", count=1)).nics == []
    network = await world.net()
    await world.net(BOB)
    assert (await client.check(ALICE, "auto", count=1)).nics == [nic(network)]


async def test_where_a_network_is_binds_the_next_host(client: NetworkClient, world: World) -> None:
    local, tunnels, vlan = await world.net(type="local"), await world.net(type="geneve"), await world.net(type="vlan")
    await world.agent("h1", "192.0.2.1")
    await world.agent("h3")
    free = await client.constraint([nic(local), nic(tunnels), nic(vlan)])
    assert (free.host, free.physical_networks, free.network_types) == (None, frozenset({"physnet1"}), frozenset())
    await allocate(client, nic(local), nic(tunnels))
    bound = await client.constraint([nic(local), nic(tunnels)])
    assert (bound.host, bound.network_types) == ("h1", frozenset({"geneve"}))
    lonely = await world.net(type="geneve")
    await allocate(client, nic(lonely), server="s3", host="h3")
    assert (await client.constraint([nic(lonely)])).host == "h3"  # without tunnels it lives on that host alone
    with pytest.raises(Conflict) as refused:
        await allocate(client, nic(tunnels), nic(local), server="s2", host="h2")
    assert refused.value.kind == "HostTaken"
    assert await client.ports("s2") == []
    with pytest.raises(Conflict) as refused:
        await client.constraint([nic(local), nic(lonely)])
    assert refused.value.kind == "HostTaken"


async def test_servers_are_found_by_a_part_of_their_address(client: NetworkClient, world: World) -> None:
    network = await world.net()
    await allocate(client, nic(network, fixed_ip="10.0.0.11"), server="s1")
    await allocate(client, nic(network, fixed_ip="10.0.0.111"), server="s2")
    for pattern, found in {
        "10.0.0.11": ["s1", "s2"],
        r"^10\.0\.0\.11$": ["s1"],
        "^10.*111": ["s2"],
        r"^10\.0\.0\.1$": [],
        "": ["s1", "s2"],
    }.items():
        assert sorted(await client.servers_at(pattern, 4)) == found, pattern
    assert await client.servers_at("10.0.0.11", 6) == []
    for bad in ("(1+)+$", "[", "1" * 65, ".*1.*1.*1.*1", "%", "é"):
        with pytest.raises(BadRequest):
            await client.servers_at(bad, 4)


async def test_devices_come_a_page_at_a_time(client: NetworkClient, world: World) -> None:
    network = await world.net()
    for i in range(7):
        await allocate(client, nic(network), nic(network), server=f"s{i}")
    assert await client.devices() == {f"s{i}" for i in range(7)}
    found: list[str] = []
    while page := await client.devices(after=found[-1] if found else "", most=3):
        assert len(page) <= 3
        found += sorted(page)
    assert found == [f"s{i}" for i in range(7)]
    assert await client.devices(after="s3", most=2) == {"s4", "s5"}  # whoever goes on from there has not read what was before


async def test_security_groups_of_a_servers_ports(client: NetworkClient, world: World) -> None:
    network = await world.net()
    web, db = await world.group("web"), await world.group("db")
    for name, context in (("twice", ALICE), ("twice", ALICE), ("web", BOB)):
        await world.group(name, context)
    asked = [nic(network)]
    checked = await client.check(ALICE, asked, count=1, security_groups=["web", db, web])
    assert checked.nics[0].security_groups == (web, db)
    for names, kind in (["mail"], (NotFound, BadRequest)), (["twice"], (Conflict,)):
        with pytest.raises(kind, match=names[0]):
            await client.check(ALICE, asked, count=1, security_groups=names)
        with pytest.raises(kind):
            await client.check(ALICE, "none", count=1, security_groups=names)
    assert (await client.check(ALICE, asked, count=1, security_groups=["default"])).nics == asked  # which is made when it is needed
    bare = await world.net(port_security=False)
    with pytest.raises(BadRequest, match="port_security_enabled"):
        await client.check(ALICE, [nic(bare)], count=1, security_groups=["web"])
    (wired,) = await allocate(client, *checked.nics)
    assert sorted(wired.security_groups) == sorted([web, db])
    (plain,) = await allocate(client, nic(network), server="s2")
    assert len(plain.security_groups) == 1  # the project's default group
    await client.remove_security_group(ALICE, "s1", "web")
    await client.add_security_group(ALICE, "s1", "default")
    await client.add_security_group(ALICE, "s1", "default")
    found = await client.security_groups(["s1", "s2", "s3"])
    assert {server: sorted(group.name for group in groups) for server, groups in found.items()} == {
        "s1": ["db", "default"],
        "s2": ["default"],
    }
    rules = {group.name: group.ingress for group in await client.security_groups_of("s1")}
    assert rules["db"] == ()
    assert {(rule.remote_group, rule.ip_version) for rule in rules["default"]} == {(("default", "p-alice"), 4), (("default", "p-alice"), 6)}
    assert (await client.security_groups(["s3"]), await client.security_groups_of("s3")) == ({}, [])
    with pytest.raises(NotFound):
        await client.remove_security_group(ALICE, "s1", "web")
    with pytest.raises(NotFound):
        await client.add_security_group(ALICE, "s3", "web")
    with pytest.raises(NotFound):
        await client.add_security_group(ALICE, "s1", "mail")
    await allocate(client, nic(bare), server="s4")
    with pytest.raises(BadRequest, match="port_security_enabled"):
        await client.add_security_group(ALICE, "s4", "web")
