"""The network service in process, as compute uses it: one transaction a call."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pileus.clients.network import CheckedNics, PortReadiness, Requested, RequestedNic, ServerAddress, ServerPort
from pileus.context import Context
from pileus.messages import PortWiring
from pileus.network import servers
from pileus.network.config import Config
from pileus.store import Store
from pileus.together import Shared


class InProcessNetwork:
    """See `pileus.clients.network.NetworkClient`."""

    addresses_together = 1000

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._shared = Shared("network-questions")

    async def check(self, context: Context, requested: Requested, *, count: int) -> CheckedNics:
        asked = requested if isinstance(requested, str) else tuple(requested)
        key = ("check", context.user_id, context.project_id, context.roles, asked, count)
        return await self._shared.ask(key, lambda: self._store.read(servers.check, self._config, context, requested, count))

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

    async def servers_at(self, address: str, version: int) -> list[str]:
        return await self._store.read(servers.at, address, version)

    async def readiness(self, port_ids: Sequence[str], *, host: str) -> list[PortReadiness]:
        return await self._store.read(servers.readiness, port_ids, host) if port_ids else []

    async def devices(self, *, after: str = "", most: int | None = None) -> set[str]:
        return await self._store.read(servers.devices, after, most)
