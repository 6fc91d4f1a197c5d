"""The DHCP seam: what answers the guests of this host. Implementations: `dnsmasq.Dnsmasq` and, for hollow hosts, `SimulatedDhcp`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from pileus.host.switch import SwitchError
from pileus.messages import PortWiring, SubnetWiring

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class DhcpError(SwitchError):
    """A port's DHCP entry could not be made: the port counts as not wired. The text names the cause in one line."""


@dataclass(frozen=True)
class Entry:
    """What DHCP answers one port with. One address: a client with one MAC gets one lease (RFC 2131), the port's first."""

    port_id: str
    network_id: str
    mac: str
    address: str
    subnet_id: str
    hostname: str = ""


class Dhcp(Protocol):
    """Every call is idempotent and safe to cancel. Only ports of this host are ever answered."""

    async def start(self) -> None:
        """Adopt the servers that run already. Raises StartupError in one line when something needed is missing."""

    async def close(self) -> None:
        """Let go; servers go on answering, because guests outlive us."""

    async def ensure(self, port: PortWiring) -> None:
        """When this returns, a server for the port's network runs and knows the port. A port without DHCP: nothing.
        Raises DhcpError."""

    async def release(self, ports: Sequence[str]) -> None:
        """Entries and leases of these go; with a network's last port its server, device and namespace go too."""

    async def known(self) -> dict[str, str]:
        """Port id → network id of every entry that is really there."""

    async def stop_all(self) -> None:
        """Every server, device and namespace goes, whoever still uses it."""


def entry_of(port: PortWiring) -> Entry | None:
    """The port's DHCP entry: its first IPv4 address in a subnet with DHCP. None: the port has no such address."""
    for ip, subnet in offered(port):
        name = port.dns_name.split(".")[0]
        hostname = name if _LABEL.fullmatch(name) else ""
        return Entry(port.port_id, port.network_id, port.mac.lower(), ip, subnet.id, hostname)
    return None


def offered(port: PortWiring) -> Iterator[tuple[str, SubnetWiring]]:
    """The port's addresses that DHCP could give out, with their subnets, in the port's order."""
    subnets = {subnet.id: subnet for subnet in port.subnets}
    for fixed in port.fixed_ips:
        subnet = subnets.get(fixed.subnet_id)
        if subnet is not None and subnet.ip_version == 4 and subnet.enable_dhcp and subnet.dhcp_address:
            yield fixed.address, subnet


def static_routes(subnet: SubnetWiring) -> list[tuple[IPv4Network, IPv4Address]]:
    """A subnet's routes as option 121 must carry them: a client that gets it ignores the router option (RFC 3442), so
    the default route is among them. Empty when the subnet has no route beside its gateway."""
    routes = [
        (IPv4Network(route.destination, strict=False), IPv4Address(route.nexthop))
        for route in subnet.routes
        if ":" not in route.destination
    ]
    if routes and subnet.gateway and all(net.prefixlen for net, _ in routes):
        routes.append((IPv4Network("0.0.0.0/0"), IPv4Address(subnet.gateway)))
    return routes


class SimulatedDhcp:
    """DHCP of a hollow host: keeps the entries a real one would, and answers nobody."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    async def start(self) -> None:
        """Nothing is needed."""

    async def close(self) -> None:
        """Nothing is held."""

    async def ensure(self, port: PortWiring) -> None:
        entry = entry_of(port)
        if entry is None:
            self.entries.pop(port.port_id, None)
        else:
            self.entries[port.port_id] = entry

    async def release(self, ports: Sequence[str]) -> None:
        for port_id in ports:
            self.entries.pop(port_id, None)

    async def known(self) -> dict[str, str]:
        return {port_id: entry.network_id for port_id, entry in self.entries.items()}

    async def stop_all(self) -> None:
        self.entries.clear()
