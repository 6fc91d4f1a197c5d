"""Whose addresses a group stands for, and which hosts are told of what: counted once, told in few messages, asked for by version."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, event, select

from pileus.bus import BusError
from pileus.bus.inprocess import InProcessBus
from pileus.clients.network import RequestedNic
from pileus.errors import BadRequest, Conflict, NotFound
from pileus.messages import (
    LEVELS,
    SECURITY,
    AddressSet,
    DeviceLevels,
    GroupRules,
    PortLevel,
    Security,
    SecurityChanged,
    SecurityRequest,
    SetChange,
    Taken,
    from_host,
    security_subject,
)
from pileus.network import (
    address_groups,
    agents,
    port_changes,
    ports,
    security_announcer,
    security_groups,
    security_members,
    security_readers,
    security_rules,
    servers,
)
from pileus.network.address_groups import NewAddressGroup
from pileus.network.config import Config, read
from pileus.network.security_groups import NewGroup
from pileus.network.security_rules import NewRule
from pileus.network.service import Network
from pileus.network.tables import agent_beats, set_members
from pileus.network.tables import security_groups as groups_table
from pileus.network.tables import security_readers as readers_table
from pileus.settings import Network as NetworkSettings
from pileus.settings import Settings
from pileus.store.schema import metadata
from pileus.store.sql import Row
from tests.engines.stores import AnyStore
from tests.network.conftest import ALICE, BOB
from tests.network.test_servers import boot, make_network, nic

RATE = 500.0
_numbers = itertools.count(1)


def create(tx: Connection, config: Config, network: Row, server: str, host: str = "h1", **more: Any) -> str:
    """A server's port; its address."""
    return servers.allocate(tx, config, ALICE, boot(server, host), [nic(network, **more)])[0].fixed_ips[0].address


def sweep(tx: Connection, now: float = 1e12) -> list[SetChange]:
    return security_members.sweep(tx, now, RATE) or []


def ask(tx: Connection, host: str, groups: dict[str, int], sets: dict[str, int] | None = None) -> Security:
    """A host's question, and what is written down of it."""
    answer = security_readers.asked(tx, SecurityRequest(host, groups, sets or {}))
    security_readers.register(tx, host, next(_numbers), answer.new, answer.old)
    return answer.security


def reading(tx: Connection, host: str) -> set[str]:
    return {row.subject_id for row in tx.execute(select(readers_table).where(readers_table.c.host == host))} - {""}


