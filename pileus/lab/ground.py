"""What all cases stand on: one PostgreSQL, and a database with a standing population, filled once and copied for each."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from pileus.errors import StartupError
from pileus.lab.postgresql import PostgresServer
from pileus.lab.processes import Process, environment

TEMPLATE = "lab_template"
LISTENING = (15_000, 32_000)
"""Ports that a site's processes listen on."""


@dataclass(frozen=True)
class Size:
    """How large the clouds are. `cases`: how many of them are there at once. `round_trip`: what the proxy adds to each, seconds."""

    hosts: int
    servers: int
    round_trip: float
    cases: int
    connections: int = 1400
    """That a case's processes may open together."""


@dataclass
class Ground:
    """What all cases stand on. `simulated`: the settings of the hollow hosts' steps."""

    folder: Path
    size: Size
    simulated: Mapping[str, float]
    postgres: PostgresServer = field(init=False)
    password: str = field(init=False)
    network: str = ""
    kept: Path = Path()
    """The hollow hosts' state folder, as the population left it."""

    def __post_init__(self) -> None:
        most = self.size.connections * (self.size.cases + 1)
        self.postgres = PostgresServer(folder=self.folder, settings={"max_connections": str(most), "max_wal_size": "1GB"}, tied=True)
        self.password = secrets.token_urlsafe(18)

    def start(self) -> None:
        """Raises StartupError."""
        self.postgres.start()

    def stop(self) -> None:
        self.postgres.stop()

    async def lay(self) -> None:
        """The template, with the schema and nothing in it. Raises StartupError."""
        await self.postgres.execute(f"CREATE DATABASE {TEMPLATE} OWNER pileus")
        known = {"database.url": self.postgres.url(TEMPLATE)}
        made = Process("upgrade", ["db", "upgrade"], self.folder / "upgrade.log", environment(known), tied=True)
        made.start()
        if await asyncio.to_thread(made.wait) != 0:
            raise StartupError(f"db upgrade: {made.news().decode(errors='replace')}")

    async def copy(self, name: str) -> None:
        await self.postgres.execute(f"CREATE DATABASE {name} OWNER pileus TEMPLATE {TEMPLATE}")

    async def drop(self, name: str) -> None:
        if name != TEMPLATE:
            with contextlib.suppress(asyncpg.PostgresError, OSError):
                await self.postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_given: set[int] = set()


def free_ports(count: int) -> int:
    """The first of so many free ports in a row: below those that outgoing connections get, and none that was given before."""
    for _ in range(1000):
        first = random.randrange(*LISTENING)  # noqa: S311 - no secret
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return first
    raise StartupError(f"no {count} ports in a row are free on this machine")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
