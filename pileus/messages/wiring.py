"""What a port is to be on its host."""

from __future__ import annotations

from typing import Literal

import msgspec

PlugSignal = Literal["local", "callback"]


NetworkType = Literal["geneve", "vxlan", "vlan", "local"]


class FixedIP(msgspec.Struct, frozen=True):
    subnet_id: str
    address: str


class HostRoute(msgspec.Struct, frozen=True):
    destination: str
    nexthop: str


class SubnetWiring(msgspec.Struct, frozen=True):
    """What a host must know of a subnet: for DHCP, and for a guest's config drive."""

    id: str
    cidr: str
    ip_version: int
    gateway: str | None
    enable_dhcp: bool
    dhcp_address: str | None
    """The address that the network's DHCP server uses in this subnet; None without DHCP."""
    dns: list[str] = []
    routes: list[HostRoute] = []


class AddressPair(msgspec.Struct, frozen=True):
    ip: str
    """An address or a CIDR."""
    mac: str


class PortWiring(msgspec.Struct, frozen=True):
    """All that a host needs to plug and wire one port. `generation` is the binding's: wired means wired at that generation."""

    port_id: str
    generation: int
    network_id: str
    network_type: NetworkType
    physical_network: str | None
    segmentation_id: int | None
    mtu: int
    mac: str
    fixed_ips: list[FixedIP]
    subnets: list[SubnetWiring]
    allowed_pairs: list[AddressPair] = []
    port_security: bool = True
    admin_up: bool = True
    dns_name: str = ""
    network_name: str = ""
    security_groups: list[str] = []
    """Ids of the groups whose rules say what passes; none: nothing but what every guest needs (ARP, DHCP, ND)."""
