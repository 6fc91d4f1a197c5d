"""Hosts put together: one real host on this machine, or hollow ones."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from pileus.bus import Bus
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.images import ImageCache, ImageSource
from pileus.host.service import Host, Parts
from pileus.settings import Settings

NEEDED = ("qemu-img", "ovs-vswitchd", "ovsdb-server", "dnsmasq")


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


def real_host(settings: Settings, state: Path, bus: Bus, source: ImageSource) -> Host:
    """QEMU, Open vSwitch and dnsmasq on this machine."""
    from pileus import tinyguest
    from pileus.host.dnsmasq import Dnsmasq
    from pileus.host.hypervisor.qemu import Qemu
    from pileus.host.switch.openvswitch import OpenVSwitch

    def proof_guest() -> tuple[Path, Path] | None:
        found = tinyguest.find(tinyguest.default_folder())
        return None if found is None else (found.kernel, found.ramdisk)

    switch = OpenVSwitch(state / "switch", settings.host)
    parts = Parts(
        hypervisor=Qemu(state / "guests", settings.host, settings.compute, proof_guest=proof_guest),
        switch=switch,
        dhcp=Dnsmasq(state / "dhcp", switch, settings.network, host=host_name(settings)),
        images=ImageCache(state / "cache", source, settings.host),
    )
    return Host(host_name(settings), parts, bus, settings)


def hollow_hosts(settings: Settings, state: Path, bus: Bus, source: ImageSource) -> list[Host]:
    """As many hosts as asked for, simulated; they share an image cache."""
    from pileus.host.hypervisor.simulated import SimulatedHypervisor
    from pileus.host.switch.simulated import SimulatedSwitch

    name = host_name(settings)
    names = [name] if settings.host.hosts == 1 else [f"{name}-{n:04d}" for n in range(1, settings.host.hosts + 1)]
    images = ImageCache(state / "cache", source, settings.host)
    return [
        Host(
            each,
            Parts(
                hypervisor=SimulatedHypervisor(settings.simulated, seed=seed),
                switch=SimulatedSwitch(settings.simulated, seed=seed),
                dhcp=SimulatedDhcp(),
                images=images,
            ),
            bus,
            settings,
        )
        for seed, each in enumerate(names)
    ]
