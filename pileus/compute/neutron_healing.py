"""Healing over HTTP: what a server's info cache is read anew from, in the requests that Nova makes for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from pileus.clients.network import ServerAddress
from pileus.compute import neutron_facts as facts
from pileus.compute.neutron_api import NeutronApi
from pileus.compute.neutron_facts import Json
from pileus.errors import NotFound

HEALED_AT_ONCE = 8
"""Servers whose addresses are asked for at once; the requests of one follow one another."""
EXTENSIONS_KNOWN = 600.0
"""Seconds that what the other side offers is believed (Nova's extension_sync_interval)."""


class Healing:
    """`addresses` of `HttpNetwork`."""

    def __init__(self, api: NeutronApi) -> None:
        self._api = api
        self._slots = asyncio.Semaphore(HEALED_AT_ONCE)
        self._extensions: tuple[float, frozenset[str]] = (0.0, frozenset())

    async def addresses(self, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
        """What heals a server's info cache, a server at a time as Nova does it: its ports; their networks; for each address its floating
        IP, for each port its subnets, for each of these the DHCP ports; and each port's network once more (twice with several segments).

        We need the first two; the others are Nova's, and asked so that healing costs the other side what Nova's does: with one port
        and one address 6 requests, 2 more for each further address (8 with IPv4 and IPv6; Nova's ninth asks for segments).
        """

        async def one(server_id: str) -> tuple[str, list[ServerAddress]]:
            async with self._slots:
                return server_id, await self._healed(server_id)

        found = await asyncio.gather(*[one(server_id) for server_id in dict.fromkeys(server_ids)])
        return {server_id: told for server_id, told in found if told}

    async def _healed(self, server_id: str) -> list[ServerAddress]:
        mine, _ = facts.of_server(server_id, await self._api.ports_of(server_id))
        if not mine:
            return []
        networks = await self._api.by_ids("networks", {port["network_id"] for port in mine.values()})
        segments = "multi-provider" in await self._offered()
        for port in mine.values():
            await self._as_nova_asks(port, segments)
        return facts.addresses(mine, networks)

    async def _as_nova_asks(self, port: Json, segments: bool) -> None:
        """The rest of what Nova asks of one port of a server that it heals (nova.network.neutron, `_build_vif_model`)."""
        for fixed in port["fixed_ips"]:
            with contextlib.suppress(NotFound):  # no floating IPs are offered there
                await self._api.listed("floatingips", {"fixed_ip_address": fixed["ip_address"], "port_id": port["id"]})
        subnets = await self._api.by_ids("subnets", {fixed["subnet_id"] for fixed in port["fixed_ips"]})
        for subnet in subnets.values():
            await self._api.listed("ports", {"network_id": subnet["network_id"], "device_owner": "network:dhcp"})
        with contextlib.suppress(NotFound):  # gone meanwhile
            if segments:
                await self._api.network(port["network_id"], ["segments"])
            await self._api.network(port["network_id"], ["provider:physical_network", "provider:network_type"])

    async def _offered(self) -> frozenset[str]:
        known_until, offered = self._extensions
        if time.monotonic() >= known_until:
            offered = await self._api.extensions()
            self._extensions = (time.monotonic() + EXTENSIONS_KNOWN, offered)
        return offered
