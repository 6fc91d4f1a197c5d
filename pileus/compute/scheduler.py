"""Choosing a host: a picture that may be stale, two random candidates weighed, an atomic claim. An exact search only at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
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
    network_types: frozenset[str]
    capacity: Resources
    used: Resources
    building: int = 0


@dataclass(frozen=True)
class Request:
    """What a server needs. `host`: the only one that will do; `tried` ones will not."""

    resources: Resources
    zone: str | None = None
    host: str | None = None
    forced: bool = False
    """Named by an administrator: being disabled does not matter."""
    physical_networks: frozenset[str] = frozenset()
    network_types: frozenset[str] = frozenset()
    tried: Collection[str] = ()


class NoValidHost(Exception):
    """No host can take it now; the text counts the reasons. `never`: nor could any of them later, with all its room free. `busy`: one
    would, but for the builds that it has under way."""

    def __init__(self, text: str, *, never: bool, busy: bool = False) -> None:
        super().__init__(text)
        self.never = never
        self.busy = busy


def _nobody_cares() -> None:
    """Until somebody wants to know of room."""


@dataclass
class Scheduler:
    store: Store
    placement: PlacementClient
    settings: Compute
    random: random.Random = field(default_factory=random.Random)
    on_room: Callable[[], None] = _nobody_cares
    """Called when a new picture shows a host that came up, or more room than before."""
    _hosts: dict[str, HostPicture] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _chosen: dict[str, int] = field(default_factory=dict)
    """Host → builds claimed here that are on their way to it, and not on its row yet."""
    _taken_at: float = -1e9
    _last_seen: dict[str, HostPicture] = field(default_factory=dict)
    _looking: asyncio.Task[None] | None = None

    async def claim(self, consumer: str, request: Request, *, project_id: str, user_id: str) -> str:
        """Choose a host and claim the server's resources there; its name. Raises NoValidHost.

        Who was chosen is thought to build it until `arrived` or `turned_away` is told.
        """
        await self.fresh()
        refused: set[str] = set()
        for host in self._sampled(request):
            if host.name not in refused and await self._try(consumer, host, request, project_id, user_id):
                return host.name
            refused.add(host.name)
        await self.look()
        for host in self._ranked(request):
            if await self._try(consumer, host, request, project_id, user_id):
                return host.name
        never = bool(self._hosts) and not any(could_ever(host, request) for host in self._hosts.values())
        busy = any(objection(host, request) is None for host in self._hosts.values())
        raise NoValidHost(self._reasons(request), never=never, busy=busy)

    async def fresh(self) -> None:
        """The picture is no older than `PICTURE_AGE` afterwards."""
        if time.monotonic() - self._taken_at > PICTURE_AGE:
            await self.look()

    async def look(self) -> None:
        """Take the picture anew; who asks while it is being taken waits for the next one, and all of them for the same."""
        before = self._looking
        if before is not None and not before.done():
            await asyncio.wait([before])
        if self._looking is before or self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="scheduler-look")
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
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
                network_types=frozenset(row["facts"].get("network_types", ())),
                capacity=pictures.get(row["id"], nothing).capacity,
                used=pictures.get(row["id"], nothing).used,
                building=row["building"],
            )
            for row in rows
        }
        self._names = list(self._hosts)
        self._taken_at = time.monotonic()
        seen, self._last_seen = self._last_seen, self._hosts.copy()
        if seen and any(_grew(seen.get(name), host) for name, host in self._last_seen.items()):
            self.on_room()

    def forget(self) -> None:
        """Something about hosts has changed: look before the next choice."""
        self._taken_at = -1e9

    def build_room(self) -> int:
        """How many builds all hosts that are up take at once; 0: any number."""
        most = self.settings.max_concurrent_builds
        return max(1, most * sum(host.up and host.enabled for host in self._hosts.values())) if most else 0

    def arrived(self, name: str) -> None:
        """What was claimed on a host counts on its row from now on."""
        self._count(name, 1)
        self._drop(name)

    def turned_away(self, name: str, *, full: bool = False) -> None:
        """What was claimed on a host does not come; `full`: because it has as many builds as it may."""
        self._drop(name)
        if full:
            self._count(name, self.settings.max_concurrent_builds)

    def ended(self, name: str) -> None:
        """A build on a host is over, or only waits for its network."""
        self._count(name, -1)

    def _count(self, name: str, change: int) -> None:
        host = self._hosts.get(name)
        if host is not None:
            self._hosts[name] = replace(host, building=max(0, host.building + change))

    def _drop(self, name: str) -> None:
        left = self._chosen.get(name, 0) - 1
        if left > 0:
            self._chosen[name] = left
        else:
            self._chosen.pop(name, None)

    async def _try(self, consumer: str, host: HostPicture, request: Request, project_id: str, user_id: str) -> bool:
        self._chosen[host.name] = self._chosen.get(host.name, 0) + 1
        won = False
        try:
            won = await self.placement.claim(consumer, host.provider_id, request.resources, project_id=project_id, user_id=user_id)
        finally:
            if not won:
                self._drop(host.name)
        now = self._hosts.get(host.name, host)
        used = {k: now.used.get(k, 0) + v for k, v in request.resources.items()} if won else dict(now.capacity)
        self._hosts[host.name] = replace(now, used={**now.used, **used})
        return won

    def _sampled(self, request: Request) -> Iterator[HostPicture]:
        """The better one of two random hosts, a few times."""
        names = [request.host] if request.host else self._names
        for _ in range(PAIRS):
            pair = [self._hosts[n] for n in self.random.sample(names, min(2, len(names))) if n in self._hosts]
            fit = [host for host in pair if self._objection(host, request) is None]
            if fit:
                yield max(fit, key=lambda host: room(host, request.resources))

    def _ranked(self, request: Request) -> list[HostPicture]:
        fit = [host for host in self._hosts.values() if self._objection(host, request) is None]
        return sorted(fit, key=lambda host: room(host, request.resources), reverse=True)

    def _objection(self, host: HostPicture, request: Request) -> str | None:
        why = objection(host, request)
        most = self.settings.max_concurrent_builds
        if why is None and most and host.building + self._chosen.get(host.name, 0) >= most:
            return f"building {most} servers already, as many as they may"
        return why

    def _reasons(self, request: Request) -> str:
        counts: dict[str, int] = {}
        for host in self._hosts.values():
            why = self._objection(host, request) or "claimed by others meanwhile"
            counts[why] = counts.get(why, 0) + 1
        told = "; ".join(f"{count} {why}" for why, count in sorted(counts.items())) or "there is no host yet"
        return f"No valid host was found. There are not enough hosts available. (of {len(self._hosts)} hosts: {told})"


def could_ever(host: HostPicture, request: Request) -> bool:
    """Would this host do if it were up, enabled and empty? One whose inventory is not written down yet may."""
    if not host.capacity:
        host = replace(host, capacity=request.resources)
    if request.forced and (not host.up or any(host.used.get(n, 0) + a > host.capacity.get(n, 0) for n, a in request.resources.items())):
        return False  # an administrator named it as it is now: nothing is waited for but its turn
    return objection(replace(host, up=True, enabled=True, used={}), request) is None


def _grew(before: HostPicture | None, now: HostPicture) -> bool:
    """Can it take more than before?"""
    if not (now.up and now.enabled):
        return False
    if before is None or not (before.up and before.enabled):
        return True
    less_used = any(amount < before.used.get(name, 0) for name, amount in now.used.items())
    return less_used or any(amount > before.capacity.get(name, 0) for name, amount in now.capacity.items())


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
    if not request.network_types <= host.network_types:
        return f"without tunnels ({', '.join(sorted(request.network_types))})"
    for name, amount in request.resources.items():
        if host.used.get(name, 0) + amount > host.capacity.get(name, 0):
            return f"out of {name}"
    return None


def room(host: HostPicture, resources: Mapping[str, int]) -> float:
    """How much of the scarcest resource would be left, as a part of the capacity."""
    return min(1 - (host.used.get(n, 0) + a) / host.capacity[n] for n, a in resources.items()) if resources else 1.0
