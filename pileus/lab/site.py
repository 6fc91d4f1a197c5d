"""The cloud of one case: every role a process with settings of its own, and the far database and REST of each behind one proxy.

A `Site` is a copy of what `ground.py` keeps. It is made, loaded, and goes without a trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg

from pileus.errors import StartupError
from pileus.lab import proxy
from pileus.lab.cases import HEAL, POOL, WORKERS, Case, of_role
from pileus.lab.ground import TEMPLATE, Ground, free_ports
from pileus.lab.nats import NatsServer
from pileus.lab.processes import Process, environment
from pileus.lab.wire import Reply, Wire

LIMIT = 300.0
"""Seconds in which anything of the setting up must be done."""
ROLES = ("api", "network-api", "worker", "network-rpc")
"""Those that know the database."""
API_WORKERS = 4
"""Processes of the network API, each with a pool of its own (Neutron's `api_workers`)."""
FACES = "identity,compute,image,placement"
UNLIMITED = {f"quota.{name}": -1 for name in ("instances", "cores", "ram", "network", "subnet", "port", "security_group_rule")}
BATCH = 50
"""Servers of one request when a population is made."""
QUIET = 0.05
"""Cores that each of the processes at rest uses at most."""
CALM, LOOK = 2.5, 0.5
"""Seconds for which they do so; between two looks."""
CIDR = "10.64.0.0/12"

_UP = "SELECT count(*) FROM compute_host_beats WHERE name <> '' AND seen_at > $1"
_OPEN = "SELECT count(*) FROM compute_actions WHERE finished_at IS NULL"
_ALIVE = "SELECT id FROM compute_servers WHERE deleted_at IS NULL AND vm_state = 'active' ORDER BY created_at, id"
_FAILED = "SELECT id FROM compute_servers WHERE deleted_at IS NULL AND vm_state = 'error'"
_SPREAD = "UPDATE compute_servers SET heal_at = $1 + random() * $2 WHERE deleted_at IS NULL"


class Site:
    """See the module. `far`: whether the proxy's round trips are added. `settings`: beside the case's own, for every process."""

    def __init__(self, ground: Ground, case: Case, name: str, *, far: bool = True, settings: Mapping[str, Any] | None = None) -> None:
        self.case = case
        self.name = name
        self.ground = ground
        self.folder = ground.folder / name
        self.hosts_folder = self.folder / "hosts"
        self.processes: dict[str, Process] = {}
        self.ports: dict[str, int] = {}
        self.metrics: dict[str, list[int]] = {}
        """Role → the ports of its processes' figures."""
        self.wire: Wire
        self.database: asyncpg.Pool[Any]
        self._settings = dict(settings or {})
        self._round_trip = ground.size.round_trip if far else 0.0
        self._nats = NatsServer(self.folder / "nats", port=free_ports(1), tied=True)
        self._api, self._network_api = free_ports(1), free_ports(1)
        self._entered = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._api}"

    async def start(self) -> None:
        """All of it, with the population adopted by its hosts. Raises StartupError, TimeoutError."""
        self.folder.mkdir(parents=True)
        fresh = self.name == TEMPLATE
        if not fresh:
            await self.ground.copy(self.name)
            await asyncio.to_thread(shutil.copytree, self.ground.kept, self.hosts_folder, ignore=shutil.ignore_patterns("lock*"))
        self._nats.start()
        await self._start_proxy()
        # Hosts that start ask for all their ports: with the story's single slow worker that would be minutes before anything is measured.
        self._begin_now("network-rpc", **{"network.rpc_statements": 0, POOL: 10, WORKERS: 1})
        await self._begin("api", "network-api", "worker")
        await self.processes["network-rpc"].ready()
        await self._begin("hosts")  # last: what they say at their start must be heard, or they say it 25 s later
        self.database = await asyncpg.create_pool(self.ground.postgres.url(self.name), min_size=1, max_size=3)
        self._entered.push_async_callback(self.database.close)
        self.wire = Wire("127.0.0.1", self._api, await self._token())
        self._entered.callback(self.wire.close)
        await self._all_up()
        if not fresh:
            await self._spread()  # since all compute services are new, healing may be about to begin with all servers at once
            await self.quiet("network-rpc", "hosts")
            await self.slow_down()
            await self._spread()

    async def close(self) -> None:
        """End everything and remove it. Nothing of it is left, whatever goes wrong."""
        with contextlib.suppress(Exception):
            await self._entered.aclose()
        for name in ("worker", "network-rpc", "network-api", "api"):  # what they would still write goes as well
            if name in self.processes:
                self.processes[name].kill()
        for name in ("hosts", "proxy"):
            if name in self.processes:
                self.processes[name].stop()
        self._nats.kill()
        if self.name != TEMPLATE:
            await self.ground.drop(self.name)
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def __aenter__(self) -> Site:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def slow_down(self, **settings: Any) -> None:
        """The RPC processes that the hosts' start was given make way for the case's own; `settings` for them alone."""
        self.processes["network-rpc"].kill()
        await self._begin("network-rpc", **settings)

    async def make_network(self) -> str:
        """One that has room for all; its id."""
        made = await self.ask("POST", "/network/v2.0/networks", {"network": {"name": "lab"}}, port=self._network_api)
        network: str = made["network"]["id"]
        subnet = {"network_id": network, "ip_version": 4, "cidr": CIDR, "enable_dhcp": False}
        await self.ask("POST", "/network/v2.0/subnets", {"subnet": subnet}, port=self._network_api)
        return network

    async def populate(self, count: int) -> None:
        """So many servers more, all ACTIVE. Raises StartupError."""
        sizes = [min(BATCH, count - at) for at in range(0, count, BATCH)]
        for number, size in enumerate(sizes):
            await self.create(f"standing-{number}", count=size)
        await self.settled()
        alive = len(await self.alive())
        if alive < count:
            raise StartupError(f"of a population of {count} servers only {alive} came to be; the logs are in {self.folder}")

    async def create(self, name: str, *, count: int = 1) -> Reply:
        several = b',"min_count":%d,"max_count":%d' % (count, count) if count > 1 else b""
        body = b'{"server":{"name":"%s","flavorRef":"1","imageRef":"","networks":[{"uuid":"%s"}]%s}}'
        reply = await self.wire.request("POST", "/compute/v2.1/servers", body % (name.encode(), self.ground.network.encode(), several))
        if reply.status != 202 and count > 1:
            raise StartupError(f"servers were not made: {reply.status} {reply.body[:300]!r}")
        return reply

    async def delete(self, server_id: str) -> Reply:
        return await self.wire.request("DELETE", f"/compute/v2.1/servers/{server_id}")

    async def alive(self) -> list[str]:
        """Ids of the ACTIVE servers, the oldest first."""
        return [row["id"] for row in await self.database.fetch(_ALIVE)]

    async def failed(self) -> list[str]:
        """Ids of servers in ERROR."""
        return [row["id"] for row in await self.database.fetch(_FAILED)]

    async def settled(self, limit: float = LIMIT) -> None:
        """Until nothing is under way any more."""
        async with asyncio.timeout(limit):
            while await self.database.fetchval(_OPEN):  # noqa: ASYNC110 - what is under way is in a database
                await asyncio.sleep(0.1)

    async def quiet(self, *roles: str) -> None:
        """Until these processes have nothing to do any more; longer than a turn of an agent's loop."""
        calm = 0.0
        async with asyncio.timeout(LIMIT):
            while calm < CALM:
                before = self.cpu(roles)
                await asyncio.sleep(LOOK)
                calm = calm + LOOK if self.cpu(roles) - before < QUIET * LOOK * len(roles) + 0.02 else 0.0

    def cpu(self, roles: Collection[str] = ()) -> float:
        """CPU seconds of these roles' processes, or of all; without PostgreSQL's."""
        return sum(process.cpu() for name, process in self.processes.items() if not roles or name in roles)

    async def counts(self) -> dict[str, proxy.Count]:
        """What the proxy has counted: of the database by role, of REST `network` and `compute`."""
        return await proxy.counts(self.ports[proxy.COUNTS])

    def restart_compute(self) -> None:
        """The next host says that its compute service has just been started."""
        self.processes["hosts"].tell(signal.SIGUSR2)

    async def ask(self, method: str, path: str, body: Any, *, port: int = 0) -> Any:
        """A request of the setting up. Raises StartupError for a refusal."""
        wire = Wire("127.0.0.1", port, self.wire.token) if port else self.wire
        reply = await wire.request(method, path, json.dumps(body).encode())
        if port:
            wire.close()
        if reply.status >= 300:
            raise StartupError(f"{method} {path}: {reply.status} {reply.body[:300]!r}")
        return json.loads(reply.body)

    async def _spread(self) -> None:
        interval = float({**self.case.settings, **self._settings}[HEAL])
        await self.database.execute(_SPREAD, time.time(), max(1.0, interval))

    async def _token(self) -> str:
        user = {"name": "admin", "domain": {"id": "default"}, "password": self.ground.password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        bare = Wire("127.0.0.1", self._api, "none")
        reply = await bare.request("POST", "/identity/v3/auth/tokens", json.dumps(auth).encode())
        bare.close()
        if reply.status != 201:
            raise StartupError(f"no token: {reply.status} {reply.body[:300]!r}")
        return reply.header("x-subject-token")

    async def _start_proxy(self) -> None:
        targets = {**dict.fromkeys(ROLES, self.ground.postgres.port), "network": self._network_api, "compute": self._api}
        words = ["--round-trip", str(self._round_trip), *[f"{name}={port}" for name, port in targets.items()]]
        made = Process("proxy", words, self.folder / "proxy.log", environment({}), module="pileus.lab.proxy", tied=True)
        self.processes["proxy"] = made
        made.start()
        await made.ready()
        self.ports = json.loads(made.news().splitlines()[0])

    async def _begin(self, *roles: str, **settings: Any) -> None:
        self._begin_now(*roles, **settings)
        for role in roles:
            await self.processes[role].ready()

    def _begin_now(self, *roles: str, **settings: Any) -> None:
        for role in roles:
            spent = self.processes[role].cpu() if role in self.processes else 0.0
            made = Process(role, self._words(role), self.folder / f"{role}.log", environment(self._own(role, settings)), tied=True)
            made.used(spent)
            self.processes[role] = made
            made.start()

    def _words(self, role: str) -> Sequence[str]:
        state = ["--state", str(self.folder / role)]
        return {
            "api": ["serve", "api", "--faces", FACES, "--listen", f"127.0.0.1:{self._api}", *state],
            "network-api": [
                "serve",
                "api",
                "--faces",
                "network",
                "--workers",
                str(API_WORKERS),
                "--listen",
                f"127.0.0.1:{self._network_api}",
                *state,
            ],
            "worker": ["serve", "worker"],
            "network-rpc": ["serve", "network-rpc"],
            "hosts": ["serve", "host", "--hypervisor", "simulated", "--hosts", str(self.ground.size.hosts), *state],
        }[role]

    def _own(self, role: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a process."""
        story = self.case.profile == "story"
        far = {"compute.network_url": f"http://127.0.0.1:{self.ports['network']}/network"} if story else {}
        near = {"network.nova_url": f"http://127.0.0.1:{self.ports['compute']}/compute/v2.1"} if story else {}
        known = {"database.url": f"postgresql://pileus@127.0.0.1:{self.ports[role]}/{self.name}"} if role in ROLES else {}
        return {
            "api.public_url": self.url,
            "host.api_url": self.url,
            "host.name": "lab",
            "bus.url": self._nats.url,
            "identity.admin_password": self.ground.password,
            "log_level": "warning",
            **known,
            **UNLIMITED,
            **{f"simulated.{name}": value for name, value in self.ground.simulated.items()},
            **of_role(self.case, role),
            **self._settings,
            **(far if role in ("api", "worker") else {}),
            **(near if role == "network-rpc" else {}),
            **self._figures(role, settings),
            **settings,
        }

    def _figures(self, role: str, settings: Mapping[str, Any]) -> dict[str, str]:
        """Where the processes of a role tell their figures: on ports in a row."""
        workers = {**self.case.settings, **self._settings, **settings}[WORKERS]
        count = {"network-rpc": int(workers), "network-api": API_WORKERS}.get(role, 1)
        first = free_ports(count)
        self.metrics[role] = list(range(first, first + count))
        return {"metrics.listen": f"127.0.0.1:{first}"}

    async def _all_up(self) -> None:
        begun = time.time() - 5
        async with asyncio.timeout(LIMIT):
            while await self.database.fetchval(_UP, begun) < self.ground.size.hosts:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def fill(ground: Ground, case: Case) -> None:
    """Make the population, with a case that is quick at it, and keep it as the template of all. Raises StartupError."""
    await ground.lay()
    site = Site(ground, case, TEMPLATE, far=False)
    async with site:
        ground.network = await site.make_network()
        await site.populate(ground.size.servers)
    ground.kept = site.hosts_folder
