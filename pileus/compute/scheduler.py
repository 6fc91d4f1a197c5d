"""Choosing a host: a picture that may be stale, two random candidates weighed, an atomic claim. An exact search only at the end."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pileus.clients.placement import PlacementClient, ProviderPicture, Resources
from pileus.compute import hosts
from pileus.settings import Compute
from pileus.store import Store

PICTURE_AGE = 2.0
"""Seconds after which the picture is taken anew."""
PAIRS = 4
"""Pairs of candidates tried before the exact search."""


@dataclass(frozen=True)
class HostPicture:
    """A host as it was seen; `used` includes what this process has claimed since."""

    name: str
    provider_id: str
    zone: str
    enabled: bool
    up: bool
    physical_networks: frozenset[str]
    capacity: Resources
    used: Resources


@dataclass(frozen=True)
class Request:
    """What a server needs. `host`: the only one that will do; `tried` ones will not."""

    resources: Resources
    zone: str | None = None
    host: str | None = None
    forced: bool = False
    """Named by an administrator: being disabled does not matter."""
    physical_networks: frozenset[str] = frozenset()
    tried: Collection[str] = ()


class NoValidHost(Exception):
    """No host can take it now; the text counts the reasons."""


@dataclass
class Scheduler:
    store: Store
    placement: PlacementClient
    settings: Compute
    random: random.Random = field(default_factory=random.Random)
    _hosts: dict[str, HostPicture] = field(default_factory=dict)
    _taken_at: float = -1e9

    async def claim(self, consumer: str, request: Request, *, project_id: str, user_id: str) -> str:
        """Choose a host and claim the server's resources there; its name. Raises NoValidHost."""
        if time.monotonic() - self._taken_at > PICTURE_AGE:
            await self.look()
        refused: set[str] = set()
        for host in self._sampled(request):
            if host.name not in refused and await self._try(consumer, host, request, project_id, user_id):
                return host.name
            refused.add(host.name)
        await self.look()
        for host in self._ranked(request):
            if await self._try(consumer, host, request, project_id, user_id):
                return host.name
        raise NoValidHost(self._reasons(request))

    async def look(self) -> None:
        """Take the picture anew."""
        now = time.time()
        rows = await self.store.read(hosts.all_hosts)
        pictures = {p.id: p for p in await self.placement.pictures()}
        nothing = ProviderPicture("", "", {}, {})
        self._hosts = {
            row["name"]: HostPicture(
                name=row["name"],
                provider_id=row["id"],
                zone=row["zone"],
                enabled=not row["disabled"],
                up=hosts.is_up(row, self.settings, now),
                physical_networks=frozenset(row["facts"].get("physical_networks", ())),
                capacity=pictures.get(row["id"], nothing).capacity,
                used=pictures.get(row["id"], nothing).used,
            )
            for row in rows
        }
        self._taken_at = time.monotonic()

    def forget(self) -> None:
        """Something about hosts has changed: look before the next choice."""
        self._taken_at = -1e9

    async def _try(self, consumer: str, host: HostPicture, request: Request, project_id: str, user_id: str) -> bool:
        won = await self.placement.claim(consumer, host.provider_id, request.resources, project_id=project_id, user_id=user_id)
        used = {k: host.used.get(k, 0) + v for k, v in request.resources.items()} if won else dict(host.capacity)
        self._hosts[host.name] = replace(host, used={**host.used, **used})
        return won

    def _sampled(self, request: Request) -> Iterator[HostPicture]:
        """The better one of two random hosts, a few times."""
        names = [request.host] if request.host else list(self._hosts)
        for _ in range(PAIRS):
            pair = [self._hosts[n] for n in self.random.sample(names, min(2, len(names))) if n in self._hosts]
            fit = [host for host in pair if objection(host, request) is None]
            if fit:
                yield max(fit, key=lambda host: room(host, request.resources))

    def _ranked(self, request: Request) -> list[HostPicture]:
        fit = [host for host in self._hosts.values() if objection(host, request) is None]
        return sorted(fit, key=lambda host: room(host, request.resources), reverse=True)

    def _reasons(self, request: Request) -> str:
        counts: dict[str, int] = {}
        for host in self._hosts.values():
            why = objection(host, request) or "claimed by others meanwhile"
            counts[why] = counts.get(why, 0) + 1
        told = "; ".join(f"{count} {why}" for why, count in sorted(counts.items())) or "there is no host yet"
        return f"No valid host was found. There are not enough hosts available. (of {len(self._hosts)} hosts: {told})"


def objection(host: HostPicture, request: Request) -> str | None:
    """Why this host will not do; None when it will."""
    if request.host is not None and host.name != request.host:
        return "other than the one needed"
    if host.name in request.tried:
        return "tried before"
    if not host.up:
        return "down"
    if not host.enabled and not request.forced:
        return "disabled"
    if request.zone is not None and host.zone != request.zone:
        return "in another availability zone"
    if not request.physical_networks <= host.physical_networks:
        return "without the physical network"
    for name, amount in request.resources.items():
        if host.used.get(name, 0) + amount > host.capacity.get(name, 0):
            return f"out of {name}"
    return None


def room(host: HostPicture, resources: Mapping[str, int]) -> float:
    """How much of the scarcest resource would be left, as a part of the capacity."""
    return min(1 - (host.used.get(n, 0) + a) / host.capacity[n] for n, a in resources.items()) if resources else 1.0
