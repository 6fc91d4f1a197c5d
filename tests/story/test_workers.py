"""Rows 9 and 10 of the story's table: processes that take the agents' RPC, and the database connections of each.

In virtual time, with a database one millisecond away: a transaction holds one of its process's connections for as many round trips as it
executes statements.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate

import asyncpg
import pytest
from sqlalchemy import event

from pileus.bus.inprocess import InProcessBus
from pileus.clients.network import RequestedNic
from pileus.errors import StartupError
from pileus.messages import DETAILS, LEVELS, DeviceDetails, DeviceDetailsRequest, DeviceLevels, PortLevel, PortWiring, Taken, from_host
from pileus.network.service import Network
from pileus.settings import Database, Settings
from pileus.store import P, T
from pileus.store.postgresql import PostgresStore
from tests.boot.cloudlet import Cloudlet
from tests.boot.virtual import InlineStore
from tests.engines.nats import NatsServer
from tests.engines.postgresql import PostgresServer
from tests.network.conftest import ALICE
from tests.network.test_rpc import FakeCompute
from tests.network.test_servers import make_network
from tests.story.stage import PROFILES, chosen, play

ROUND_TRIP = 0.001
PORTS = 120
OURS = 8
"""About so many statements has the same work without Neutron's."""


class Process(InlineStore):
    """What one process sees of the database of `shared`: so many connections, and a way to it."""

    def __init__(self, shared: InlineStore, connections: int) -> None:
        self._engine = shared._engine
        self._shared = shared
        self._free = asyncio.Semaphore(connections)
        self._executed = 0
        event.listen(self._engine, "after_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self._executed += 1

    async def write(self, fn: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        def counted(tx: Any) -> tuple[T, int]:
            before = self._executed
            return fn(tx, *args, **kwargs), self._executed - before

        async with self._free:
            found, statements = await self._shared.write(counted)
            await asyncio.sleep(statements * ROUND_TRIP)
            return found


async def rate(cloud: Cloudlet, settings: Settings) -> float:
    """Ports a second that the processes of these settings bring up, when many come at once."""
    bus, shared = InProcessBus(), cloud.store
    assert isinstance(shared, InlineStore)
    network = settings.network
    servers = [Network(Process(shared, settings.database.max_pool_size), bus, settings, notify=True) for _ in range(network.rpc_workers)]
    for server in servers:
        server.notify_by(FakeCompute())
        await server.start()
    made = await shared.write(lambda tx: make_network(tx, servers[0].config))
    client = Network(shared, bus, settings, notify=False).client
    nic = RequestedNic(network_id=made["id"])
    found = []
    for n in range(PORTS):
        wirings = await client.allocate(ALICE, f"server{n}", [nic], host=f"host{n}", key="k", hostname=f"server{n}", zone="nova")
        found.append((f"host{n}", wirings[0]))
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.gather(*[_up(bus, host, port) for host, port in found])
    took = loop.time() - before
    for server in servers:
        await server.close()
    await bus.close()
    return PORTS / took


async def _up(bus: InProcessBus, host: str, port: PortWiring) -> None:
    """What an agent says of one port."""
    await bus.request(from_host(host, DETAILS), DeviceDetailsRequest(host, [port.port_id]), DeviceDetails, timeout=600)
    level = PortLevel(port.port_id, host, port.generation, "wired")
    await bus.request(from_host(host, LEVELS), DeviceLevels(host, [level]), Taken, timeout=600)


@pytest.mark.parametrize(("workers", "connections"), [(1, 1), (1, 4), (4, 1), (20, 1), (20, 60)])
def test_9_10_ports_a_second_are_workers_times_connections_by_statements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int, connections: int
) -> None:
    """Little's law: with one worker and one connection about 7 ports a second, as Neutron (docs/STORY.md)."""
    settings = chosen("story", {"network.rpc_workers": workers, "database.max_pool_size": connections})
    found = play(monkeypatch, tmp_path, settings, lambda cloud: rate(cloud, settings), hosts=0)
    at_once = min(PORTS, workers * min(connections, settings.network.executor_thread_pool_size))
    predicted = at_once / ((settings.network.rpc_statements + OURS) * ROUND_TRIP)
    assert found == pytest.approx(predicted, rel=0.15)


def test_9_10_by_default_one_process_brings_up_a_storm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = chosen("default")
    assert play(monkeypatch, tmp_path, settings, lambda cloud: rate(cloud, settings), hosts=0) > 500


@pytest.mark.parametrize("profile", PROFILES)
async def test_9_10_more_connections_than_the_database_has_are_refused_in_one_line(postgres: PostgresServer, profile: str) -> None:
    """The story's end, 20 workers with 60 connections each: PostgreSQL's own default is 100 in all."""
    settings = chosen(profile, {"network.rpc_workers": 20, "database.max_pool_size": 60})
    database = Database(url=await postgres.fresh(), max_pool_size=settings.database.max_pool_size)
    with pytest.raises(StartupError) as caught:
        await PostgresStore.open(database, role="network-rpc", processes=settings.network.rpc_workers)
    line = str(caught.value)
    assert "1200 database connections: 20 × 60 here (database.max_pool_size)" in line
    assert "raise max_connections" in line and "\n" not in line


def test_9_10_each_process_of_the_profile_has_one_connection(tmp_path: Path, postgres: PostgresServer) -> None:
    url = asyncio.run(postgres.fresh())
    with NatsServer(tmp_path / "nats") as nats:
        env = {
            "PILEUS_DATABASE__URL": url,
            "PILEUS_BUS__URL": nats.url,
            "PILEUS_API__PUBLIC_URL": "http://127.0.0.1:9",
            "PILEUS_STATE": str(tmp_path),
        }
        words = [sys.executable, "-m", "pileus", "serve", "network-rpc", "--profile", "story", "--workers", "2"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}) as process:
            try:
                assert process.stdout is not None and process.stderr is not None
                said = process.stdout.readline()
                assert said.startswith("Pileus serves network-rpc in 2 processes"), (said, process.stderr.read())
                names = asyncio.run(connected(url))
                assert [name.rpartition(" ")[2] for name in names] == ["pool=1", "pool=1"], names
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        assert process.returncode == 0


async def connected(url: str) -> list[str]:
    """What the connections of network-rpc processes are called."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'pileus network-rpc%'")
        return [row[0] for row in found]
    finally:
        await connection.close()
