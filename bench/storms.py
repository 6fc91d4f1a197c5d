"""A cloud of many processes under load: creates, deletes, and what the database says became of them.

The load generator only sends requests; when a server was asked for, let in, and ACTIVE is read from its action's row afterwards, and
whether all is done from one indexed count four times a second. So it takes little of the two cores that it shares with the cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from bench.client import Client
from bench.wire import Wire
from tests.engines.cluster import Cluster

LIMIT = 900.0
"""Seconds in which any storm must be over."""
POLL = 0.25
AT_ONCE = 1000
"""Most requests under way at the same time."""
UNLIMITED = dict.fromkeys(
    (f"quota.{name}" for name in ("instances", "cores", "ram", "network", "subnet", "port")),
    -1,
)
PATIENT = {"database.pool_timeout": 60}
"""A thousand requests in one moment wait for one another, on two cores for longer than the default; who sends them is patient."""
AS_INSTALLED = {"shared_buffers": "128MB", "max_wal_size": "1GB", "autovacuum_naptime": "1min"}
"""PostgreSQL's own defaults, which the tests' server overrides."""

_OPEN_CREATES = "SELECT count(*) FROM compute_actions WHERE name = 'create' AND finished_at IS NULL"
_OPEN_DELETES = "SELECT count(*) FROM compute_actions WHERE name = 'delete' AND finished_at IS NULL"
_ENDED = "SELECT state, started_at, finished_at, stamps FROM compute_actions WHERE name = $1 AND started_at >= $2 ORDER BY started_at"
_ALIVE = "SELECT id FROM compute_servers WHERE deleted_at IS NULL ORDER BY created_at"
_DELETED = "SELECT count(*) FROM compute_actions WHERE name = 'delete' AND finished_at >= $1 AND finished_at < $2"


@dataclass(frozen=True)
class Boots:
    """What became of some creates. Seconds; `service` from being let in to ACTIVE, `queue` before that, `whole` both."""

    asked: int
    active: int
    began: float
    ended: float
    service: list[float]
    queue: list[float]
    whole: list[float]

    @property
    def success(self) -> float:
        """Percent."""
        return 100.0 * self.active / self.asked

    @property
    def rate(self) -> float:
        """ACTIVE servers a second, from the first request to the last of them."""
        return self.active / (self.ended - self.began)


@dataclass
class Cloud:
    cluster: Cluster
    wire: Wire
    client: Client
    database: asyncpg.Pool[Any]
    network: str
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the set-up, whose cost does not matter. Raises RuntimeError for a refusal."""
        answer = await self.client.request(method, path, body)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body!r}")
        return answer.body

    async def create(self, name: str, *, count: int = 1) -> None:
        """One request; returns when it was accepted."""
        several = b',"min_count":%d,"max_count":%d' % (count, count) if count > 1 else b""
        server = b'{"server":{"name":"%s","flavorRef":"1","imageRef":"","networks":[{"uuid":"%s"}]%s}}'
        await self._send("POST", "/compute/v2.1/servers", server % (name.encode(), self.network.encode(), several))

    async def delete(self, server_id: str) -> None:
        await self._send("DELETE", f"/compute/v2.1/servers/{server_id}")

    async def creates(self, name: str, count: int) -> None:
        """All at once."""
        await asyncio.gather(*[self.create(f"{name}-{n}") for n in range(count)])

    async def steady(self, name: str, rate: float, seconds: float) -> None:
        """Creates at a steady rate, whatever becomes of them; returns when all are accepted."""
        async with asyncio.TaskGroup() as group:
            begun = time.perf_counter()
            for n in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, begun + n / rate - time.perf_counter()))
                group.create_task(self.create(f"{name}-{n}"))

    async def fill(self, count: int) -> None:
        """Have so many servers, made by the hundred, all ACTIVE."""
        before = time.time()
        missing = count - len(await self.alive())
        sizes = [min(100, missing - at) for at in range(0, missing, 100)]
        for at in range(0, len(sizes), 4):
            await asyncio.gather(*[self.create(f"fill-{at + n}", count=size) for n, size in enumerate(sizes[at : at + 4])])
        boots = await self.settled(before)
        if boots.active != max(0, missing):
            raise RuntimeError(f"of {missing} servers that were to be there {boots.active} are ACTIVE")

    async def clear(self, servers: Iterable[str]) -> None:
        """Delete these, and wait until they are gone."""
        await asyncio.gather(*[self.delete(server_id) for server_id in servers])
        await self._until_none(_OPEN_DELETES)

    async def settled(self, since: float) -> Boots:
        """Wait until no create is under way: what became of those asked for since then (Unix seconds)."""
        await self._until_none(_OPEN_CREATES)
        return boots(await self.database.fetch(_ENDED, "create", since), since)

    async def alive(self) -> list[str]:
        """Ids of the servers there are, the oldest first."""
        return [row["id"] for row in await self.database.fetch(_ALIVE)]

    async def open_deletes(self) -> int:
        return int(await self.database.fetchval(_OPEN_DELETES))

    async def deleted(self, begun: float, ended: float) -> int:
        """How many servers were gone between two moments."""
        return int(await self.database.fetchval(_DELETED, begun, ended))

    async def _until_none(self, question: str) -> None:
        async with asyncio.timeout(LIMIT):
            while await self.database.fetchval(question):
                await asyncio.sleep(POLL)

    async def _send(self, method: str, path: str, body: bytes = b"") -> None:
        async with self._gate:
            reply = await self.wire.request(method, path, body)
        if reply.status >= 300:
            raise RuntimeError(f"{method} {path}: {reply.status} {reply.body[:500]!r}")


