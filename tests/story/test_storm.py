"""kill -9 of api, worker, network-rpc and agents in the middle of a storm of callbacks, all settings but the plug signal the default: every
server becomes ACTIVE, none is lost, none is stuck, nothing is left that is nobody's."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.chaos import hollow, real, truth
from tests.chaos.faults import Scene
from tests.chaos.load import Load
from tests.engines.cluster import Cluster
from tests.real.machine import Machine

LIMIT = 90.0
"""Seconds in which all must be ACTIVE and in order: a lease of a worker that was killed is anybody's after 12 s, whatever is lost is said
again within 60."""
DEFAULT = Settings()
HOLLOW = "hollow:8"
COMPUTE, AGENT = "host/compute@h1", "host/network@h1"
ROLES = ("api", "worker", "network-rpc")
SPARED: dict[str, Any] = {"compute.plug_signal": "callback", "log_level": "warning"}

# Servers that are there, and those whose hosts were told and have not said yet that their guests run.
NOW = """SELECT count(*) FILTER (WHERE s.vm_state = 'active'), count(*) FILTER (WHERE s.vm_state = 'building' AND a.stamps::jsonb ? 'sent')
    FROM compute_actions a JOIN compute_servers s ON s.id = a.server_id WHERE a.name = 'create'"""
KNOWN = "SELECT count(DISTINCT provider_id) FROM placement_inventories"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not in pytest's own: Open vSwitch's sockets allow no long path, and guests run as other users."""
    made = Path(tempfile.mkdtemp(prefix="pl-storm-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


class Storm:
    """A cloud, its user, and how many servers this one wants."""

    def __init__(self, cluster: Cluster, load: Load, database: asyncpg.Connection[Any]) -> None:
        self.cluster = cluster
        self.wanted = 0
        self._load = load
        self._database = database

    async def strike(self, name: str, servers: int) -> None:
        """So many more servers, and when the first ones are there and others wait, kill -9 this process; it is started again at once."""
        before, _ = await self._now()
        self.wanted += servers
        await self._load.create_many(servers)
        async with asyncio.timeout(LIMIT):
            while (now := await self._now()) == (before, now[1]) or not now[1]:
                await asyncio.sleep(0.002)
        process = self.cluster.processes[name]
        process.kill()
        process.start()

    async def end(self) -> None:
        """All are ACTIVE, and what is written down is consistent. Raises AssertionError that says what is wrong."""
        found: list[dict[str, Any]] = []
        lies: dict[str, Any] = {}
        try:
            async with asyncio.timeout(LIMIT):
                found = await self._load.settle(LIMIT)
                while lies := await truth.lies(self.cluster.database, DEFAULT.compute.service_down_time):
                    await asyncio.sleep(0.2)
        except TimeoutError as stuck:
            raise AssertionError(f"{stuck} {lies}\n{self._said()}") from None
        lost = [(each["id"], each["status"], each.get("fault", {}).get("message")) for each in found if each["status"] != "ACTIVE"]
        assert (len(found) >= self.wanted, lost) == (True, []), f"{len(found)} of {self.wanted}\n{self._said()}"

    async def _now(self) -> tuple[int, int]:
        """Servers that are ACTIVE, and that wait on their hosts."""
        active, waiting = await self._database.fetchrow(NOW)
        return active, waiting

    def _said(self) -> str:
        logs = sorted(self.cluster.folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs)


async def storm(stack: AsyncExitStack, cluster: Cluster, *hosts: str, known: int = 1) -> Storm:
    """On a cloud that is started now; its hosts last, for what they tell of themselves is told again after 25 s only."""
    await cluster.start()
    for name in hosts:
        cluster.add(name).start()
    load = Load(cluster.url, cluster.password(), random.Random())
    stack.push_async_callback(load.close)
    await load.start()
    database = await asyncpg.connect(cluster.database)
    stack.push_async_callback(database.close)
    async with asyncio.timeout(LIMIT):
        while await database.fetchval(KNOWN) < known:
            await asyncio.sleep(0.02)
    return Storm(cluster, load, database)


async def test_a_storm_of_callbacks_in_which_everybody_is_killed(folder: Path) -> None:
    """On hollow hosts, whose agents are killed with their process."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(folder, SPARED, roles=ROLES)
        stack.push_async_callback(cluster.close)
        it = await storm(stack, cluster, HOLLOW, known=8)
        for name in ("worker", "network-rpc", HOLLOW, "api"):
            await it.strike(name, servers=20)
        await it.end()
        wrong = await hollow.lies(Scene(cluster, {}, 0.0), await truth.told(cluster.database))
        assert not wrong


@pytest.mark.skipif(missing_for_real(DEFAULT) is not None, reason=f"needs real guests: {missing_for_real(DEFAULT)}")
async def test_a_storm_of_callbacks_in_which_the_agent_is_killed(folder: Path) -> None:
    """On a real host, whose agent is a process of its own."""
    async with AsyncExitStack() as stack:
        settings = {**SPARED, "host.hypervisor": "qemu", "host.acceleration": "tcg"}
        cluster = Cluster(folder, settings, roles=ROLES)
        machine = Machine(folder / "host@h1")
        stack.push_async_callback(asyncio.to_thread, real.take_down, cluster, COMPUTE, machine)
        stack.push_async_callback(cluster.close)
        it = await storm(stack, cluster, COMPUTE, AGENT)
        for _ in range(2):
            await it.strike(AGENT, servers=6)
        await it.end()
        wrong = await real.lies(Scene(cluster, {}, 0.0, machines={"h1": machine}), await truth.told(cluster.database))
        assert not wrong
