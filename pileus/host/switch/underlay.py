"""The underlay: what tunnels between hosts need beside the integration bridge's flows.

One port a type of tunnel, for all networks and all hosts: where a packet goes and by which VNI is said by flows. The userspace datapath
looks for the way to a host among the bridges that carry an address, so the device that the tunnels leave by is in a bridge of its
own, and the address is that bridge's.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pileus import settings
from pileus.errors import StartupError
from pileus.host import netlink
from pileus.host.privileged import Namespace
from pileus.host.switch.database import Database

BRIDGE = "br-underlay"
PORTS = {"geneve": "tun-geneve", "vxlan": "tun-vxlan"}
"""Type → the switch's port for tunnels of that type."""

_OWNER, _ADDRESS = "pileus-underlay-of", "pileus-address"
_DISCARD = 9


@dataclass(frozen=True)
class Underlay:
    """`device` empty: the switch finds its way from the address by itself."""

    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    device: str

    @property
    def address(self) -> str:
        return str(self.interface.ip)


def read(host: settings.Host) -> Underlay | None:
    """None: this host has no tunnels. Raises StartupError."""
    if not host.tunnel_address:
        if host.tunnel_device:
            raise StartupError("host.tunnel_device is set, but host.tunnel_address is not: give the address that it shall carry")
        return None
    try:
        interface = ipaddress.ip_interface(host.tunnel_address)
    except ValueError:
        raise StartupError(f"host.tunnel_address: {host.tunnel_address!r} is no IP address") from None
    if host.tunnel_device and "/" not in host.tunnel_address:
        raise StartupError(f"host.tunnel_address: {host.tunnel_address} needs its prefix length, as in {host.tunnel_address}/24")
    if not host.tunnel_device and not host.switch_db:
        raise StartupError("host.tunnel_address needs host.tunnel_device: our own switch has no other way out")
    return Underlay(interface, host.tunnel_device)


def addresses(told: Iterable[str]) -> set[str]:
    """Those that are IP addresses. Each host says its own of itself: what one says wrongly is not to stop the others."""
    found = set()
    for address in told:
        with suppress(ValueError):
            ipaddress.ip_address(address)
            found.add(address)
    return found


async def ensure(database: Database, namespace: Namespace, bridge: str, underlay: Underlay | None) -> None:
    """Make the tunnels' ports and the bridge that carries the address; without an underlay they go. Raises SwitchError, OSError."""
    wanted = "" if underlay is None else underlay.address
    for kind, name in PORTS.items():
        if database.port_note(name, _ADDRESS) != wanted:
            await database.remove_port(bridge, name)
        if underlay is not None:
            # Packets of any length and any host: both are the flows' to say.
            options = {"remote_ip": "flow", "key": "flow", "local_ip": wanted}
            await database.ensure_port(bridge, name, kind=kind, options=options, notes={_ADDRESS: wanted})
    carried = "" if underlay is None or not underlay.device else f"{underlay.interface} {underlay.device}"
    ours = BRIDGE in database.bridges(prefix=BRIDGE) and database.bridge_note(BRIDGE, _OWNER) == bridge
    if ours and database.bridge_note(BRIDGE, _ADDRESS) != carried:
        await database.remove_bridge(BRIDGE)
    if underlay is not None and carried:
        await database.ensure_bridge(BRIDGE, {_OWNER: bridge, _ADDRESS: carried}, forwards=True)
        await database.ensure_port(BRIDGE, underlay.device)
        await database.apply()
        await namespace.run(_carry, underlay)


def greet(addresses: Iterable[str]) -> None:
    """Send each of these hosts a word that means nothing, so that its link address is known before the first packet needs it: the
    switch would drop that one. Runs inside the switch's namespace."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel, suppress(OSError):
            channel.sendto(b"", (address, _DISCARD))


def _carry(underlay: Underlay) -> None:
    """Runs inside the switch's namespace."""
    if underlay.interface.version == 6:
        Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6").write_text("0")
    for name in (underlay.device, BRIDGE):
        netlink.set_link(name, up=True)
    netlink.add_address(BRIDGE, underlay.address, underlay.interface.network.prefixlen)
