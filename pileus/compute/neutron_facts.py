"""What Neutron's API says of ports and networks, read and worded: no I/O.

A port that compute made or bound carries a mark in `binding:profile`, which only services and admins can write: whose it is, which of the
server's nics, under which key it was bound, and how often. What stands in `device_id`, a port's owner may write; alone it decides nothing.
Source: Neutron's api-ref, "Networking API v2.0" (ports, networks, subnets; the extensions binding, provider, port-security).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import msgspec

from pileus.clients.network import PortReadiness, ServerAddress, ServerPort
from pileus.errors import Conflict
from pileus.messages import AddressPair, FixedIP, HostRoute, NetworkType, PortWiring, SubnetWiring

Json = dict[str, Any]

MARK = "pileus"
HOST, PROFILE, DETAILS, VIF_TYPE = "binding:host_id", "binding:profile", "binding:vif_details", "binding:vif_type"
GENERATION = "generation"
"""In `binding:vif_details`: our own network service's count of the bindings, which its agents go by."""
OF_NETWORKS = "network:"
"""How the device owner of a network's own ports begins."""
NO_DETAILS: Json = {}


@dataclass(frozen=True)
class Mark:
    """`bindings` only grows while the port lives; `key` is empty while it is on no host, `server` while it is nobody's.
    `hostname`: for a DHCP server that reads it, as our own network service's does."""

    server: str = ""
    index: int = 0
    key: str = ""
    bindings: int = 0
    hostname: str = ""


@dataclass(frozen=True)
class OnNetwork:
    """A network, its subnets, and where its DHCP server is in each of them (by subnet)."""

    network: Json
    subnets: Sequence[Json]
    dhcp: Mapping[str, str]


def mark_of(port: Json) -> Mark:
    try:
        return msgspec.convert((port.get(PROFILE) or {}).get(MARK) or {}, Mark)
    except msgspec.ValidationError:
        return Mark()


def marked(port: Json, mark: Mark) -> Json:
    """The port's `binding:profile` with this mark; what others wrote there stays."""
    return {**(port.get(PROFILE) or {}), MARK: asdict(mark)}


def bound_again(port: Json, mark: Mark, host: str) -> Mark:
    """`mark`, for a port that is there. A binding that stays on its host stays the same one."""
    before = mark_of(port).bindings
    return replace(mark, bindings=before + (before == 0 or port.get(HOST) != host))


def released(port: Json) -> Mark:
    return Mark(bindings=mark_of(port).bindings)


def unbound(port: Json) -> Mark:
    return replace(mark_of(port), key="")


def generation(port: Json) -> int:
    """Of its binding: as our own network service counts them, else as the mark does."""
    told = (port.get(DETAILS) or NO_DETAILS).get(GENERATION)
    return told if isinstance(told, int) else mark_of(port).bindings


def is_ours(port: Json) -> bool:
    """Does the port come from a network service whose agents take our generations?"""
    return GENERATION in (port.get(DETAILS) or NO_DETAILS)


def of_server(server_id: str, found: Sequence[Json]) -> tuple[dict[int, Json], list[Json]]:
    """The server's ports by their nic, and those that are there twice: of a request that was sent again, and came twice."""
    mine = sorted((port for port in found if mark_of(port).server == server_id), key=lambda port: (not port.get(HOST), str(port["id"])))
    by_index: dict[int, Json] = {}
    twice = [port for port in mine if by_index.setdefault(mark_of(port).index, port) is not port]
    return dict(sorted(by_index.items())), twice


def wiring(port: Json, on: OnNetwork, hostname: str) -> PortWiring:
    """Raises Conflict for a network that no host of ours can have."""
    network = on.network
    kind, physical, number = segment(network)
    if kind not in get_args(NetworkType):
        raise Conflict(
            f"Network {network['id']} is of type {kind}: our hosts offer {', '.join(get_args(NetworkType))}.", kind="NetworkType"
        )
    used = {address["subnet_id"] for address in port["fixed_ips"]}
    return PortWiring(
        port_id=port["id"],
        generation=generation(port),
        network_id=network["id"],
        network_type=msgspec.convert(kind, NetworkType),
        physical_network=physical,
        segmentation_id=number,
        mtu=network.get("mtu") or 1500,
        mac=port["mac_address"],
        fixed_ips=[FixedIP(address["subnet_id"], address["ip_address"]) for address in port["fixed_ips"]],
        subnets=[_subnet(subnet, on.dhcp.get(subnet["id"])) for subnet in on.subnets if subnet["id"] in used],
        allowed_pairs=[_pair(port, pair) for pair in port.get("allowed_address_pairs") or []],
        port_security=port.get("port_security_enabled", True),
        admin_up=port["admin_state_up"] and network["admin_state_up"],
        dns_name=hostname,
        network_name=network["name"],
        security_groups=list(port.get("security_groups") or []),
    )


def segment(network: Json) -> tuple[str, str | None, int | None]:
    """Type, physical network and number; of several segments those of the first that has a physical network, as Nova takes it."""
    several = network.get("segments") or []
    one = next((each for each in several if each.get("provider:physical_network")), several[0] if several else network)
    return (
        one.get("provider:network_type") or "",
        one.get("provider:physical_network"),
        one.get("provider:segmentation_id"),
    )


def readiness(port: Json) -> PortReadiness:
    """A port that was switched off is never ACTIVE: there is nothing to wait for."""
    now = generation(port)
    wired = port["status"] == "ACTIVE" or not port.get("admin_state_up", True)
    failed = port["status"] == "ERROR" or bind_failed(port)
    cause = f"the network service says: status {port['status']}, {VIF_TYPE} {port.get(VIF_TYPE)}" if failed else ""
    return PortReadiness(port["id"], now, wired=now if wired else 0, failed=now if failed else 0, cause=cause)


def bind_failed(port: Json) -> bool:
    return port.get(VIF_TYPE) == "binding_failed"


def addresses(ports: Mapping[int, Json], networks: Mapping[str, Json]) -> list[ServerAddress]:
    """Of networks that are gone meanwhile there are none."""
    return [
        ServerAddress(
            networks[port["network_id"]]["name"],
            fixed["ip_address"],
            6 if ":" in fixed["ip_address"] else 4,
            port["mac_address"],
            port["id"],
        )
        for port in ports.values()
        if port["network_id"] in networks
        for fixed in port["fixed_ips"]
    ]


def server_port(port: Json) -> ServerPort:
    fixed = tuple((each["subnet_id"], each["ip_address"]) for each in port["fixed_ips"])
    return ServerPort(port["id"], port["network_id"], port["mac_address"], port["status"], mark_of(port).index, fixed)


def _subnet(subnet: Json, dhcp_address: str | None) -> SubnetWiring:
    return SubnetWiring(
        id=subnet["id"],
        cidr=subnet["cidr"],
        ip_version=subnet["ip_version"],
        gateway=subnet["gateway_ip"],
        enable_dhcp=subnet["enable_dhcp"],
        dhcp_address=dhcp_address if subnet["enable_dhcp"] else None,
        dns=list(subnet.get("dns_nameservers") or []),
        routes=[HostRoute(route["destination"], route["nexthop"]) for route in subnet.get("host_routes") or []],
    )


def _pair(port: Json, pair: Json) -> AddressPair:
    return AddressPair(pair["ip_address"], pair.get("mac_address") or port["mac_address"])
