"""A cloud whose roles are apart, as processes on loopback: for tests, benches and chaos runs.

    async with Cluster(folder, {"network.rpc_workers": 2}, roles=("api", "worker", "network-rpc", "hollow:100")) as cluster:
        cluster.url                     # of the APIs
        cluster.processes["worker"]     # a Process: kill(), stop(), freeze(), thaw(), start(), log, cpu()

PostgreSQL and NATS are private and real. A role is `api`, `worker`, `network-rpc`, `host`, `hollow:N` (N hollow hosts), each with an
optional `@NAME` (`worker@2`: one more of it, called so); what follows in words are arguments of its command (`api --workers 2`).
`host/compute@NAME` and `host/network@NAME` are the two parts of one host, apart.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pileus.lab.processes import LIMIT, Process, cpu_seconds, environment
from tests.engines.nats import NatsServer, free_port
from tests.engines.postgresql import PostgresServer

__all__ = ["LIMIT", "Cluster", "Process"]

ROLES = ("api", "worker", "network-rpc", "hollow:2")


class Cluster:
    """See the module. `settings`: dotted keys for every process; `own`: for the role of that name alone, beside them."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        roles: Sequence[str] = ROLES,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        fsync: bool = False,
        postgresql: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.postgres = PostgresServer(fsync=fsync, settings=postgresql)
        self.nats = NatsServer(folder / "nats")
        self.processes: dict[str, Process] = {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = ""
        self._settings = dict(settings or {})
        self._own = {name: dict(values) for name, values in (own or {}).items()}
        self._roles = roles

    def place(self, key: str, value: Any, *, only: str = "") -> None:
        """Give a setting to every process that is started from now on, or to the one of that name."""
        (self._own.setdefault(only, {}) if only else self._settings)[key] = value

    async def start(self) -> None:
        """PostgreSQL, NATS, then the roles, the API first (it makes what a new cloud has), the rest at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.nats.start)
        self.database = await self.postgres.fresh(empty=True)
        self._upgrade()
        for role in self._roles:
            process = self.add(role)
            process.start()
            if role.startswith("api"):
                await process.ready()
        await asyncio.gather(*[process.ready() for process in self.processes.values()])

    def add(self, role: str, **settings: Any) -> Process:
        """One more process of a role, not yet started."""
        name, *more = role.split()
        kind, _, number = name.partition("@")[0].partition(":")
        kind, _, part = kind.partition("/")
        command = ["host", "--hypervisor", "simulated", "--hosts", number] if kind == "hollow" else [kind]
        command += ["--part", part] if part else []
        words = ["serve", *command, *more]
        if command[0] == "host":
            settings = {"host.name": _host_name(name), **settings}
        if command[0] in ("host", "api"):
            words += ["--state", str(self.folder / name.replace(f"/{part}", "").replace(":", "-"))]
        environ = self.environ(name, **settings)
        made = self.processes[name] = Process(name, words, self.folder / f"{re.sub('[:/]', '-', name)}.log", environ)
        return made

    def environ(self, name: str = "", **settings: Any) -> dict[str, str]:
        """The environment of a process of this cloud."""
        ours = {
            "api.listen": f"127.0.0.1:{self.port}",
            "api.public_url": self.url,
            "host.api_url": self.url,
            "database.url": self.database,
            "bus.url": self.nats.url,
            **self._settings,
            **self._own.get(name, {}),
            **settings,
        }
        return environment(ours)

    @property
    def clouds_yaml(self) -> Path:
        return self.folder / next(name for name in self.processes if name.startswith("api")) / "clouds.yaml"

    def password(self) -> str:
        found = re.search(r'password: "(.*)"', self.clouds_yaml.read_text())
        assert found is not None
        return found[1]

    def cpu(self) -> float:
        """Seconds of CPU of all of it: roles, hosts, PostgreSQL, NATS."""
        own = sum(process.cpu() for process in self.processes.values())
        return own + self.postgres.cpu() + cpu_seconds(self.nats.pid or 0)

    async def close(self) -> None:
        for process in reversed(self.processes.values()):
            process.thaw()
            await asyncio.to_thread(process.stop)
        await asyncio.to_thread(self.nats.kill)
        await asyncio.to_thread(self.postgres.stop)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _upgrade(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pileus", "db", "upgrade"], env=self.environ(), capture_output=True, timeout=LIMIT, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"db upgrade: {done.stderr}")


def _host_name(name: str) -> str:
    """The host's name of a process: what stands behind the `@`, else its role."""
    return name.partition("@")[2] or re.split("[:/]", name)[0]
