"""A `pileus up` of the benchmark's own: started, asked, weighed, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.client import Client

POLL = 0.005


@dataclass
class Up:
    """A running cloud. `ready`: seconds from the start of the process to the first answer."""

    pid: int
    client: Client
    ready: float
    project: str
    flavor: str = "1"

    def cpu(self) -> float:
        """CPU seconds that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pss(self) -> float:
        """Proportional set size of the process, MB."""
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{self.pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    async def ask(self, method: str, path: str, body: Any = None, *, expect: tuple[int, ...] = (200, 201, 202, 204)) -> Any:
        answer = await self.client.request(method, path, body)
        if answer.status not in expect:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body!r}")
        return answer.body

    async def create(self, name: str, network: str, image: str = "") -> str:
        server = {"name": name, "flavorRef": self.flavor, "imageRef": image, "networks": [{"uuid": network}]}
        return str((await self.ask("POST", "/compute/v2.1/servers", {"server": server}))["server"]["id"])

    async def active(self, server_id: str) -> float:
        """Poll every 5 ms until ACTIVE; the time at which it was seen."""
        poll_at = time.perf_counter()
        while True:
            server = (await self.ask("GET", f"/compute/v2.1/servers/{server_id}"))["server"]
            if server["status"] == "ACTIVE":
                return time.perf_counter()
            if server["status"] == "ERROR":
                raise RuntimeError(f"server {server_id}: {server['fault']['message']}")
            poll_at += POLL
            await asyncio.sleep(max(0.0, poll_at - time.perf_counter()))

    async def delete(self, server_id: str) -> None:
        await self.ask("DELETE", f"/compute/v2.1/servers/{server_id}")
        while (await self.client.request("GET", f"/compute/v2.1/servers/{server_id}")).status != 404:
            await asyncio.sleep(POLL)

    async def timeline(self, server_id: str) -> dict[str, float]:
        """Step → time of the server's last action."""
        found = await self.ask("GET", f"/pileus/v1/servers/{server_id}/timeline")
        return dict(found["actions"][0]["stamps"])


@asynccontextmanager
async def up(state: Path, *arguments: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Up]:
    """Start `pileus up` on a free port of loopback; ended with its guests at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PILEUS_", "OS_"))} | dict(settings or {})
    command = [sys.executable, "-m", "pileus"]
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, "up", "--state", str(state), "--listen", f"127.0.0.1:{port}", *arguments, env=environ, stdout=asyncio.subprocess.DEVNULL
    )
    client = Client("127.0.0.1", port)
    try:
        ready = await _first_answer(client, process, started)
        yield await _signed_in(state, process.pid, client, ready)
    finally:
        await client.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        down = await asyncio.create_subprocess_exec(
            *command, "down", "--guests", "--state", str(state), env=environ, stdout=asyncio.subprocess.DEVNULL
        )
        await down.wait()


async def _first_answer(client: Client, process: asyncio.subprocess.Process, started: float) -> float:
    while process.returncode is None:
        try:
            if (await client.request("GET", "/compute/v2.1/")).status == 200:
                return time.perf_counter() - started
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(POLL)
    raise RuntimeError(f"pileus up ended with {process.returncode}")


async def _signed_in(state: Path, pid: int, client: Client, ready: float) -> Up:
    found = re.search(r'password: "(.*)"', (state / "clouds.yaml").read_text())
    assert found is not None
    user = {"name": "admin", "domain": {"id": "default"}, "password": found[1]}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    answer = await client.request("POST", "/identity/v3/auth/tokens", auth)
    client.headers["X-Auth-Token"] = answer.headers["x-subject-token"]
    running = Up(pid, client, ready, answer.body["token"]["project"]["id"])
    while not (await running.ask("GET", "/compute/v2.1/os-hypervisors"))["hypervisors"]:
        await asyncio.sleep(POLL)
    return running
