"""Servers come and go through the API, whatever happens to it; and what came of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE = 5.0


@dataclass
class Counts:
    created: int = 0
    deleted: int = 0
    evacuated: int = 0
    unanswered: int = 0
    refused: dict[int, int] = field(default_factory=dict)


class Load:
    """One project's user. Answers that are lost are not known: what is there is asked at the end. `doomed`: it was told to delete these,
    and not whether they are."""

    def __init__(self, url: str, password: str, dice: random.Random, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.counts = Counts()
        self.known: set[str] = set()
        self.deleted: set[str] = set()
        self.doomed: set[str] = set()
        self._url = url
        self._password = password
        self._dice = dice
        self._number = 0
        self._network = ""
        self._http = httpx.AsyncClient(timeout=10.0, limits=httpx.Limits(max_connections=50), transport=transport)
        self._headers: dict[str, str] = {}

    async def start(self) -> None:
        await self._sign_in()
        networks = await self.ask("GET", "/network/v2.0/networks")
        self._network = networks["networks"][0]["id"]
        await self.ask("PUT", f"/compute/v2.1/os-quota-sets/{self.project}", {"quota_set": {"instances": -1, "cores": -1, "ram": -1}})
        await self.ask("PUT", f"/network/v2.0/quotas/{self.project}", {"quota": {"port": -1}})

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, seconds: float, *, rate: float, most: int) -> None:
        """Create at about this rate (1/s) and delete so that about `most` are there; move what is on hosts that are down."""
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._evacuate(ends))
            while time.monotonic() < ends:
                await asyncio.sleep(self._dice.expovariate(rate))
                group.create_task(self._create())
                alive = self.known - self.deleted
                if alive and self._dice.random() < len(alive) / most:
                    group.create_task(self.delete(self._dice.choice(sorted(alive))))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask until answered; the body. Raises RuntimeError for a refusal."""
        while True:
            answer = await self._once(method, path, body)
            if answer is not None and answer.status_code < 500:
                if answer.status_code >= 400:
                    raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
                return answer.json() if answer.content else None
            await asyncio.sleep(0.2)

    async def upload(self, path: str, data: bytes, limit: float) -> None:
        """Raises httpx.HTTPError."""
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        answer = await self._http.put(self._url + path, content=data, headers=headers, timeout=limit)
        answer.raise_for_status()

    async def create_on(self, host: str, image: str) -> str:
        """A server from an image, on this host and no other; its id."""
        wanted = {"name": f"on-{host}", "flavorRef": "1", "imageRef": image, "networks": [{"uuid": self._network}]}
        body = {"server": {**wanted, "availability_zone": f"nova:{host}"}}
        return str((await self.ask("POST", "/compute/v2.1/servers", body))["server"]["id"])

    async def create_many(self, count: int) -> None:
        """So many servers by one request; it is made until it is answered, so there may be more."""
        body = {"name": "many", "flavorRef": "1", "imageRef": "", "networks": [{"uuid": self._network}], "min_count": count}
        await self.ask("POST", "/compute/v2.1/servers", {"server": body})

    async def servers(self) -> list[dict[str, Any]]:
        """All that are there, in full."""
        found: list[dict[str, Any]] = []
        path = "/compute/v2.1/servers/detail?limit=500"
        while True:
            page = await self.ask("GET", path + (f"&marker={found[-1]['id']}" if found else ""))
            found += page["servers"]
            if len(page["servers"]) < 500:
                return found

    def lost(self, found: Collection[str]) -> set[str]:
        """Servers that must be there, and are not among these."""
        return self.known - self.deleted - self.doomed - set(found)

    async def settle(self, limit: float) -> list[dict[str, Any]]:
        """Wait until no server is on its way; all that are there. Raises TimeoutError that names who is stuck."""
        ends = time.monotonic() + limit
        while True:
            found = await self.servers()
            moving = [s for s in found if s["status"] == "BUILD" or s["OS-EXT-STS:task_state"] is not None]
            if not moving:
                return found
            if time.monotonic() > ends:
                stuck = [(s["id"], s["status"], s["OS-EXT-STS:task_state"], s.get("OS-EXT-SRV-ATTR:host")) for s in moving]
                raise TimeoutError(f"stuck: {stuck}")
            await asyncio.sleep(0.2)

    async def _create(self) -> None:
        self._number += 1
        body = {"name": f"chaos-{self._number}", "flavorRef": "1", "imageRef": "", "networks": [{"uuid": self._network}]}
        answer = await self._once("POST", "/compute/v2.1/servers", {"server": body})
        if answer is not None and answer.status_code == 202:
            self.counts.created += 1
            self.known.add(answer.json()["server"]["id"])
        self._count(answer, 202)

    async def delete(self, server_id: str) -> None:
        answer = await self._once("DELETE", f"/compute/v2.1/servers/{server_id}")
        if answer is not None and answer.status_code in (204, 404):
            self.counts.deleted += 1
            self.deleted.add(server_id)
        elif answer is None or answer.status_code >= 500:
            self.doomed.add(server_id)
        self._count(answer, 204)

    async def _evacuate(self, ends: float) -> None:
        """What an operator does: half of the servers of a host that is down are made anew elsewhere."""
        while time.monotonic() < ends:
            await asyncio.sleep(0.5)
            services = await self._once("GET", "/compute/v2.1/os-services?binary=nova-compute")
            if services is None or services.status_code != 200:
                continue
            for host in [each["host"] for each in services.json()["services"] if each["state"] == "down"]:
                found = await self._once("GET", f"/compute/v2.1/servers/detail?host={host}&all_tenants=1")
                for server in found.json()["servers"] if found is not None and found.status_code == 200 else ():
                    if server["OS-EXT-STS:task_state"] is None and self._dice.random() < 0.5:
                        answer = await self._once("POST", f"/compute/v2.1/servers/{server['id']}/action", {"evacuate": {}})
                        self.counts.evacuated += answer is not None and answer.status_code == 200

    def _count(self, answer: httpx.Response | None, good: int) -> None:
        if answer is None:
            self.counts.unanswered += 1
        elif answer.status_code != good:
            self.counts.refused[answer.status_code] = self.counts.refused.get(answer.status_code, 0) + 1

    async def _once(self, method: str, path: str, body: Any = None) -> httpx.Response | None:
        """None: no answer came, and what was asked may have been done or not."""
        try:
            answer = await self._http.request(method, self._url + path, json=body, headers=self._headers)
        except httpx.HTTPError:
            return None
        if answer.status_code == 401:
            await self._sign_in()
        return answer

    async def _sign_in(self) -> None:
        user = {"name": "admin", "domain": {"id": "default"}, "password": self._password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        while True:
            try:
                answer = await self._http.post(f"{self._url}/identity/v3/auth/tokens", json=auth)
                if answer.status_code == 201:
                    break
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.2)
        self._headers = {"X-Auth-Token": answer.headers["x-subject-token"], "OpenStack-API-Version": "compute 2.90"}
        self.project = answer.json()["token"]["project"]["id"]
