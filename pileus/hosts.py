"""Hosts put together: one real host on this machine, or one side of it, or hollow ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from pileus.bus import Bus
from pileus.errors import StartupError
from pileus.host.compute_part import ComputeAlone, ComputeParts
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.images import ImageCache, ImageSource
from pileus.host.network_part import NetworkPart, NetworkParts
from pileus.host.service import Host, Parts
from pileus.settings import Settings

if TYPE_CHECKING:
    from pileus.host.hollow import Ledger
    from pileus.host.hypervisor.qemu import Qemu

NEEDED = ("qemu-img", "ovs-vswitchd", "ovsdb-server", "dnsmasq")

Part = Literal["both", "compute", "network"]
"""Of a host: the compute side (hypervisor, images, guests), the network agent (switch, DHCP), or both in one process."""

SPREAD, MOST_SPREAD = 0.01, 5.0
"""Seconds a hollow host, and at most, over which their first reports are spread."""


class HostPart(Protocol):
    """A host, or one side of it."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def missing_for_real(settings: Settings) -> str | None:
    """Why real guests cannot run here, in words; None when they can."""
    if os.geteuid() != 0:
        return "not root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
    gone = [name for name in (settings.host.guest_emulator, *NEEDED) if shutil.which(name, path=path) is None]
    if gone:
        return f"not installed: {', '.join(gone)}"
    return None if Path("/dev/net/tun").exists() else "/dev/net/tun is missing"


def host_name(settings: Settings) -> str:
    return settings.host.name or socket.gethostname()


def real_host(settings: Settings, state: Path, bus: Bus, source: ImageSource | None = None, *, part: Part = "both") -> HostPart:
    """QEMU, Open vSwitch and dnsmasq on this machine. `source` None: images come from the API. Raises StartupError."""
    from pileus.host.switch.taps import SwitchTaps

    name = host_name(settings)
    if part == "network":
        return NetworkPart(name, _network(settings, state), bus, settings)
    images = _images(settings, state, source)
    if part == "compute":
        taps = SwitchTaps(state / "switch", settings.host)
        return ComputeAlone(name, ComputeParts(_qemu(settings, state), taps, images), bus, settings, at_end=taps.close)
    network = _network(settings, state)
    return Host(name, Parts(_qemu(settings, state), network.switch, network.dhcp, images), bus, settings)


def hollow_hosts(settings: Settings, state: Path, bus: Bus, source: ImageSource | None = None) -> list[HostPart]:
    """As many hosts as asked for, simulated. They share an image cache, and a file that keeps what they hold. Raises StartupError."""
    from pileus.host.hollow import Ledger
    from pileus.host.hypervisor.simulated import SimulatedHypervisor
    from pileus.host.switch.simulated import SimulatedSwitch

    name, count = host_name(settings), settings.host.hosts
    names = [name] if count == 1 else [f"{name}-{n:04d}" for n in range(1, count + 1)]
    images = _images(settings, state, source)
    ledger = Ledger(state / "hollow" / f"{name.replace('/', '_')}.db")
    spread = min(SPREAD * count, MOST_SPREAD) if count > 1 else 0.0
    return [
        _HollowHost(
            each,
            Parts(
                hypervisor=SimulatedHypervisor(settings.simulated, seed=seed, world=ledger.guests(each)),
                switch=SimulatedSwitch(settings.simulated, seed=seed, world=ledger.ports(each), tunnel_address=hollow_address(each)),
                dhcp=SimulatedDhcp(),
                images=images,
            ),
            bus,
            _with_address(settings, hollow_address(each)),
            ledger,
            spread,
        )
        for seed, each in enumerate(names)
    ]


def hollow_address(name: str) -> str:
    """Where a hollow host's tunnels would end: an address of the documentation's network (RFC 3849), another one for each name."""
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return str(IPv6Address((0x20010DB8 << 96) | number))


def _with_address(settings: Settings, address: str) -> Settings:
    return msgspec.structs.replace(settings, host=msgspec.structs.replace(settings.host, tunnel_address=address))


class _HollowHost(Host):
    def __init__(self, name: str, parts: Parts, bus: Bus, settings: Settings, ledger: Ledger, spread: float) -> None:
        super().__init__(name, parts, bus, settings, spread=spread)
        self._ledger = ledger
        ledger.join()

    async def close(self) -> None:
        await super().close()
        self._ledger.leave()


def _qemu(settings: Settings, state: Path) -> Qemu:
    from pileus import tinyguest
    from pileus.host.hypervisor.qemu import Qemu

    def proof_guest() -> tuple[Path, Path] | None:
        found = tinyguest.find(tinyguest.default_folder())
        return None if found is None else (found.kernel, found.ramdisk)

    return Qemu(state / "guests", settings.host, settings.compute, proof_guest=proof_guest)


def _network(settings: Settings, state: Path) -> NetworkParts:
    from pileus.host.dnsmasq import Dnsmasq
    from pileus.host.switch.openvswitch import OpenVSwitch

    switch = OpenVSwitch(state / "switch", settings.host)
    return NetworkParts(switch, Dnsmasq(state / "dhcp", switch, settings.network, host=host_name(settings)))


def _images(settings: Settings, state: Path, source: ImageSource | None) -> ImageCache:
    if source is not None:
        return ImageCache(state / "cache", source, settings.host)
    from pileus.host.image_http import HttpImages

    if not settings.host.api_url:
        raise StartupError(
            "setting host.api_url is empty: a host that runs apart fetches images from the API; set it to http://ADDRESS:PORT"
        )
    images = HttpImages(settings.host.api_url, settings.host.api_ca)
    return ImageCache(state / "cache", images, settings.host, at_end=images.close)
