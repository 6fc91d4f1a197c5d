"""Which hosts share a tunnel network: counted, told in few messages, asked for by version."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, select

from pileus.bus import BusError
from pileus.bus.inprocess import InProcessBus
from pileus.clients.network import CheckedNics, RequestedNic
from pileus.errors import Conflict
from pileus.messages import MEMBERS, Members, MembersChange, MembersChanged, MembersRequest, from_host, members_subject
from pileus.network import members, networks, servers
from pileus.network.config import Config
from pileus.network.service import Network
from pileus.network.tables import agents
from pileus.network.tables import members as table
from pileus.settings import Network as NetworkSettings
from pileus.settings import Settings
from pileus.store.sql import Row
from tests.engines.stores import AnyStore
from tests.network.conftest import ALICE
from tests.network.test_servers import boot, make_network, nic


def agent(tx: Connection, host: str, address: str) -> None:
    """The host's agent has said where its tunnels end."""
    tx.execute(
        agents.insert().values(
            id=str(uuid.uuid4()),
            agent_type="Open vSwitch agent",
            binary="b",
            host=host,
            availability_zone="nova",
            configurations={"tunneling_ip": address, "physical_networks": [], "network_types": []},
            created_at=0.0,
        )
    )


def ask(tx: Connection, host: str, network: Row, version: int = -1, address: str | None = None) -> tuple[int, list[str]] | None:
    """What a host is told of a network; None: nothing."""
    question = MembersRequest(host, f"at-{host}" if address is None else address, {network["id"]: version})
    found = members.asked(tx, question)[0].networks
    return (found[0].version, found[0].addresses) if found else None


def known(tx: Connection) -> Connection:
    """Hosts that have said of themselves: three with tunnels, two without."""
    for name in ("h1", "h2", "h3"):
        agent(tx, name, f"at-{name}")
    agent(tx, "alone1", "")
    agent(tx, "alone2", "")
    return tx


def create(tx: Connection, config: Config, network: Row, server: str, host: str) -> None:
    servers.allocate(tx, config, ALICE, boot(server, host), [nic(network)])


def test_a_host_is_a_member_from_its_first_port_to_its_last(tx: Connection, config: Config) -> None:
    hosts = known(tx)
    network = make_network(hosts, config)
    for server, host in (("s1", "h1"), ("s2", "h1"), ("s3", "h2")):
        create(hosts, config, network, server, host)
    assert {(row.host, row.ports, row.address) for row in hosts.execute(select(table))} == {("h1", 2, "at-h1"), ("h2", 1, "at-h2")}
    assert ask(hosts, "h1", network) == (0, ["at-h2"])
    assert ask(hosts, "h3", network) is None  # is not there: learns nothing
    told = members.sweep(hosts)
    assert told == {
        "h1": [MembersChange(network["id"], 0, 1, ["at-h2"], [])],
        "h2": [MembersChange(network["id"], 0, 1, ["at-h1"], [])],
    }
    assert members.sweep(hosts) is None
    servers.release(hosts, config, "s1", [])
    assert members.sweep(hosts) is None
    servers.release(hosts, config, "s2", [])
    assert members.news(hosts)
    assert members.sweep(hosts) == {"h2": [MembersChange(network["id"], 1, 2, [], ["at-h1"])]}
    assert ask(hosts, "h2", network, 2) is None
    assert ask(hosts, "h2", network, 1) == (2, [])


def test_an_address_that_another_host_has_by_now_is_not_gone(tx: Connection, config: Config) -> None:
    """A machine that came back by another name; or a host that names another's address as its own."""
    hosts = known(tx)
    agent(hosts, "h1-anew", "at-h1")
    network = make_network(hosts, config)
    for server, host in (("s1", "h1"), ("s2", "h2"), ("s3", "h1-anew")):
        create(hosts, config, network, server, host)
    members.sweep(hosts)
    servers.release(hosts, config, "s1", [])
    told = members.sweep(hosts)
    assert told is not None
    assert [change.left for change in told["h2"]] == [[]]
    assert ask(hosts, "h2", network) == (2, ["at-h1"])


