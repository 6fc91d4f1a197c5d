"""The network service in process, as compute uses it: one transaction a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from pileus.clients.network import CheckedNics, PortReadiness, Requested, RequestedNic, SecurityGroup, ServerAddress, ServerPort
from pileus.context import Context
from pileus.messages import PortWiring
from pileus.network import server_groups, servers
from pileus.network.config import Config
from pileus.store import Store
from pileus.together import Shared

Changed = Callable[[Mapping[str, Sequence[PortWiring]]], Awaitable[None]]
"""(Host → its ports that are others now)."""


async def _nobody(told: Mapping[str, Sequence[PortWiring]]) -> None:
    """Hosts find out when they ask."""


class InProcessNetwork:
    """See `pileus.clients.network.NetworkClient`. `changed` lets hosts know of ports that compute has changed."""

    addresses_together = 1000

    def __init__(self, store: Store, config: Config, changed: Changed = _nobody) -> None:
        self._store = store
        self._config = config
        self._changed = changed
        self._shared = Shared("network-questions")

    async def check(self, context: Context, requested: Requested, *, count: int, security_groups: Sequence[str] = ()) -> CheckedNics:
        asked = requested if isinstance(requested, str) else tuple(requested)
        groups = tuple(security_groups)
        key = ("check", context.user_id, context.project_id, context.roles, asked, count, groups)
        return await self._shared.ask(key, lambda: self._store.read(servers.check, self._config, context, requested, count, groups))

    async def constraint(self, nics: Sequence[RequestedNic]) -> CheckedNics:
        return await self._shared.ask(("constraint", *nics), lambda: self._store.read(servers.constraint, nics))

    async def allocate(
        self, context: Context, server_id: str, nics: Sequence[RequestedNic], *, host: str, key: str, hostname: str, zone: str
    ) -> list[PortWiring]:
        if not nics:
            return []
        boot = servers.Boot(server_id, host, key, hostname, zone)
        return await self._store.write(servers.allocate, self._config, context, boot, nics)

    async def release(self, server_id: str, *, keep: Collection[str]) -> None:
        await self._store.write(servers.release, self._config, server_id, keep)

    async def unbind(self, server_id: str) -> None:
        await self._store.write(servers.unbind, self._config, server_id)

    async def addresses(self, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
        return await self._store.read(servers.addresses, server_ids) if server_ids else {}

    async def ports(self, server_id: str) -> list[ServerPort]:
        return await self._store.read(servers.ports_of, server_id)

    async def security_groups(self, server_ids: Sequence[str]) -> dict[str, list[SecurityGroup]]:
        return await self._store.read(server_groups.of_servers, server_ids) if server_ids else {}

    async def security_groups_of(self, server_id: str) -> list[SecurityGroup]:
        return await self._store.read(server_groups.of_server, server_id)

    async def add_security_group(self, context: Context, server_id: str, group: str) -> None:
        await self._changed(await self._store.write(server_groups.add, self._config, context, server_id, group))

    async def remove_security_group(self, context: Context, server_id: str, group: str) -> None:
        await self._changed(await self._store.write(server_groups.remove, self._config, context, server_id, group))

    async def servers_at(self, address: str, version: int) -> list[str]:
        return await self._store.read(servers.at, address, version)

    async def readiness(self, port_ids: Sequence[str], *, host: str) -> list[PortReadiness]:
        return await self._store.read(servers.readiness, port_ids, host) if port_ids else []

    async def devices(self, *, after: str = "", most: int | None = None) -> set[str]:
        return await self._store.read(servers.devices, after, most)
