"""Many writers at once on PostgreSQL: no address twice, none lost, counters exact, and nobody waits in a circle."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import func, select, text

from pileus.clients.network import RequestedNic
from pileus.errors import PileusError
from pileus.messages import PortLevel
from pileus.network import addresses, levels, networks, port_changes, ports, quotas, servers, subnets
from pileus.network.config import Config, read
from pileus.network.fixed_ips import WantedIP, parse_address
from pileus.network.tables import allocations, free, quota_usage
from pileus.network.tables import networks as networks_table
from pileus.network.tables import ports as ports_table
from pileus.network.tables import subnets as subnets_table
from pileus.settings import Database, Quota, Settings
from pileus.settings import Network as NetworkSettings
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore
from pileus.store.sql import Row, rows
from tests.engines.postgresql import PostgresServer
from tests.network.conftest import ALICE

WRITERS = 16
CONFIG = read(Settings(network=NetworkSettings(default_type="local"), quota=Quota(port=-1)), notify=True)


@pytest.fixture
async def crowd(postgres: PostgresServer) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(Database(url=await postgres.fresh(), max_pool_size=WRITERS, pool_timeout=100), role="test")
    yield store
    await store.close()


def made(tx: Tx, config: Config, cidr: str) -> tuple[str, str]:
    network = networks.create(tx, config, networks.NewNetwork("p-alice"))
    subnet = subnets.create(tx, config, ALICE, subnets.NewSubnet(network["id"], cidr, 4, "p-alice"))
    return network["id"], subnet["id"]


def port_on(tx: Tx, network_id: str, wanted: list[WantedIP] | None = None) -> Row:
    return ports.create_on(tx, CONFIG, ALICE, [(network_id, ports.NewPort("p-alice", fixed_ips=wanted))])[0]


def check(tx: Tx) -> None:
    """What is free and what is given are the pools, each address once; the counters are what they count."""
    given: dict[str, set[int]] = {}
    pooled: dict[str, set[int]] = {}
    for row in rows(tx, select(allocations)):
        given.setdefault(row["subnet_id"], set()).add(int(row["address"], 16))
    for subnet in rows(tx, select(subnets_table)):
        pooled[subnet["id"]] = {
            address for first, last in subnet["pools"] for address in range(int(parse_address(first)), int(parse_address(last)) + 1)
        }
    left: Counter[tuple[str, int]] = Counter()
    for row in rows(tx, select(free)):
        left.update((row["subnet_id"], at) for at in range(int(row["first"], 16) + row["taken"], int(row["last"], 16) + 1))
    assert set(left.values()) <= {1}
    for subnet_id, pool in pooled.items():
        assert {at for of, at in left if of == subnet_id} == pool - given.get(subnet_id, set())
    for table, resource in ((ports_table, "port"), (subnets_table, "subnet"), (networks_table, "network")):
        counted = {
            row.project_id: row.used for row in tx.execute(select(quota_usage).where(quota_usage.c.resource == resource)) if row.used
        }
        real: dict[Any, Any] = dict(tx.execute(select(table.c.project_id, func.count()).group_by(table.c.project_id)).all())
        assert counted == real, resource
    bound: dict[Any, Any] = dict(
        tx.execute(select(ports_table.c.network_id, func.count()).where(ports_table.c.host != "").group_by("network_id")).all()
    )
    for row in rows(tx, select(networks_table)):
        assert row["bound"] == bound.get(row["id"], 0)


async def test_a_subnet_is_given_to_its_last_address_and_no_further(crowd: PostgresStore) -> None:
    """A /25 has 125 addresses for 160 who ask at once: 124 after the DHCP port's."""
    network_id, _ = await crowd.write(made, CONFIG, "10.0.0.0/25")
    outcomes = await asyncio.gather(*[crowd.write(port_on, network_id) for _ in range(160)], return_exceptions=True)
    won = [outcome["fixed_ips"][0]["ip"] for outcome in outcomes if isinstance(outcome, dict)]
    assert len(won) == len(set(won)) == 124
    assert {str(getattr(outcome, "kind", outcome)) for outcome in outcomes if not isinstance(outcome, dict)} == {
        "IpAddressGenerationFailure"
    }
    await crowd.read(check)