def test_a_host_whose_last_port_makes_room_for_another_never_left(tx: Connection, config: Config) -> None:
    hosts = known(tx)
    network = make_network(hosts, config)
    create(hosts, config, network, "s1", "h1")
    members.sweep(hosts)
    servers.release(hosts, config, "s1", [])
    create(hosts, config, network, "s2", "h1")
    assert not members.news(hosts)
    assert members.sweep(hosts) is None


def test_a_port_that_is_bound_anew_moves_its_hosts_membership(tx: Connection, config: Config) -> None:
    hosts = known(tx)
    network = make_network(hosts, config)
    servers.allocate(hosts, config, ALICE, boot("s1", "h1"), [nic(network)])
    servers.allocate(hosts, config, ALICE, boot("s1", "h2", "k2"), [nic(network)])
    members.sweep(hosts)
    assert [(row.host, row.ports) for row in hosts.execute(select(table))] == [("h2", 1)]


def test_a_host_without_tunnels_has_a_network_for_itself(tx: Connection, config: Config) -> None:
    hosts = known(tx)
    network, other = make_network(hosts, config), make_network(hosts, config)
    create(hosts, config, network, "s1", "alone1")
    create(hosts, config, network, "s2", "alone1")
    found = servers.constraint(hosts, [nic(network)])
    assert (found.host, found.network_types) == ("alone1", frozenset())
    for host in ("h1", "alone2"):
        with pytest.raises(Conflict, match=r"alone[12] has no tunnels") as taken, hosts.begin_nested():
            create(hosts, config, network, "s3", host)
        assert taken.value.kind == "HostTaken"
    create(hosts, config, other, "s4", "h1")
    found = servers.constraint(hosts, [nic(other)])
    assert (found.host, found.network_types) == (None, frozenset({"geneve"}))
    with pytest.raises(Conflict, match="alone1 has no tunnels"), hosts.begin_nested():
        create(hosts, config, other, "s5", "alone1")
    with pytest.raises(Conflict) as apart:
        make = make_network(hosts, config)
        create(hosts, config, make, "s6", "alone2")
        servers.constraint(hosts, [nic(network), nic(make)])
    assert apart.value.kind == "HostTaken"
    # With the last port it is free again, at once.
    for server in ("s1", "s2"):
        servers.release(hosts, config, server, [])
    assert servers.constraint(hosts, [nic(network)]) == CheckedNics([nic(network)])
    create(hosts, config, network, "s7", "h2")
    with pytest.raises(Conflict, match="alone1 has no tunnels"), hosts.begin_nested():
        create(hosts, config, network, "s8", "alone1")


def test_another_address_makes_everybody_ask(tx: Connection, config: Config) -> None:
    hosts = known(tx)
    network = make_network(hosts, config)
    create(hosts, config, network, "s1", "h1")
    create(hosts, config, network, "s2", "h2")
    members.sweep(hosts)
    question = MembersRequest("h2", "elsewhere", {network["id"]: 1})
    assert members.asked(hosts, question)[1]
    members.moved(hosts, "h2", "elsewhere")
    assert not members.asked(hosts, question)[1]
    told = members.sweep(hosts)
    assert told is not None
    # `before` is no version that h1 knows: it asks, and the old address is gone.
    assert told["h1"] == [MembersChange(network["id"], 2, 3, ["elsewhere"], [])]
    assert ask(hosts, "h1", network, 1) == (3, ["elsewhere"])


def test_a_deleted_network_leaves_nothing(tx: Connection, config: Config) -> None:
    hosts = known(tx)
    network = make_network(hosts, config)
    create(hosts, config, network, "s1", "h1")
    servers.release(hosts, config, "s1", [])
    networks.delete_one(hosts, config, ALICE, network["id"])
    assert hosts.execute(select(table)).all() == []
    assert members.sweep(hosts) is None


