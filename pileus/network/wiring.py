"""What a host is told of a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, select

from pileus.messages import AddressPair, FixedIP, HostRoute, PortWiring, SubnetWiring
from pileus.network import visible
from pileus.network.tables import ports
from pileus.store import Tx
from pileus.store.sql import Row, rows


def of(port: Row, network: Row, subnets: Sequence[Row]) -> PortWiring:
    """`port` with its `fixed_ips`; `subnets` of its network."""
    used = {address["subnet_id"] for address in port["fixed_ips"]}
    return PortWiring(
        port_id=port["id"],
        generation=port["generation"],
        network_id=network["id"],
        network_type=network["type"],
        physical_network=network["physical_network"],
        segmentation_id=network["segmentation_id"],
        mtu=network["mtu"],
        mac=port["mac"],
        fixed_ips=[FixedIP(address["subnet_id"], address["ip"]) for address in port["fixed_ips"]],
        subnets=[_subnet(row) for row in subnets if row["id"] in used],
        allowed_pairs=[AddressPair(pair["ip"], pair["mac"]) for pair in port["pairs"]],
        port_security=port["port_security"],
        admin_up=port["admin_state_up"] and network["admin_state_up"],
        dns_name=port["dns_name"],
        security_groups=port["security_groups"],
        network_name=network["name"],
    )


def bound(tx: Tx, condition: ColumnElement[bool]) -> dict[str, list[PortWiring]]:
    """Host → the wiring of its ports, of all bound ports that meet the condition."""
    return by_host(tx, visible.with_addresses(tx, rows(tx, select(ports).where(condition, ports.c.host != ""))))


def by_host(tx: Tx, found: Sequence[Row]) -> dict[str, list[PortWiring]]:
    """Host → the wiring of those of these ports (with their `fixed_ips`) that are bound."""
    bound_ones = [port for port in found if port["host"]]
    told: dict[str, list[PortWiring]] = {}
    for port, wired in zip(bound_ones, several(tx, bound_ones), strict=True):
        told.setdefault(port["host"], []).append(wired)
    return told


def several(tx: Tx, found: Sequence[Row]) -> list[PortWiring]:
    """The wiring of these ports (with their `fixed_ips`)."""
    network_ids = {port["network_id"] for port in found}
    networks = visible.networks_by_id(tx, network_ids)
    subnets: Mapping[str, list[Row]] = visible.subnets_of(tx, network_ids)
    return [of(port, networks[port["network_id"]], subnets[port["network_id"]]) for port in found]


def _subnet(row: Row) -> SubnetWiring:
    return SubnetWiring(
        id=row["id"],
        cidr=row["cidr"],
        ip_version=row["ip_version"],
        gateway=row["gateway"],
        enable_dhcp=row["enable_dhcp"],
        dhcp_address=row["dhcp_address"],
        dns=list(row["dns"]),
        routes=[HostRoute(route["destination"], route["nexthop"]) for route in row["routes"]],
    )