async def test_giving_is_as_quick_on_a_full_subnet(crowd: PostgresStore) -> None:
    """100 ports at once on an empty /16, and on one that is filled to nine tenths: about the same time."""
    times = []
    for fill in (0, 58_000):
        network_id, subnet_id = await crowd.write(made, CONFIG, "10.0.0.0/16")

        def filled(tx: Tx, fill: int = fill, network_id: str = network_id, subnet_id: str = subnet_id) -> None:
            one = tx.execute(select(ports_table.c.id).where(ports_table.c.network_id == network_id)).scalar_one()
            many = "select :subnet, lpad(to_hex(167772160 + i), 8, '0'), 'x' || i, :port, 0, true from generate_series(3, :fill) i"
            into = "insert into network_allocations (subnet_id, address, ip, port_id, position, pooled) "
            tx.execute(text(into + many), {"subnet": subnet_id, "port": one, "fill": fill})
            addresses.set_pools(tx, subnet_id, [("0a000002", "0a00fffe")])

        await crowd.write(filled)
        start = time.perf_counter()
        await asyncio.gather(*[crowd.write(port_on, network_id) for _ in range(100)])
        times.append(time.perf_counter() - start)
    print(f"100 ports at once: {times[0]:.2f} s, on a subnet that is nine tenths full {times[1]:.2f} s")
    assert times[1] < 3 * times[0] + 1


async def test_whatever_is_done_at_once_nobody_waits_in_a_circle(crowd: PostgresStore, postgres: PostgresServer) -> None:
    seen = len(postgres.log)
    chance = random.Random(11)
    nets = sorted([await crowd.write(made, CONFIG, f"10.{i}.0.0/26") for i in range(3)])
    wired: dict[str, list[str]] = {}

    async def boot(i: int) -> None:
        nics = [RequestedNic(network_id=chance.choice(nets)[0]) for _ in range(chance.choice((1, 1, 3)))]
        found = await crowd.write(servers.allocate, CONFIG, ALICE, servers.Boot(f"s{i}", "h1", "k", "name", "nova"), nics)
        wired[f"s{i}"] = [port.port_id for port in found]

    async def end(i: int) -> None:
        await crowd.write(servers.release, CONFIG, f"s{chance.randrange(i + 1)}", [])

    async def say(_: int) -> None:
        some = [port_id for server in chance.sample(sorted(wired), min(4, len(wired))) for port_id in wired[server]]
        chance.shuffle(some)
        said = [PortLevel(port_id, "h1", 1, chance.choice(("plugged", "wired", "failed"))) for port_id in some]
        await crowd.write(levels.take, CONFIG, said)

    async def named(_: int) -> None:
        network_id, _subnet = chance.choice(nets)
        wanted = [WantedIP(None, parse_address(f"10.{i}.0.{chance.randrange(3, 60)}")) for i in range(3)]
        port = await crowd.write(port_on, network_id, [one for one in wanted if chance.random() < 0.5] or None)
        if chance.random() < 0.7:
            await crowd.write(port_changes.change, CONFIG, ALICE, port["id"], {"fixed_ips": [WantedIP(port["fixed_ips"][0]["subnet_id"])]})
        await crowd.write(ports.delete_one, CONFIG, ALICE, port["id"])

    async def pools(i: int) -> None:
        at = nets.index(which := chance.choice(nets))
        base = (await crowd.read(rows, select(subnets_table.c.cidr).where(subnets_table.c.id == which[1])))[0]["cidr"].rpartition(".")[0]
        changes = {"pools": [(parse_address(f"{base}.{chance.randrange(2, 20)}"), parse_address(f"{base}.{chance.randrange(30, 60)}"))]}
        await crowd.write(subnets.change, CONFIG, ALICE, which[1], changes if (i + at) % 2 else {"enable_dhcp": chance.random() < 0.5})

    async def another(i: int) -> None:
        network_id, _ = chance.choice(nets)
        subnet = await crowd.write(subnets.create, CONFIG, ALICE, subnets.NewSubnet(network_id, f"10.9.{i % 5}.0/28", 4, "p-alice"))
        with contextlib.suppress(PileusError):
            await crowd.write(subnets.delete_one, CONFIG, ALICE, subnet["id"])

    async def whole(i: int) -> None:
        network_id, _ = await crowd.write(made, CONFIG, f"10.77.{i % 200}.0/28")
        await asyncio.gather(
            crowd.write(port_on, network_id), crowd.write(networks.delete_one, CONFIG, ALICE, network_id), return_exceptions=True
        )

    async def limits(_: int) -> None:
        await crowd.write(quotas.set_limits, "p-alice", {"port": chance.choice((-1, 60, 500))})

    async def tried(i: int) -> None:
        what = chance.choice((boot, boot, boot, end, end, say, say, named, named, pools, another, whole, limits))
        try:
            await what(i)
        except PileusError as error:
            refused[type(error).__name__] += 1
            assert error.status < 500, error

    refused: Counter[str] = Counter()
    await asyncio.gather(*[tried(i) for i in range(400)])
    await crowd.read(check)
    said = postgres.log[seen:]
    assert "deadlock" not in said, said[said.index("deadlock") :][:3000]
    assert "ERROR" not in said.replace("ERROR:  could not serialize", ""), said[-3000:]
    print(refused)
