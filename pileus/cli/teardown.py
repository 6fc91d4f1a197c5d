"""What a cloud leaves running on this machine when it ends, ended too: guests, DHCP servers, switch, TAPs, namespaces.

Works on the state folder alone, so the cloud may have been killed at any instant.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from pileus.cli.statefolder import DHCP, GUESTS, SWITCH, running_parts
from pileus.errors import StartupError
from pileus.settings import Settings

GUESTS_AT_ONCE = 16
POWER_OFF = 10.0
"""Most seconds that guests have to power off by themselves; somebody waits at a terminal."""


def teardown(settings: Settings) -> list[str]:
    """End all of it; what was ended, in words. Raises StartupError where that is not possible (not root, a cloud still runs)."""
    state = Path(settings.state).absolute()
    for _, pid in running_parts(state):
        raise StartupError(f"the cloud in {state} still runs (pid {pid})")
    if not (state / GUESTS).is_dir():
        return []  # no real host was ever here
    return [*asyncio.run(_end_guests(settings, state / GUESTS)), *asyncio.run(_end_network(settings, state))]


async def _end_guests(settings: Settings, folder: Path) -> list[str]:
    """Power guests off; their disks stay."""
    from pileus.host.hypervisor.qemu import Qemu

    patience = min(settings.compute.shutdown_timeout, POWER_OFF)
    compute = msgspec.structs.replace(settings.compute, shutdown_timeout=patience)
    hypervisor = Qemu(folder, settings.host, compute, proof_guest=lambda: None)
    try:
        running = [guest for guest in await hypervisor.found() if guest.power not in ("stopped", "crashed", "absent")]
        turns = asyncio.Semaphore(GUESTS_AT_ONCE)

        async def end(server_id: str, *, hard: bool) -> None:
            async with turns:
                await hypervisor.stop(server_id, hard=hard)

        await asyncio.gather(*(end(guest.spec.server_id, hard=guest.power != "running") for guest in running))
    finally:
        await hypervisor.close()
    return [f"{len(running)} guest{'s' if len(running) != 1 else ''} powered off"] if running else []


async def _end_network(settings: Settings, state: Path) -> list[str]:
    """Ports, DHCP servers, and the switch's daemons where they are our own."""
    from pileus.host import privileged
    from pileus.host.dnsmasq import Dnsmasq
    from pileus.host.switch import daemons
    from pileus.host.switch.openvswitch import OpenVSwitch

    folder = state / SWITCH
    own = not settings.host.switch_db
    if own and not privileged.namespace_exists(daemons.namespace_name(folder)):
        return []
    switch = OpenVSwitch(folder, settings.host)
    await switch.start()
    try:
        dhcp = Dnsmasq(state / DHCP, switch, settings.network, settings.host.name)
        await dhcp.start()
        try:
            networks = set((await dhcp.known()).values())
            await dhcp.stop_all()
        finally:
            await dhcp.close()
        ports = [port.port_id for port in await switch.ports()]
        if ports:
            await switch.unplug(ports)
    finally:
        await switch.close()
    if own:
        await daemons.stop_daemons(folder)
    told = [f"{len(networks)} DHCP server{'s' if len(networks) != 1 else ''}"] if networks else []
    told += [f"{len(ports)} switch port{'s' if len(ports) != 1 else ''}"] if ports else []
    return [
        *told,
        "the switch's daemons and its namespace" if own else f"but not bridge {settings.host.bridge} of a switch that is not ours",
    ]
