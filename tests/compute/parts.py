"""A compute service with small stand-ins for its neighbours, and rows as the worker would leave them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update

from pileus.bus.inprocess import InProcessBus
from pileus.clients.image import ImageInfo
from pileus.clients.network import CheckedNics, PortReadiness, Requested, RequestedNic, SecurityGroup, ServerAddress, ServerPort
from pileus.clients.placement import Inventory, ProviderPicture, Resources
from pileus.compute import beats, flavors, hosts
from pileus.compute.service import Compute
from pileus.compute.tables import servers
from pileus.context import Context
from pileus.errors import Conflict, NotFound
from pileus.messages import HostFacts, PortWiring
from pileus.settings import Settings
from pileus.store import Store, Tx
from pileus.store.sql import Row

IMAGE = "0f1e2d3c-0000-4000-8000-000000000001"
NETWORK = "0f1e2d3c-0000-4000-8000-000000000002"
PORT = "0f1e2d3c-0000-4000-8000-000000000003"
SUBNET = "0f1e2d3c-0000-4000-8000-000000000004"
NOWHERE = "0f1e2d3c-0000-4000-8000-00000000ffff"


class Images:
    """One image; `min_disk` 2 GiB."""

    async def show(self, context: Context, image_id: str) -> ImageInfo:
        if image_id != IMAGE:
            raise NotFound(f"Image {image_id} could not be found.")
        return ImageInfo(IMAGE, "tiny", "active", "qcow2", 10, 1 << 30, "00", min_disk=2, min_ram=128)

    async def ticket(self, image_id: str) -> str:
        return f"ticket for {image_id}"


@dataclass
class Networks:
    """One network and one port. `given`: server → addresses, `groups`: server → security groups, of which there is `web`."""

    given: dict[str, list[ServerAddress]] = field(default_factory=dict)
    asked: list[tuple[Requested, int]] = field(default_factory=list)
    groups: dict[str, list[SecurityGroup]] = field(default_factory=dict)
    wanted_groups: list[Sequence[str]] = field(default_factory=list)
    changed_groups: list[tuple[str, str, str]] = field(default_factory=list)
    lookups: int = 0
    addresses_together: int = 1000

    async def check(self, context: Context, requested: Requested, *, count: int, security_groups: Sequence[str] = ()) -> CheckedNics:
        self.asked.append((requested, count))
        self.wanted_groups.append(security_groups)
        if not {"web", "default"}.issuperset(security_groups):
            raise NotFound(f"Security group {security_groups[0]} not found.", kind="SecurityGroupNotFound")
        if requested == "none":
            return CheckedNics([])
        nics = [RequestedNic(network_id=NETWORK)] if requested == "auto" else requested
        for nic in nics:
            assert not isinstance(nic, str)
            if nic.network_id not in (None, NETWORK):
                raise NotFound(f"Network {nic.network_id} could not be found.")
            if nic.port_id not in (None, PORT):
                raise NotFound(f"Port {nic.port_id} could not be found.")
            if nic.fixed_ip == "10.0.0.1":
                raise Conflict("Fixed IP address 10.0.0.1 is already in use.", kind="IpAddressAlreadyAllocated")
        return CheckedNics([nic for nic in nics if not isinstance(nic, str)])

    async def constraint(self, nics: Sequence[RequestedNic]) -> CheckedNics:
        return CheckedNics(list(nics))

    async def allocate(
        self, context: Context, server_id: str, nics: Sequence[RequestedNic], *, host: str, key: str, hostname: str, zone: str
    ) -> list[PortWiring]:
        raise NotImplementedError

    async def release(self, server_id: str, *, keep: Collection[str]) -> None: ...

    async def unbind(self, server_id: str) -> None: ...

    async def addresses(self, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
        self.lookups += 1
        return {server: self.given[server] for server in server_ids if server in self.given}

    async def ports(self, server_id: str) -> list[ServerPort]:
        found = self.given.get(server_id, [])
        return [ServerPort(a.port_id, NETWORK, a.mac, "ACTIVE", i, ((SUBNET, a.address),)) for i, a in enumerate(found)]

    async def security_groups(self, server_ids: Sequence[str]) -> dict[str, list[SecurityGroup]]:
        return {server: self.groups[server] for server in server_ids if server in self.groups}

    async def security_groups_of(self, server_id: str) -> list[SecurityGroup]:
        return self.groups.get(server_id, [])

    async def add_security_group(self, context: Context, server_id: str, group: str) -> None:
        if group != "web":
            raise NotFound(f"Security group {group} not found.", kind="SecurityGroupNotFound")
        self.changed_groups.append(("add", server_id, group))

    async def remove_security_group(self, context: Context, server_id: str, group: str) -> None:
        self.changed_groups.append(("remove", server_id, group))

    async def servers_at(self, address: str, version: int) -> list[str]:
        wanted = address.strip("^$")
        return [s for s, found in self.given.items() if any(a.ip_version == version and wanted in a.address for a in found)]

    async def readiness(self, port_ids: Sequence[str], *, host: str) -> list[PortReadiness]:
        return []

    async def devices(self, *, after: str = "", most: int | None = None) -> set[str]:
        return set(sorted(server for server in self.given if server > after)[:most])


class Placements:
    async def set_provider(self, provider_id: str, name: str, inventories: Mapping[str, Inventory]) -> None: ...

    async def pictures(self) -> list[ProviderPicture]:
        return []

    async def claim(self, consumer: str, provider_id: str, resources: Resources, *, project_id: str, user_id: str) -> bool:
        return True

    async def release(self, consumer: str) -> None: ...

    async def consumers(self, *, after: str = "", most: int | None = None) -> set[str]:
        return set()


def compute_with(store: Store, settings: Settings | None = None) -> Compute:
    return Compute(store, InProcessBus(), settings or Settings(), Images(), Networks(), Placements())


def facts(host: str, **changes: Any) -> HostFacts:
    values: dict[str, Any] = {
        "host": host,
        "hypervisor_type": "QEMU",
        "hypervisor_version": 7002000,
        "vcpus": 8,
        "memory_mb": 16384,
        "disk_gb": 100,
        "cpu_info": {"arch": "x86_64"},
        "acceleration": "tcg",
        "acceleration_reason": "",
        "address": "192.0.2.1",
        "started_at": time.time() - 3600,
    }
    return HostFacts(**(values | changes))


async def add_host(compute: Compute, name: str = "host1", **changes: Any) -> Row:
    await compute.store.write(beats.hear, [facts(name, **changes)], [])
    row = await compute.store.read(hosts.by_name, name)
    assert row is not None
    return row


async def add_flavor(compute: Compute, flavor_id: str = "1", name: str = "small", ram: int = 512, vcpus: int = 1, disk: int = 4) -> None:
    await compute.store.write(flavors.create, name=name, ram=ram, vcpus=vcpus, disk=disk, flavor_id=flavor_id)


async def set_row(compute: Compute, server_id: str, **values: Any) -> None:
    """Make a server what a worker would have made of it."""

    def change(tx: Tx) -> None:
        tx.execute(update(servers).where(servers.c.id == server_id).values(**values))

    await compute.store.write(change)


async def run(compute: Compute, server_id: str, host: str = "host1") -> None:
    """The server has been made: active on its host, with an address."""
    await set_row(compute, server_id, vm_state="active", task_state=None, power="running", host=host, launched_at=time.time())
    assert isinstance(compute.network, Networks)
    compute.network.given[server_id] = [ServerAddress("lan", "10.0.0.5", 4, "fa:16:3e:00:00:01", PORT)]
