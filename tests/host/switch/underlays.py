"""Several hosts on one machine: each with an Open vSwitch of its own, joined by an underlay of veth pairs on a bridge."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from pileus import settings
from tests.host.lan import ip
from tests.host.switch.rigs import OvsRig


class Underlay:
    """A namespace with a bridge; each host gets a device that leads to it."""

    def __init__(self) -> None:
        self.namespace = f"under-{secrets.token_hex(3)}"
        self.devices: list[str] = []
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "add", "hub", "type", "bridge")
        ip("-n", self.namespace, "link", "set", "hub", "up")

    def device(self) -> str:
        """A device of the machine, joined to all the others."""
        name = f"ul{secrets.token_hex(4)}"
        ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", self.namespace)
        ip("-n", self.namespace, "link", "set", name, "master", "hub", "up")
        self.devices.append(name)
        return name

    def cut(self, device: str, *, off: bool = True) -> None:
        """Pull the plug, or put it in again."""
        ip("-n", self.namespace, "link", "set", device, "down" if off else "up")

    def close(self) -> None:
        for name in self.devices:
            ip("link", "del", name, check=False)
        ip("netns", "del", self.namespace)


class Hosts:
    """Their switches. `addresses`: where their tunnels end."""

    def __init__(self, folder: Path, *, ipv6: bool = False) -> None:
        self.underlay = Underlay()
        self.rigs: list[OvsRig] = []
        self.addresses: list[str] = []
        self._folder = folder
        self._prefix = "2001:db8:7::" if ipv6 else "198.51.100."
        self._length = 64 if ipv6 else 24

    async def add(self) -> OvsRig:
        number = len(self.rigs) + 1
        address = f"{self._prefix}{number}"
        host = settings.Host(tunnel_address=f"{address}/{self._length}", tunnel_device=self.underlay.device())
        rig = OvsRig(self._folder / f"s{number}", host)
        self.rigs.append(rig)
        self.addresses.append(address)
        await rig.open()
        return rig

    async def meet(self, network_id: str) -> None:
        """Each host is told of all the others, as by the network service."""
        for rig, own in zip(self.rigs, self.addresses, strict=True):
            await rig.switch.members(network_id, frozenset(self.addresses) - {own})

    async def close(self) -> None:
        await asyncio.gather(*(rig.close() for rig in self.rigs))
        self.underlay.close()
