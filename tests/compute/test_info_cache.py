"""The network info cache: who fills it, who reads it, and that it comes to say what is, in whatever order things happen."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, bindparam, select, update

from pileus.clients.network import ServerAddress
from pileus.compute import info_cache
from pileus.compute.info_cache import Read
from pileus.compute.tables import servers
from pileus.context import SYSTEM
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import FixedIP, PortWiring
from pileus.network import port_changes
from pileus.network.fixed_ips import WantedIP, parse_address
from pileus.settings import Compute as Settings
from pileus.store.sql import Row, first
from tests.boot import cloudlet as boot
from tests.boot.cloudlet import USER, Cloudlet, cloudlet
from tests.compute import parts
from tests.compute.api.conftest import Api, api, compute
from tests.engines.stores import memory

__all__ = ["api", "compute"]

LATER, PAST = 4e9, 1.0
"""A lease that ends long after the test, and one that is over."""
HEAL_ALL = Settings(heal_scope="all", heal_instance_info_cache_interval=100.0)


def add(tx: Connection, server_id: str, **values: Any) -> None:
    """A server that runs on a host."""
    row: dict[str, Any] = {
        "id": server_id,
        "project_id": "p",
        "user_id": "u",
        "name": server_id,
        "hostname": server_id,
        "reservation_id": "r",
        "flavor": {},
        "nics": [],
        "host": "h1",
        "vm_state": "active",
        "power": "running",
        "created_at": 1.0,
        "updated_at": 1.0,
        "heal_at": 4e9,
    }
    tx.execute(servers.insert(), row | values)


def get(tx: Connection, server_id: str) -> Row:
    found = first(tx, select(servers).where(servers.c.id == server_id))
    assert found is not None
    return found


def address(version: int) -> ServerAddress:
    return ServerAddress("lan", f"10.0.{version // 250}.{version % 250}", 4, "fa:16:3e:00:00:01", "port")


def wiring(version: int) -> PortWiring:
    one = address(version)
    ips = [FixedIP("subnet", one.address)]
    return PortWiring("port", 1, "net", "geneve", None, 1, 1400, one.mac, ips, [], network_name=one.network_name)


def boots(tx: Connection, loaded: Row, ports_found: list[PortWiring]) -> None:
    """What a boot writes, in the way that `outcomes.sent` does."""
    statement = update(servers).where(servers.c.id == bindparam("this")).values(info_cache.BOOTED)
    tx.execute(statement, {"this": loaded["id"], **info_cache.booted(loaded, ports_found, 4e9)})


def test_a_late_answer_never_overwrites_a_newer_one(tx: Connection) -> None:
    add(tx, "s1")
    assert info_cache.stale(tx, ["s1", "nobody"]) == {"s1": "h1"}
    [slow] = info_cache.begin_due(tx, PAST, 10)
    [quick] = info_cache.begin_due(tx, LATER, 10)
    assert (slow.number, quick.number) == (2, 3)
    info_cache.end(tx, [quick], {"s1": [address(2)]})
    info_cache.end(tx, [slow], {"s1": [address(1)]})
    row = get(tx, "s1")
    assert (info_cache.of(row), row["addresses_known"], row["refresh_at"]) == ([address(2)], 3, None)


def test_what_goes_stale_while_it_is_read_is_read_once_more(tx: Connection) -> None:
    add(tx, "s1")
    info_cache.stale(tx, ["s1"])
    reads = info_cache.begin_due(tx, LATER, 10)
    assert info_cache.begin_due(tx, LATER, 10) == []
    info_cache.stale(tx, ["s1"])
    info_cache.end(tx, reads, {"s1": [address(1)]})
    assert info_cache.of(get(tx, "s1")) == [address(1)]
    [again] = info_cache.begin_due(tx, LATER, 10)
    info_cache.end(tx, [again], {"s1": [address(2)]})
    assert info_cache.of(get(tx, "s1")) == [address(2)]
    assert not info_cache.any_due(tx)


def test_what_is_not_answered_is_read_again_and_servers_that_are_gone_are_not(tx: Connection) -> None:
    all_of_them: dict[str, dict[str, Any]] = {"s1": {}, "s2": {}, "gone": {"deleted_at": 2.0}, "nowhere": {"host": None}}
    for name, values in all_of_them.items():
        add(tx, name, **values)
    assert info_cache.stale(tx, ["s1", "s2", "gone", "nowhere"]) == {"s1": "h1", "s2": "h1", "nowhere": None}
    reads = info_cache.begin_due(tx, LATER, 10)
    assert {read.server_id for read in reads} == {"s1", "s2"}
    tx.execute(update(servers).where(servers.c.id == "s2").values(deleted_at=2.0))
    info_cache.put_off(tx, reads, PAST)
    assert [read.server_id for read in info_cache.begin_due(tx, LATER, 10)] == ["s1"]
    info_cache.end(tx, [Read("s2", 9, LATER)], {"s2": [address(1)]})
    assert get(tx, "s2")["addresses"] is None


def test_a_boot_writes_what_it_was_given_unless_somebody_asked_meanwhile(tx: Connection) -> None:
    add(tx, "s1", host=None)
    loaded = get(tx, "s1")
    boots(tx, loaded, [wiring(1)])
    assert info_cache.of(get(tx, "s1")) == [address(1)]
    assert get(tx, "s1")["refresh_at"] is None
    loaded = get(tx, "s1")
    info_cache.stale(tx, ["s1"])
    boots(tx, loaded, [wiring(2)])
    row = get(tx, "s1")
    assert (info_cache.of(row), row["refresh_at"] is not None) == ([address(1)], True)


class World:
    """One server, and what happens to it. Each of the actors does its steps in this order."""

    def __init__(self, tx: Connection, server_id: str) -> None:
        self.tx, self.id, self.truth = tx, server_id, 0
        add(tx, server_id)
        boots(tx, get(tx, server_id), [wiring(0)])
        self.reads: dict[str, list[Read]] = {}
        self.found: dict[str, int] = {}
        self.loaded: Row = {}

    def step(self, actor: str, number: int) -> None:
        if actor == "change":
            self.truth += 1
            info_cache.stale(self.tx, [self.id])
        elif actor == "boot":
            [self._load, lambda: self._ask("boot"), self._boots][number]()
        else:
            [lambda: self._begin(actor), lambda: self._ask(actor), lambda: self._end(actor)][number]()

    def is_right_in_the_end(self) -> bool:
        while reads := info_cache.begin_due(self.tx, PAST, 10):
            info_cache.end(self.tx, reads, {self.id: [address(self.truth)]})
        return info_cache.of(get(self.tx, self.id)) == [address(self.truth)]

    def _load(self) -> None:
        self.loaded = get(self.tx, self.id)

    def _boots(self) -> None:
        boots(self.tx, self.loaded, [wiring(self.found["boot"])])

    def _ask(self, actor: str) -> None:
        self.found[actor] = self.truth

    def _begin(self, actor: str) -> None:
        """The first reader is so slow that others begin anew what he reads."""
        self.reads[actor] = info_cache.begin_due(self.tx, PAST if actor == "slow" else LATER, 10)

    def _end(self, actor: str) -> None:
        info_cache.end(self.tx, self.reads[actor], {self.id: [address(self.found[actor])]})


@pytest.mark.parametrize("actors", ["slow slow slow quick quick quick change change", "boot boot boot quick quick quick change change"])
def test_every_order_ends_with_what_is(actors: str) -> None:
    with memory() as tx:
        for number, order in enumerate(sorted(set(itertools.permutations(actors.split())))):
            world = World(tx, f"s{number}")
            done: Counter[str] = Counter()
            for actor in order:
                world.step(actor, done[actor])
                done[actor] += 1
            assert world.is_right_in_the_end(), order


class Cache(RuleBasedStateMachine):
    """One server whose network changes, with events that may be lost, readers that are slow or die, and boots that ask themselves.
    When all is quiet, everything that was told is known; and what was not is, once it was healed."""

    def __init__(self) -> None:
        super().__init__()
        self.tx = memory()
        add(self.tx, "s")
        self.truth = 0
        self.unread: list[Read] = []
        self.answered: list[tuple[Read, int]] = []
        self.booting: list[tuple[Row, int | None]] = []
        self.lossy = self.lost = False
        boots(self.tx, get(self.tx, "s"), [wiring(0)])

    @initialize(lossy=st.booleans())
    def begins(self, lossy: bool) -> None:
        self.lossy = lossy

    @rule(told=st.booleans())
    def changes(self, told: bool) -> None:
        told = told or not self.lossy
        self.truth += 1
        if told:
            info_cache.stale(self.tx, ["s"])
        self.lost = self.lost or not told

    @rule(dies=st.booleans())
    def begin(self, dies: bool) -> None:
        """`dies`: its time is over at once, so another one begins it, too. (It may yet answer.)"""
        self.unread += info_cache.begin_due(self.tx, PAST if dies else LATER, 10)

    @rule()
    def heal(self) -> None:
        self.tx.execute(update(servers).values(heal_at=0.0))
        self.unread += info_cache.begin_in_turn(self.tx, HEAL_ALL, LATER, 10)

    @precondition(lambda self: self.unread)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        read = self.unread.pop(data.draw(st.integers(0, len(self.unread) - 1)))
        self.answered.append((read, self.truth))

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), lost=st.booleans())
    def end(self, data: st.DataObject, lost: bool) -> None:
        read, found = self.answered.pop(data.draw(st.integers(0, len(self.answered) - 1)))
        if lost:
            info_cache.put_off(self.tx, [read], PAST)
        else:
            info_cache.end(self.tx, [read], {"s": [address(found)]})

    @rule()
    def boot_loads(self) -> None:
        self.booting = [(get(self.tx, "s"), None)]

    @precondition(lambda self: self.booting and self.booting[0][1] is None)
    @rule()
    def boot_asks(self) -> None:
        self.booting = [(self.booting[0][0], self.truth)]

    @precondition(lambda self: self.booting and self.booting[0][1] is not None)
    @rule()
    def boot_writes(self) -> None:
        loaded, found = self.booting.pop()
        assert found is not None
        boots(self.tx, loaded, [wiring(found)])

    @invariant()
    def no_more_is_known_than_was_asked(self) -> None:
        row = get(self.tx, "s")
        assert row["addresses_known"] <= row["addresses_asked"]

    def teardown(self) -> None:
        if self.lost:
            self.tx.execute(update(servers).values(heal_at=0.0, refresh_at=None))  # in one interval the lease of whoever died is over
            self.unread += info_cache.begin_in_turn(self.tx, HEAL_ALL, LATER, 10)
        for read in self.unread:
            self.answered.append((read, self.truth))
        while self.answered:
            read, found = self.answered.pop()
            info_cache.end(self.tx, [read], {"s": [address(found)]})
        for _ in range(3):
            self.tx.execute(update(servers).where(servers.c.refresh_at == LATER).values(refresh_at=PAST))  # its lease is over
            reads = info_cache.begin_due(self.tx, LATER, 10)
            info_cache.end(self.tx, reads, {read.server_id: [address(self.truth)] for read in reads})
        assert info_cache.of(get(self.tx, "s")) == [address(self.truth)]
        assert not info_cache.any_due(self.tx)
        self.tx.close()


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


async def test_shown_without_a_question_to_the_network_service(api: Api, compute: Any) -> None:
    ids = [await api.make(name=f"n{i}") for i in range(3)]
    for server_id in ids:
        await parts.run(compute, server_id)
    given = compute.network.given
    for server_id in ids[:2]:
        row = await compute.store.read(servers_row, server_id)
        await compute.store.write(info_cache.end, [Read(row["id"], 1, LATER)], given)
    given[ids[0]] = []  # what is shown is what is written down
    shown = {one["id"]: one["addresses"] for one in (await api.get("/servers/detail"))["servers"][:3]}
    assert compute.network.lookups == 1  # of the one that nobody has read yet
    assert [list(addresses) for addresses in shown.values()] == [["lan"]] * 3
    for path in (f"/servers/{ids[0]}", f"/servers/{ids[0]}/ips", f"/servers/{ids[0]}/ips/lan", f"/servers/{ids[1]}"):
        await api.get(path)
    assert compute.network.lookups == 1
    assert [one["addr"] for one in (await api.get(f"/servers/{ids[0]}/ips/lan"))["lan"]] == ["10.0.0.5"]
    await api.get(f"/servers/{ids[2]}/ips")
    assert compute.network.lookups == 2


def servers_row(tx: Connection, server_id: str) -> Row:
    return get(tx, server_id)


async def cached(cloud: Cloudlet, server_id: str) -> list[ServerAddress] | None:
    return info_cache.of(await cloud.server(server_id))


async def test_a_boot_fills_it_and_the_end_empties_it(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, boot.settings()) as cloud:
        real, asked = cloud.compute.network.addresses, []

        async def addresses(server_ids: Any) -> Any:
            asked.append(server_ids)
            return await real(server_ids)

        cloud.compute.network.addresses = addresses  # type: ignore[method-assign]
        ids = await cloud.create(count=3)
        for server_id in ids:
            row = await cloud.settled(server_id)
            assert info_cache.of(row) == (await real([server_id]))[server_id]
            assert row["refresh_at"] is None and time.time() < row["heal_at"] <= time.time() + 600
        await cloud.compute.act(USER, ids[0], "delete")
        row = await cloud.settled(ids[0])
        assert (info_cache.of(row), row["addresses_known"], row["addresses_asked"]) == ([], 1, 1)
        for switch in (host.parts.switch for host in cloud.hosts.values()):
            assert isinstance(switch, SimulatedSwitch)
            switch.fail_next("wire", "flow table is full")
        [bad] = await cloud.create()
        assert (await cloud.settled(bad))["vm_state"] == "error"
        assert await cached(cloud, bad) == []
        [bare] = await cloud.create([])
        await cloud.settled(bare)
        assert await cached(cloud, bare) == []
        assert asked == []


@pytest.mark.parametrize("signal", ["local", "callback"])
async def test_a_changed_port_is_told_and_read_by_a_worker(tmp_path: Path, signal: str) -> None:
    async with cloudlet(tmp_path, boot.settings(signal)) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        before = await cached(cloud, server_id)
        assert before is not None
        wanted = [WantedIP(None, parse_address("10.0.1.77")), WantedIP(None, parse_address(before[0].address))]
        await cloud.store.write(port_changes.change, cloud.network.config, SYSTEM, before[0].port_id, {"fixed_ips": wanted})
        await cloud.network.wake()

        async def is_known() -> bool:
            return [one.address for one in await cached(cloud, server_id) or []] == ["10.0.1.77", before[0].address]

        await cloud.until(is_known, 4)  # by the hint: who looks by himself does it after 2.5 s and more
        row = await cloud.server(server_id)
        assert (row["addresses_asked"], row["addresses_known"], row["refresh_at"]) == (2, 2, None)
