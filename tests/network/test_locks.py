"""Ports, groups, bindings, sweeps and notifiers at once on PostgreSQL: locks are taken in one order (`pileus/network/ports.py`)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from sqlalchemy import select, text

from pileus.clients.network import RequestedNic
from pileus.errors import PileusError
from pileus.messages import PortLevel
from pileus.network import (
    levels,
    members,
    outbox,
    port_changes,
    security_groups,
    security_members,
    security_readers,
    security_rules,
    server_groups,
    servers,
    visible,
)
from pileus.network.config import read
from pileus.network.fixed_ips import WantedIP, parse_address
from pileus.network.tables import members as members_table
from pileus.network.tables import ports as ports_table
from pileus.network.tables import set_members
from pileus.settings import Network as NetworkSettings
from pileus.settings import Quota, Settings
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore
from pileus.store.sql import rows
from tests.network.conftest import ALICE
from tests.network.test_storm import WRITERS, crowd, made

__all__ = ["crowd"]

NO_QUOTA = Quota(port=-1, security_group=-1, security_group_rule=-1)
CONFIG = read(Settings(network=NetworkSettings(default_type="geneve"), quota=NO_QUOTA), notify=True)
HOSTS = ("h1", "h2", "h3")
TURNS = 15
"""Of each of the writers."""


class Storm:
    """What is done at random, again and again, by many at once."""

    def __init__(self, store: PostgresStore, nets: list[str], groups: list[str]) -> None:
        self.store, self.nets, self.groups = store, nets, groups
        self.chance = random.Random(4)
        self.servers = [f"s{i}" for i in range(8)]
        self.wired: dict[str, list[tuple[str, str, int]]] = {}

    async def boot(self) -> None:
        """Made anew, or bound anew elsewhere: several ports of several networks."""
        server, host = self.chance.choice(self.servers), self.chance.choice(HOSTS)
        nics = [RequestedNic(network_id=net) for net in self.chance.sample(self.nets, 3)]
        boot = servers.Boot(server, host, str(self.chance.random()), "name", "nova")
        found = await self.store.write(servers.allocate, CONFIG, ALICE, boot, nics)
        self.wired[server] = [(port.port_id, host, port.generation) for port in found]

    async def end(self) -> None:
        server = self.chance.choice(self.servers)
        keep = [port_id for port_id, _, _ in self.wired.get(server, ()) if self.chance.random() < 0.2]
        await self.store.write(servers.release, CONFIG, server, keep)

    async def unbind(self) -> None:
        await self.store.write(servers.unbind, CONFIG, self.chance.choice(self.servers))

    async def say(self) -> None:
        some = [port for found in self.wired.values() for port in found if self.chance.random() < 0.5]
        said = [PortLevel(port_id, host, at, self.chance.choice(("plugged", "wired", "failed"))) for port_id, host, at in some]
        await self.store.write(levels.take, CONFIG, said)

    async def give(self) -> None:
        what = self.chance.choice((server_groups.add, server_groups.remove))
        await self.store.write(what, CONFIG, ALICE, self.chance.choice(self.servers), self.chance.choice(self.groups))

    async def change(self) -> None:
        port_id = self.chance.choice([port_id for found in self.wired.values() for port_id, _, _ in found])
        of = self.chance.sample(self.groups, 2)
        changes: dict[str, object] = {"security_groups": of}
        if self.chance.random() < 0.3:
            changes |= {"host": "", "fixed_ips": [WantedIP(None, parse_address(f"10.0.0.{self.chance.randrange(10, 60)}"))]}
        await self.store.write(port_changes.change, CONFIG, ALICE, port_id, changes)

    async def sweep(self) -> None:
        await self.store.write(security_members.sweep, time.time(), 1e9)

    async def sweep_hosts(self) -> None:
        await self.store.write(members.sweep)

    async def move(self) -> None:
        await self.store.write(members.moved, self.chance.choice(HOSTS), f"192.0.2.{self.chance.randrange(250)}")

    async def notify(self) -> None:
        now = time.time()
        due = await self.store.write(outbox.take, now, now + 0.01, 20)
        await self.store.write(outbox.settle, due[::2], [(row, now) for row in due[1::2]])

    async def rule(self) -> None:
        of, other = self.chance.sample(self.groups, 2)
        rule = security_rules.NewRule(
            of, "ingress", protocol="tcp", port_min=1, port_max=self.chance.randrange(2, 99), remote_group_id=other
        )
        [row] = await self.store.write(security_rules.create_on, CONFIG, ALICE, [rule])
        if self.chance.random() < 0.5:
            await self.store.write(security_rules.delete_one, CONFIG, ALICE, row["id"])

    async def group(self) -> None:
        [new] = await self.store.write(security_groups.create_on, CONFIG, [security_groups.NewGroup("p-alice", "new")])
        rule = security_rules.NewRule(self.chance.choice(self.groups), "ingress", remote_group_id=new["id"])
        await self.store.write(security_rules.create_on, CONFIG, ALICE, [rule])
        port = self.chance.choice([port_id for found in self.wired.values() for port_id, _, _ in found])
        await asyncio.gather(
            self.store.write(port_changes.change, CONFIG, ALICE, port, {"security_groups": [new["id"], self.groups[0]]}),
            self.store.write(security_groups.delete_one, CONFIG, ALICE, new["id"]),
            return_exceptions=True,
        )

    async def read(self) -> None:
        some = self.chance.sample(self.groups, 3)
        await self.store.write(security_readers.register, self.chance.choice(HOSTS), time.time(), some[:2], some[2:])
        if self.chance.random() < 0.3:
            await self.store.write(security_readers.forget_dead, 0.0)

    async def turns(self, many: int) -> Counter[str]:
        often: list[Callable[[], Awaitable[None]]] = [self.boot, self.give, self.change, self.sweep, self.notify, self.say]
        seldom: list[Callable[[], Awaitable[None]]] = [self.end, self.unbind, self.sweep_hosts, self.move, self.rule, self.group, self.read]
        refused: Counter[str] = Counter()
        for _ in range(many):
            try:
                await self.chance.choice(2 * often + seldom)()
            except PileusError as error:
                assert error.status < 500, error
                refused[str(error.kind)] += 1
        return refused


def is_as_ports_say(tx: Tx) -> None:
    """Groups have the addresses of their ports and no others, and hosts are members of the networks that have ports there."""
    found = visible.with_addresses(tx, rows(tx, select(ports_table)))
    there = {(row["set_id"], row["address"], row["port_id"]) for row in rows(tx, select(set_members)) if not row["gone"]}
    assert there == {(*member, port["id"]) for port in found for member in security_members.of_port(port)}
    bound = Counter((port["network_id"], port["host"]) for port in found if port["host"])
    assert {(row["network_id"], row["host"]): row["ports"] for row in rows(tx, select(members_table)) if row["ports"]} == bound


async def test_nobody_waits_in_a_circle(crowd: PostgresStore) -> None:
    """Before its steps were in one order this had 17 deadlocks."""
    nets = [(await crowd.write(made, CONFIG, f"10.{i}.0.0/24"))[0] for i in range(3)]
    groups = await crowd.write(security_groups.create_on, CONFIG, [security_groups.NewGroup("p-alice", f"g{i}") for i in range(5)])
    storm = Storm(crowd, nets, [group["id"] for group in groups])
    for _ in range(8):
        await storm.boot()
    refused = await asyncio.gather(*[storm.turns(TURNS) for _ in range(WRITERS)])
    print(sum(refused, Counter()))
    await crowd.read(is_as_ports_say)
    assert await crowd.read(deadlocks) == 0


def deadlocks(tx: Tx) -> int:
    return int(tx.execute(text("select deadlocks from pg_stat_database where datname = current_database()")).scalar_one())