def test_a_ports_addresses_are_its_groups_members(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    first, second = create(tx, config, network, "s1"), create(tx, config, network, "s2")
    assert security_members.of_sets(tx, [mine]) == {mine: {first, second}}
    assert sweep(tx) == [SetChange(mine, 1, 2, sorted([first, second]), [])]
    assert sweep(tx) == []
    port_id = servers.ports_of(tx, "s1")[0].port_id
    port_changes.change(tx, config, ALICE, port_id, {"pairs": [{"ip": "10.0.0.200/32", "mac": None}, {"ip": "10.1.7.0/16", "mac": None}]})
    assert sweep(tx) == [SetChange(mine, 2, 3, ["10.0.0.200", "10.1.0.0/16"], [])]
    port_changes.change(tx, config, ALICE, port_id, {"pairs": []})
    servers.release(tx, config, "s2", [])
    assert sweep(tx) == [SetChange(mine, 3, 4, [], sorted(["10.0.0.200", "10.1.0.0/16", second]))]
    port_changes.change(tx, config, ALICE, port_id, {"security_groups": []})
    assert sweep(tx) == [SetChange(mine, 4, 5, [], [first])]
    assert tx.execute(select(set_members)).all() == []


def test_an_address_that_another_port_has_too_does_not_leave(tx: Connection, config: Config) -> None:
    one, other = make_network(tx, config), make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    assert create(tx, config, one, "s1", fixed_ip="10.0.0.9") == create(tx, config, other, "s2", fixed_ip="10.0.0.9")
    sweep(tx)
    servers.release(tx, config, "s1", [])
    assert sweep(tx) == [SetChange(mine, 2, 3, [], [])]
    servers.release(tx, config, "s2", [])
    assert sweep(tx) == [SetChange(mine, 3, 4, [], ["10.0.0.9"])]


def test_what_comes_back_before_it_was_told_is_told_as_there(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    address = create(tx, config, network, "s1")
    sweep(tx)
    port_id = servers.ports_of(tx, "s1")[0].port_id
    port_changes.change(tx, config, ALICE, port_id, {"security_groups": []})
    port_changes.change(tx, config, ALICE, port_id, {"security_groups": [mine]})
    assert sweep(tx) == [SetChange(mine, 2, 3, [address], [])]


def test_a_port_without_an_address_keeps_its_group_in_use(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    web = security_groups.create_on(tx, config, [NewGroup("p-alice", "web")])[0]
    port = ports.create_on(tx, config, ALICE, [(network["id"], ports.NewPort("p-alice", fixed_ips=[], security_groups=[web["id"]]))])[0]
    assert sweep(tx) == []
    assert security_members.of_sets(tx, [web["id"]]) == {web["id"]: set()}
    with pytest.raises(Conflict, match="in use"):
        security_groups.delete_one(tx, config, ALICE, web["id"])
    ports.delete_one(tx, config, ALICE, port["id"])
    security_groups.delete_one(tx, config, ALICE, web["id"])
    assert tx.execute(select(set_members)).all() == []


def test_the_more_hosts_read_a_group_the_more_is_gathered(tx: Connection, config: Config) -> None:
    """`members_rate` 2: with three readers a group is told of every 1.5 s at most."""
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    for number in range(3):
        create(tx, config, network, f"s{number}", f"h{number}")
        ask(tx, f"h{number}", {mine: -1})
    assert security_members.next_due(tx) == 0.0
    assert security_members.sweep(tx, 100.0, 2.0) != []
    assert security_members.next_due(tx) is None
    create(tx, config, network, "s3")
    assert security_members.next_due(tx) == 101.5
    assert security_members.sweep(tx, 101.4, 2.0) is None
    create(tx, config, network, "s4")
    told = security_members.sweep(tx, 101.5, 2.0)
    assert told is not None and len(told[0].joined) == 2


def test_a_boot_writes_no_row_of_its_group(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    create(tx, config, network, "warm")
    statements: list[str] = []
    event.listen(tx, "before_cursor_execute", lambda *args: statements.append(args[2]))
    create(tx, config, network, "s1")
    servers.release(tx, config, "s1", [])
    named = {"network_security_groups", "network_security_rules", "network_set_members"}
    about = [" ".join(word for word in statement.split() if word in {"SELECT", "INSERT", "UPDATE", *named}) for statement in statements]
    assert [what for what in about if named & set(what.split())] == [
        "SELECT network_security_groups",
        "INSERT network_set_members",
        "UPDATE network_set_members",
    ]


def test_a_host_learns_what_its_own_ports_groups_say(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    web = security_groups.create_on(tx, config, [NewGroup("p-alice", "web")])[0]["id"]
    listed = address_groups.create(tx, NewAddressGroup("p-alice", addresses=["192.0.2.0/24"]))["id"]
    security_rules.create_on(tx, config, ALICE, [NewRule(web, "ingress", remote_address_group_id=listed)])
    security_rules.create_on(tx, config, ALICE, [NewRule(web, "ingress", remote_group_id=mine)])
    address = create(tx, config, network, "s1", "h1", security_groups=(web,))
    other = create(tx, config, network, "s2", "h2")
    answer = ask(tx, "h1", {web: -1})
    assert [(told.group_id, told.version, len(told.rules)) for told in answer.groups] == [(web, 3, 4)]
    sets = {told.set_id: (told.version, told.addresses) for told in answer.sets}
    assert sets == {listed: (1, ["192.0.2.0/24"]), mine: (1, [other])}
    assert reading(tx, "h1") == {web, listed, mine}
    assert ask(tx, "h1", {web: 3}, {listed: 1, mine: 1}) == Security([], [])
    # Not its business: a group that no port there has, and a set that no rule of those names. It is told empty, and never again.
    assert ask(tx, "h1", {web: 3, mine: -1}, {listed: 1, mine: 1, web: -1}) == Security(
        [GroupRules(mine, 0, True, [])], [AddressSet(web, 0, [])]
    )
    assert reading(tx, "h1") == {web, listed, mine}
    assert ask(tx, "h3", {web: -1, mine: 7}, {mine: -1}) == Security(
        [GroupRules(web, 0, True, []), GroupRules(mine, 0, True, [])], [AddressSet(mine, 0, [])]
    )
    assert reading(tx, "h3") == set()
    assert address not in sets[mine][1]


def test_who_asks_for_less_is_told_less(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    create(tx, config, network, "s1", "h1")
    ask(tx, "h1", {mine: -1})
    assert security_readers.readers(tx, [mine]) == {mine: ["h1"]}
    ask(tx, "h1", {})
    assert security_readers.readers(tx, [mine]) == {}
    ask(tx, "h1", {mine: 1}, {mine: 1})
    servers.release(tx, config, "s1", [])  # its last port of the group: from the next question on it is none of its business
    ask(tx, "h1", {mine: 1}, {mine: 1})
    assert reading(tx, "h1") == set()


def test_a_late_question_ends_nothing_that_a_later_one_began(tx: Connection, config: Config) -> None:
    """Nor what an earlier one had begun, and the later one went on with."""
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    create(tx, config, network, "s1", "h1")
    ask(tx, "h1", {mine: -1})
    late, number = security_readers.asked(tx, SecurityRequest("h1", {}, {})), next(_numbers)
    assert late.old == {mine}
    ask(tx, "h1", {mine: 1}, {mine: 1})
    security_readers.register(tx, "h1", number, late.new, late.old)
    assert security_readers.readers(tx, [mine]) == {mine: ["h1"]}
    security_readers.register(tx, "h1", next(_numbers), late.new, late.old)
    assert security_readers.readers(tx, [mine]) == {}


def test_a_host_learns_which_of_its_ports_have_other_groups(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    for host in ("h1", "h2"):
        create(tx, config, network, f"on-{host}", host)
    here, there = (servers.ports_of(tx, f"on-{host}")[0].port_id for host in ("h1", "h2"))

    def others(said: list[str] | None) -> list[str]:
        return security_readers.asked(tx, SecurityRequest("h1", {}, {}, {here: said, there: ["x"], "gone": ["x"]})).security.ports

    assert others([mine]) == others([mine, mine]) == []
    assert others([]) == others(["x"]) == others([mine, "x"]) == others(None) == [here]  # of another host's port it is told nothing
    port_changes.change(tx, config, ALICE, here, {"security_groups": []})
    assert (others([]), others([mine]), others(None)) == ([], [here], [here])
    port_changes.change(tx, config, ALICE, here, {"port_security": False})
    assert (others(None), others([])) == ([], [here])


def test_dead_hosts_are_forgotten(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    mine = security_groups.default(tx, config, "p-alice")
    for host in ("h1", "h2"):
        create(tx, config, network, f"on-{host}", host)
        ask(tx, host, {mine: -1})
    tx.execute(readers_table.update().values(asked_at=1.0))
    now = time.time()
    for host, at in (("h1", now), ("h2", now - 999)):
        tx.execute(agent_beats.insert().values(host=host, heartbeat_at=at, started_at=1.0, mark=1))
    security_readers.forget_dead(tx, 75.0)
    assert security_readers.readers(tx, [mine]) == {mine: ["h1", "h2"]}  # nobody could have heard them
    tx.execute(agent_beats.insert().values(host=agents.EARS, heartbeat_at=now, started_at=now - 500, mark=0))
    security_readers.forget_dead(tx, 75.0)
    assert security_readers.readers(tx, [mine]) == {mine: ["h1"]}


def test_groups_of_servers_by_name(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    web, slow = (
        row["id"] for row in security_groups.create_on(tx, config, [NewGroup("p-alice", "web"), NewGroup("p-alice", "s", "", False)])
    )
    mine = security_groups.default(tx, config, "p-alice")
    his = security_groups.default(tx, config, "p-bob")

    def checked(*names: str) -> tuple[str, ...]:
        return servers.check(tx, config, ALICE, [nic(network)], 1, names).nics[0].security_groups

    assert (checked(), checked("default"), checked("web", web), checked("default", web)) == ((), (), (web,), (mine, web))
    for names, error in ((("nothing",), NotFound), ((his,), NotFound), (("web", "s"), Conflict)):
        with pytest.raises(error):
            checked(*names)
    security_groups.create_on(tx, config, [NewGroup("p-alice", "web")])
    with pytest.raises(Conflict, match="Multiple security groups found matching 'web'") as several:
        checked("web")
    assert several.value.kind == "NoUniqueMatch"
    open_network = make_network(tx, config, port_security=False)
    with pytest.raises(BadRequest, match="port_security_enabled"):
        servers.check(tx, config, ALICE, [nic(open_network)], 1, [web])
    create(tx, config, network, "s1", security_groups=(web,))
    given_port = ports.create_on(tx, config, ALICE, [(network["id"], ports.NewPort("p-alice", security_groups=[slow]))])[0]
    [kept] = servers.check(tx, config, ALICE, [RequestedNic(port_id=given_port["id"])], 1, ["s"]).nics
    assert kept.security_groups == ()
    wired = servers.allocate(tx, config, ALICE, boot("s2"), [kept])
    assert wired[0].security_groups == [slow]
    assert [port.security_groups for port in servers.allocate(tx, config, BOB, boot("s3"), [nic(make_network(tx, config, BOB))])] == [[his]]


class Ear:
    """A host as it takes what it is told of one set: what it knows, and whether it must ask."""

    def __init__(self) -> None:
        self.version, self.addresses, self.must_ask = -1, set[str](), True

    def hear(self, change: SetChange) -> None:
        if change.version > self.version and not self.must_ask:
            self.addresses = self.addresses - set(change.left) | set(change.joined)
            self.must_ask = change.before != self.version
            self.version = change.version


PORTS = st.sampled_from(["p1", "p2", "p3"])
ADDRESSES = st.sets(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), PORTS, ADDRESSES, st.booleans()),
        st.tuples(st.just("delete"), PORTS),
        st.tuples(st.just("sweep"), st.sampled_from(["told", "lost", "twice"])),
        st.tuples(st.just("ask")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_a_host_comes_to_know_the_truth(steps: list[Any]) -> None:
    """Ports come, change and go; words are lost and doubled; the host asks now and then. What it takes to be true without a reason to
    ask is what stood at the last sweep."""
    engine = create_engine("sqlite://")
    tables = [table for name, table in metadata.tables.items() if name.startswith("network_")]
    with engine.begin() as tx:
        metadata.create_all(tx, tables=tables)
        config = read(Settings(), notify=False)
        group = security_groups.default(tx, config, "p")
        there: dict[str, Row] = {}
        ear = Ear()

        def truth() -> set[str]:
            return {str(address["ip"]) for port in there.values() if port["security_groups"] for address in port["fixed_ips"]}

        def asks() -> None:
            ear.version = tx.execute(select(groups_table.c.members_version)).scalar_one()
            ear.addresses, ear.must_ask = security_members.of_sets(tx, [group])[group], False
            assert ear.addresses == truth()

        for step in [*steps, ("sweep", "told")]:
            if step[0] == "set":
                port = {
                    "id": step[1],
                    "fixed_ips": [{"ip": address} for address in sorted(step[2])],
                    "pairs": [],
                    "security_groups": [group] if step[3] else [],
                }
                if step[1] in there:
                    security_members.change(tx, port)
                elif not tx.execute(select(set_members).where(set_members.c.port_id == step[1])).first():
                    security_members.enter(tx, [port])
                else:
                    continue  # a port's id never comes again
                there[step[1]] = port
            elif step[0] == "delete" and step[1] in there:
                security_members.leave(tx, [there.pop(step[1])])
            elif step[0] == "ask":
                asks()
            elif step[0] == "sweep":
                for change in sweep(tx):
                    for _ in range({"told": 1, "lost": 0, "twice": 2}[step[1]]):
                        ear.hear(change)
        if ear.must_ask or ear.version != tx.execute(select(groups_table.c.members_version)).scalar_one():
            asks()
        assert ear.addresses == truth()
    engine.dispose()


class Listener:
    """A host's ear on the bus."""

    def __init__(self, bus: InProcessBus, host: str) -> None:
        self.heard: list[SecurityChanged] = []
        bus.subscribe(security_subject(host), SecurityChanged, self._hear)

    async def _hear(self, message: SecurityChanged) -> None:
        self.heard.append(message)

    def joined(self) -> set[str]:
        return {address for message in self.heard for change in message.sets for address in change.joined}


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


@pytest.fixture(params=[0.1])
async def service(
    store: AnyStore, bus: InProcessBus, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Network]:
    monkeypatch.setattr(security_announcer, "IDLE", request.param)
    made = Network(store, bus, Settings(network=NetworkSettings(members_gather=0.02)), notify=False)
    await made.start()
    yield made
    await made.close()
    await bus.close()


async def allocate(service: Network, network_id: str, server: str, host: str) -> str:
    wanted = [RequestedNic(network_id=network_id)]
    made = await service.client.allocate(ALICE, server, wanted, host=host, key="k", hostname="x", zone="nova")
    return made[0].port_id


async def asks(bus: InProcessBus, host: str, groups: dict[str, int], sets: dict[str, int] | None = None) -> Security:
    return await bus.request(from_host(host, SECURITY), SecurityRequest(host, groups, sets or {}), Security, timeout=5)


@pytest.mark.parametrize("service", [60.0], indirect=True)
async def test_readers_are_told_as_soon_as_a_port_is_wired(service: Network, bus: InProcessBus) -> None:
    network_id = (await service.store.write(lambda tx: make_network(tx, service.config)))["id"]
    mine = await service.store.write(security_groups.default, service.config, "p-alice")
    await allocate(service, network_id, "s1", "h1")
    reader = Listener(bus, "h1")
    assert [told.group_id for told in (await asks(bus, "h1", {mine: -1})).groups] == [mine]
    port_id = await allocate(service, network_id, "s2", "h2")
    level = PortLevel(port_id, "h2", 1, "wired")
    await bus.request(from_host("h2", LEVELS), DeviceLevels("h2", [level]), Taken, timeout=5)
    second = (await service.client.addresses(["s2"]))["s2"][0].address
    await until(lambda: second in reader.joined())


async def test_readers_are_told_of_who_leaves_and_of_rules(service: Network, bus: InProcessBus) -> None:
    network_id = (await service.store.write(lambda tx: make_network(tx, service.config)))["id"]
    mine = await service.store.write(security_groups.default, service.config, "p-alice")
    for server, host in (("s1", "h1"), ("s2", "h2")):
        await allocate(service, network_id, server, host)
    reader, stranger = Listener(bus, "h1"), Listener(bus, "h9")
    await asks(bus, "h1", {mine: -1})
    second = (await service.client.addresses(["s2"]))["s2"][0].address
    await service.client.release("s2", keep=[])
    await until(lambda: any(second in change.left for message in reader.heard for change in message.sets))
    new = NewRule(mine, "ingress", protocol="tcp")
    await service.store.write(lambda tx: security_rules.create_on(tx, service.config, ALICE, [new]))
    await service.tell_rules([mine])
    await until(lambda: any(message.groups for message in reader.heard))
    (told,) = [group for message in reader.heard for group in message.groups]
    assert (told.group_id, told.version, len(told.rules)) == (mine, 2, 5)
    assert stranger.heard == []


async def test_an_address_group_is_told_to_those_whose_rules_name_it(service: Network, bus: InProcessBus) -> None:
    network_id = (await service.store.write(lambda tx: make_network(tx, service.config)))["id"]
    mine = await service.store.write(security_groups.default, service.config, "p-alice")
    listed = (await service.store.write(address_groups.create, NewAddressGroup("p-alice")))["id"]
    new = NewRule(mine, "ingress", remote_address_group_id=listed)
    await service.store.write(lambda tx: security_rules.create_on(tx, service.config, ALICE, [new]))
    await allocate(service, network_id, "s1", "h1")
    reader = Listener(bus, "h1")
    await asks(bus, "h1", {mine: -1})
    _, change = await service.store.write(address_groups.add, ALICE, listed, ["192.0.2.0/24"])
    await service.tell_set(change)
    await until(lambda: any(SetChange(listed, 1, 2, ["192.0.2.0/24"], []) in message.sets for message in reader.heard))


async def test_a_storm_in_a_group_that_many_hosts_read_is_few_messages(service: Network, bus: InProcessBus) -> None:
    """30 servers come on 30 hosts, all of one group: told one by one they would be 900 messages."""
    network_id = (await service.store.write(lambda tx: make_network(tx, service.config)))["id"]
    mine = await service.store.write(security_groups.default, service.config, "p-alice")
    names = [f"h{number}" for number in range(30)]
    ears = {name: Listener(bus, name) for name in names}
    known: dict[str, set[str]] = {}

    async def come(name: str) -> None:
        await allocate(service, network_id, name, name)
        answer = await asks(bus, name, {mine: -1})
        known[name] = {address for told in answer.sets for address in told.addresses}

    await asyncio.gather(*map(come, names))
    everybody = {found[0].address for found in (await service.client.addresses(names)).values()}
    await until(lambda: all(known[name] | ears[name].joined() == everybody for name in names))
    assert sum(len(ear.heard) for ear in ears.values()) <= 30 * 12  # a few turns of gathering, on a machine however slow


async def test_a_host_cannot_ask_for_another(service: Network, bus: InProcessBus) -> None:
    with pytest.raises(BusError):
        await bus.request(from_host("h1", SECURITY), SecurityRequest("h2", {}, {}), Security, timeout=1)