def boots(rows: Sequence[Mapping[str, Any]], since: float) -> Boots:
    """From rows of actions. Not ACTIVE is everything but `done`."""
    active = [(row["started_at"], row["finished_at"], json.loads(row["stamps"])) for row in rows if row["state"] == "done"]
    let_in = [stamps.get("admitted", stamps.get("queued", started)) for started, _, stamps in active]
    return Boots(
        asked=len(rows),
        active=len(active),
        began=since,
        ended=max((finished for _, finished, _ in active), default=since + 1e-9),
        service=[finished - at for at, (_, finished, _) in zip(let_in, active, strict=True)],
        queue=[max(0.0, at - started) for at, (started, _, _) in zip(let_in, active, strict=True)],
        whole=[finished - started for started, finished, _ in active],
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent are not above (nearest rank); nothing at all counts as for ever."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.inf


@contextlib.asynccontextmanager
async def cloud(folder: Path, hosts: int, *, hollow: int, settings: Mapping[str, str], control: Sequence[str]) -> AsyncIterator[Cloud]:
    """Everything for real on loopback, `hosts` hollow hosts in `hollow` processes; all of them are up when this begins.

    PostgreSQL as installed, so each commit is on the disk. `control`: the roles of the control plane, as `Cluster` takes them.
    """
    hosting = [f"hollow:{hosts // hollow}@{name}" for name in "abcdefgh"[:hollow]]
    own = {role: {"host.name": f"host-{role[-1]}"} for role in hosting}
    roles = (*control, *hosting)
    async with Cluster(folder, {**UNLIMITED, **PATIENT, **settings}, roles=roles, own=own, fsync=True, postgresql=AS_INSTALLED) as cluster:
        client = Client("127.0.0.1", cluster.port)
        token = await _sign_in(client, cluster.password())
        database = await asyncpg.create_pool(cluster.database, min_size=1, max_size=3)
        wire = Wire("127.0.0.1", cluster.port, token)
        made = Cloud(cluster, wire, client, database, "")
        try:
            made.network = await _network(made)
            await _all_up(made, hosts)
            yield made
        finally:
            wire.close()
            await client.close()
            await database.close()


async def _sign_in(client: Client, password: str) -> str:
    user = {"name": "admin", "domain": {"id": "default"}, "password": password}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    answer = await client.request("POST", "/identity/v3/auth/tokens", auth)
    client.headers["X-Auth-Token"] = token = answer.headers["x-subject-token"]
    return token


async def _network(made: Cloud) -> str:
    """One that has room for all."""
    network = (await made.ask("POST", "/network/v2.0/networks", {"network": {"name": "bench"}}))["network"]["id"]
    subnet = {"network_id": network, "ip_version": 4, "cidr": "10.64.0.0/15"}
    await made.ask("POST", "/network/v2.0/subnets", {"subnet": subnet})
    return str(network)


async def _all_up(made: Cloud, hosts: int) -> None:
    async with asyncio.timeout(LIMIT):
        while sum(host["up"] for host in (await made.ask("GET", "/pileus/v1/status"))["hosts"]) < hosts:
            await asyncio.sleep(0.5)