class Listener:
    """A host's ear: what it was sent."""

    def __init__(self, bus: InProcessBus, host: str) -> None:
        self.heard: list[MembersChanged] = []
        bus.subscribe(members_subject(host), MembersChanged, self._hear)

    async def _hear(self, message: MembersChanged) -> None:
        self.heard.append(message)


@pytest.fixture
async def service(store: AnyStore, bus: InProcessBus) -> AsyncIterator[Network]:
    made = Network(store, bus, Settings(network=NetworkSettings(members_gather=0.05)), notify=False)
    await made.start()
    yield made
    await made.close()
    await bus.close()


async def allocate(service: Network, network_id: str, server: str, host: str) -> None:
    await service.client.allocate(ALICE, server, [RequestedNic(network_id=network_id)], host=host, key="k", hostname="x", zone="nova")


async def test_many_who_come_at_once_are_few_messages(service: Network, bus: InProcessBus) -> None:
    """40 hosts join 3 networks at once: without gathering, each host would hear of each other one: 40 × 39 × 3 messages."""
    names = [f"h{n}" for n in range(40)]
    networks = [(await service.store.write(lambda tx: make_network(tx, service.config)))["id"] for _ in range(3)]
    ears = {name: Listener(bus, name) for name in names}

    async def come(name: str) -> Members:
        for number, network_id in enumerate(networks):
            await allocate(service, network_id, f"{name}-{number}", name)
        question = MembersRequest(name, f"at-{name}", dict.fromkeys(networks, -1))
        return await bus.request(from_host(name, MEMBERS), question, Members, timeout=10)

    answers = dict(zip(names, await asyncio.gather(*map(come, names)), strict=True))

    def knows(name: str) -> set[tuple[str, str]]:
        found = {(told.network_id, address) for told in answers[name].networks for address in told.addresses}
        return found | {(c.network_id, a) for heard in ears[name].heard for c in heard.changes for a in c.joined}

    everybody = {(network_id, f"at-{name}") for network_id in networks for name in names}
    async with asyncio.timeout(10):
        while any(knows(name) != {(n, a) for n, a in everybody if a != f"at-{name}"} for name in names):
            await asyncio.sleep(0.01)
    messages = sum(len(ear.heard) for ear in ears.values())
    assert messages <= 40 * 30, messages  # a few turns of gathering, on a machine however slow


async def test_who_leaves_is_told_without_anybody_asking(service: Network, bus: InProcessBus) -> None:
    network_id = (await service.store.write(lambda tx: make_network(tx, service.config)))["id"]
    ear = Listener(bus, "h1")
    for server, host in (("s1", "h1"), ("s2", "h2")):
        await allocate(service, network_id, server, host)
        question = MembersRequest(host, f"at-{host}", {network_id: -1})
        await bus.request(from_host(host, MEMBERS), question, Members, timeout=5)
    await service.client.release("s2", keep=[])
    async with asyncio.timeout(10):
        while not any(change.left == ["at-h2"] for heard in ear.heard for change in heard.changes):
            await asyncio.sleep(0.01)


async def test_a_host_cannot_ask_for_another(service: Network, bus: InProcessBus) -> None:
    with pytest.raises(BusError):
        await bus.request(from_host("h1", MEMBERS), MembersRequest("h2", "a", {}), Members, timeout=1)


def test_a_host_whose_agent_was_not_heard_of_yet_asks_nothing_of_the_next(tx: Connection, config: Config) -> None:
    """It may have tunnels or not: on a cloud of one host without them, all servers after the first would fail."""
    network = make_network(tx, config)
    create(tx, config, network, "s1", "unheard")
    found = servers.constraint(tx, [nic(network)])
    assert (found.host, found.network_types) == (None, frozenset())
    create(tx, config, network, "s2", "unheard")
    agent(tx, "unheard", "")
    members.moved(tx, "unheard", "")
    found = servers.constraint(tx, [nic(network)])
    assert (found.host, found.network_types) == ("unheard", frozenset())
