"""A cloud without HTTP, for the boot's tests: real compute, network and placement, hosts on simulated seams that outlive them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from pileus.bus.inprocess import Fate, InProcessBus
from pileus.clients.image import ImageInfo
from pileus.clients.network import Requested, RequestedNic
from pileus.compute import actions, servers
from pileus.compute.creation import NewServer
from pileus.compute.hostwatch import HostWatch
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.compute.worker import Worker
from pileus.context import SYSTEM, Context
from pileus.errors import NotFound
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.hypervisor.simulated import World as Guests
from pileus.host.images import ImageCache
from pileus.host.service import Host, Parts
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.host.switch.simulated import World as Ports
from pileus.hosts import hollow_address
from pileus.network import networks, subnets
from pileus.network.client import InProcessNetwork
from pileus.network.service import Network
from pileus.placement.service import Placement
from pileus.settings import Settings
from pileus.store import Store
from pileus.store.sqlite import SqliteStore
from tests.boot.callback import DirectEvents

PROJECT = "11111111-1111-1111-1111-111111111111"
USER = Context(user_id="user", project_id=PROJECT, roles=frozenset({"member", "reader"}), request_id="req-test")
FLAVOR = {"id": "1", "name": "nano", "ram": 128, "vcpus": 1, "disk": 0, "ephemeral": 0, "swap": 0, "extra_specs": {}}


class NoImages:
    """An image service without images: servers here boot from nothing."""

    async def show(self, context: Context, image_id: str) -> ImageInfo:
        raise NotFound(f"No image {image_id}")

    async def ticket(self, image_id: str) -> str:
        raise NotFound(f"No image {image_id}")

    def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        raise NotFound(f"No image {image_id}")


class Cloudlet:
    def __init__(self, folder: Path, settings: Settings, hosts: int, fate: Fate | None) -> None:
        self.folder = folder
        self.settings = settings
        self.bus = InProcessBus(fate)
        self.names = [f"host-{n}" for n in range(hosts)]
        self.guests = {name: Guests() for name in self.names}
        self.ports = {name: Ports() for name in self.names}
        self.hosts: dict[str, Host] = {}
        self.dhcp = {name: SimulatedDhcp() for name in self.names}

    async def open(self) -> None:
        self.store = await self.open_store()
        self.placement = Placement(self.store)
        callback = self.settings.compute.plug_signal == "callback"
        self.network = Network(self.store, self.bus, self.settings, notify=callback)
        client = InProcessNetwork(self.store, self.network.config)
        self.compute = Compute(self.store, self.bus, self.settings, NoImages(), client, self.placement)
        self.events = DirectEvents(self.store, self.bus)
        self.network.notify_by(self.events)
        await self.network.start()
        await self.start_control()
        for name in self.names:
            await self.start_host(name)
        await self.until(self._all_known)
        self.net = await self.store.write(self._make_network)

    async def open_store(self) -> Store:
        return await asyncio.to_thread(SqliteStore.open, self.folder / "pileus.db")

    async def close(self) -> None:
        for name in list(self.hosts):
            await self.stop_host(name)
        await self.stop_control()
        await self.network.close()
        await self.bus.close()
        await self.store.close()

    async def start_control(self) -> None:
        scheduler = Scheduler(self.store, self.placement, self.settings.compute)
        self.watch, self.worker = HostWatch(self.compute, scheduler), Worker(self.compute, scheduler, exclusive=True)
        await self.watch.start()
        await self.worker.start()

    async def stop_control(self) -> None:
        await self.worker.close()
        await self.watch.close()

    async def start_host(self, name: str) -> Host:
        """A host process on the world that is there: what ran goes on."""
        address = hollow_address(name)
        parts = Parts(
            hypervisor=SimulatedHypervisor(self.settings.simulated, world=self.guests[name]),
            switch=SimulatedSwitch(self.settings.simulated, world=self.ports[name], tunnel_address=address),
            dhcp=self.dhcp[name],
            images=ImageCache(self.folder / "cache", NoImages(), self.settings.host),
        )
        section = msgspec.structs.replace(self.settings.host, tunnel_address=address)
        host = self.hosts[name] = Host(name, parts, self.bus, msgspec.structs.replace(self.settings, host=section))
        await host.start()
        return host

    async def stop_host(self, name: str) -> None:
        await self.hosts.pop(name).close()

    async def create(self, requested: Requested | None = None, *, count: int = 1, name: str = "server") -> list[str]:
        nics = [RequestedNic(network_id=self.net)] if requested is None else requested
        made = await self.compute.create(USER, NewServer(name=name, flavor=FLAVOR, nics=[]), nics, count=count)
        return [row["id"] for row in made]

    async def server(self, server_id: str) -> dict[str, Any]:
        return await self.store.read(servers.get, SYSTEM, server_id, deleted=True)

    async def last_action(self, server_id: str) -> dict[str, Any]:
        return (await self.store.read(actions.of_server, server_id))[0]

    async def settled(self, server_id: str, limit: float = 20.0) -> dict[str, Any]:
        """The server when no action is under way on it."""
        found: dict[str, Any] = {}

        async def done() -> bool:
            found.update(await self.server(server_id))
            return (await self.last_action(server_id))["state"] in ("done", "failed")

        await self.until(done, limit)
        return await self.server(server_id)

    async def until(self, condition: Callable[[], Any], limit: float = 20.0) -> None:
        """Wait for a condition, looking every few milliseconds."""
        async with asyncio.timeout(limit):
            while True:
                outcome = condition()
                if await outcome if asyncio.iscoroutine(outcome) else outcome:
                    return
                await asyncio.sleep(0.005)

    async def nothing_left(self) -> None:
        """No guest, port, TAP, flow, DHCP entry, claim or server port anywhere. Raises TimeoutError that says what is left."""

        async def empty() -> bool:
            return not await self.left()

        try:
            await self.until(empty, 10)
        except TimeoutError:
            raise AssertionError(f"left behind: {await self.left()}") from None

    async def left(self) -> dict[str, Any]:
        found: dict[str, Any] = {"claims": await self.placement.consumers(), "devices": await self.compute.network.devices()}
        for name in self.names:
            found[f"{name} guests"] = list(self.guests[name].guests)
            found[f"{name} ports"] = list(self.ports[name].ports)
            found[f"{name} taps"] = sorted(self.ports[name].taps)
            found[f"{name} dhcp"] = await self.dhcp[name].known()
        return {what: rest for what, rest in found.items() if rest}

    async def _all_known(self) -> bool:
        pictures = await self.placement.pictures()
        return {p.name for p in pictures} >= set(self.names)

    def _make_network(self, tx: Any) -> str:
        made = networks.create(tx, self.network.config, networks.NewNetwork(PROJECT, name="net"))
        new = subnets.NewSubnet(made["id"], "10.0.0.0/20", 4, PROJECT)
        subnets.create(tx, self.network.config, USER, new)
        return str(made["id"])


def settings(signal: str = "local", **sections: dict[str, Any]) -> Settings:
    """Settings for the boot's tests: quick retries, networks that any number of hosts share by tunnels."""
    tree: dict[str, Any] = {
        "compute": {"plug_signal": signal, "resend_interval": 0.2, "vif_plugging_timeout": 5.0},
        "network": {"send_events_interval": 0.0, "rpc_timeout": 0.2},
    }
    for name, values in sections.items():
        tree.setdefault(name, {}).update(values)
    return msgspec.convert(tree, Settings)


@asynccontextmanager
async def cloudlet(
    folder: Path, with_settings: Settings | None = None, *, hosts: int = 2, fate: Fate | None = None
) -> AsyncIterator[Cloudlet]:
    cloud = Cloudlet(folder, with_settings or settings(), hosts, fate)
    await cloud.open()
    try:
        yield cloud
    finally:
        await cloud.close()
