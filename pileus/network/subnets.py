"""Subnets: checked, laid out in pools, changed, deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from typing import Any

from sqlalchemy import delete, func, select, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden
from pileus.network import addresses, dhcp, fixed_ips, quotas, visible
from pileus.network.addresses import Address, Pool
from pileus.network.config import Config
from pileus.network.port_checks import DHCP
from pileus.network.tables import allocations, free, networks, ports, subnets
from pileus.store import Tx
from pileus.store.sql import Row

Net = IPv4Network | IPv6Network
Range = tuple[Address, Address]

IPV6_MTU = 1280
WIRED_BY = frozenset({"gateway", "enable_dhcp", "dns", "routes"})


@dataclass
class NewSubnet:
    """`gateway` None: none; "": the default one. `pools` None: all of the CIDR but the gateway."""

    network_id: str
    cidr: str
    ip_version: int
    project_id: str
    name: str = ""
    description: str = ""
    gateway: str | None = ""
    pools: Sequence[Range] | None = None
    enable_dhcp: bool = True
    dns: Sequence[str] = ()
    routes: Sequence[Mapping[str, str]] = ()


def create(tx: Tx, config: Config, context: Context, new: NewSubnet) -> Row:
    """Raises NotFound, Forbidden, BadRequest, Conflict (overlaps), QuotaExceeded."""
    network = _own_network(tx, context, new.network_id)
    net = _cidr(new.cidr, new.ip_version)
    _check_dhcp(net, new.enable_dhcp)
    if net.version == 6 and network["mtu"] < IPV6_MTU:
        raise Conflict(f"The network's MTU {network['mtu']} is below {IPV6_MTU}, the least for IPv6.", kind="NetworkMTUSubnetConflict")
    visible.lock_network(tx, network["id"])
    tx.execute(update(networks).where(networks.c.id == network["id"]).values(revision=networks.c.revision + 1))
    for other in visible.subnets_of(tx, [network["id"]])[network["id"]]:
        if net.overlaps(ip_network(other["cidr"])):
            raise BadRequest(
                f"Invalid input for operation: Requested subnet with cidr: {net} for network: {network['id']} overlaps with "
                f"subnet {other['id']} ({other['cidr']}).",
                kind="InvalidInput",
            )
    gateway = _default_gateway(net) if new.gateway == "" else _gateway(net, new.gateway)
    pools = _default_pools(net, gateway) if new.pools is None else _checked_pools(net, new.pools)
    _check_gateway_apart(gateway, pools)
    tally = quotas.Tally({(new.project_id, "subnet"): 1})
    now = time.time()
    subnet: Row = {
        "id": str(uuid.uuid4()),
        "network_id": network["id"],
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "ip_version": net.version,
        "cidr": str(net),
        "gateway": None if gateway is None else str(gateway),
        "enable_dhcp": new.enable_dhcp,
        "dhcp_address": None,
        "pools": _as_json(pools),
        "dns": _checked_dns(config, new.dns),
        "routes": _checked_routes(config, net, new.routes),
        "created_at": now,
        "updated_at": now,
        "revision": 1,
    }
    tx.execute(subnets.insert().values(**subnet))
    addresses.set_pools(tx, subnet["id"], _as_hex(pools))
    if new.enable_dhcp:
        subnet["dhcp_address"] = dhcp.enable(tx, config, network, subnet, tally)
    quotas.settle(tx, config, tally)
    return subnet


def change(tx: Tx, config: Config, context: Context, subnet_id: str, changes: Mapping[str, Any]) -> tuple[Row, bool]:
    """Change name, description, gateway ("": the default one), pools, enable_dhcp, dns, routes; the subnet, and whether hosts must
    be told. Raises NotFound, Forbidden, BadRequest, Conflict."""
    subnet, network = _own_subnet(tx, context, subnet_id, "change")
    net = ip_network(subnet["cidr"])
    values = dict(changes)
    if "gateway" in values:
        gateway = _default_gateway(net) if values["gateway"] == "" else _gateway(net, values["gateway"])
        values["gateway"] = None if gateway is None else str(gateway)
    if "dns" in values:
        values["dns"] = _checked_dns(config, values["dns"])
    if "routes" in values:
        values["routes"] = _checked_routes(config, net, values["routes"])
    pools = _checked_pools(net, values["pools"]) if "pools" in values else _from_json(subnet["pools"])
    gateway_text = values.get("gateway", subnet["gateway"])
    _check_gateway_apart(None if gateway_text is None else fixed_ips.parse_address(gateway_text), pools)
    values["pools"] = _as_json(pools)
    values |= {"updated_at": time.time(), "revision": subnet["revision"] + 1}
    same = update(subnets).where(subnets.c.id == subnet_id, subnets.c.revision == subnet["revision"])
    if tx.execute(same.values(**values)).rowcount != 1:
        raise Conflict(f"Subnet {subnet_id} was changed by somebody else at the same time; try again", kind="StaleDataError")
    after = subnet | values
    if "pools" in changes:
        addresses.set_pools(tx, subnet_id, _as_hex(pools))
    if after["enable_dhcp"] != subnet["enable_dhcp"]:
        _check_dhcp(net, after["enable_dhcp"])
        tally = quotas.Tally()
        if after["enable_dhcp"]:
            after["dhcp_address"] = dhcp.enable(tx, config, network, after, tally)
        else:
            dhcp.disable(tx, config, network, subnet_id, tally)
            after["dhcp_address"] = None
        quotas.settle(tx, config, tally)
    return after, not WIRED_BY.isdisjoint(changes)


def delete_one(tx: Tx, config: Config, context: Context, subnet_id: str) -> None:
    """Raises NotFound, Forbidden, Conflict (SubnetInUse)."""
    subnet, network = _own_subnet(tx, context, subnet_id, "delete")
    users = (
        select(func.count())
        .select_from(allocations.join(ports, ports.c.id == allocations.c.port_id))
        .where(allocations.c.subnet_id == subnet_id, ports.c.device_owner != DHCP)
    )
    if tx.execute(users).scalar_one():
        raise Conflict(
            f"Unable to complete operation on subnet {subnet_id}: One or more ports have an IP allocation from this subnet.",
            kind="SubnetInUse",
        )
    tally = quotas.Tally()
    remove(tx, config, network, subnet, tally)
    quotas.settle(tx, config, tally)


def remove(tx: Tx, config: Config, network: Row, subnet: Row, tally: quotas.Tally) -> None:
    """Delete a subnet that only DHCP uses. The caller has locked the network."""
    if subnet["enable_dhcp"]:
        dhcp.disable(tx, config, network, subnet["id"], tally)
    tx.execute(delete(free).where(free.c.subnet_id == subnet["id"]))
    if tx.execute(delete(subnets).where(subnets.c.id == subnet["id"])).rowcount == 1:
        tally[subnet["project_id"], "subnet"] -= 1


def _own_network(tx: Tx, context: Context, network_id: str) -> Row:
    network = visible.network(tx, context, network_id)
    if not context.sees(network["project_id"]):
        raise Forbidden("The network belongs to another project: only that project or an admin may make subnets on it.")
    return network


def _own_subnet(tx: Tx, context: Context, subnet_id: str, what: str) -> tuple[Row, Row]:
    """A subnet and its network, locked. Raises NotFound, Forbidden."""
    subnet = visible.subnet(tx, context, subnet_id)
    if not context.sees(subnet["project_id"]):
        raise Forbidden(f"The subnet belongs to another project: only that project or an admin may {what} it.")
    visible.lock_network(tx, subnet["network_id"])
    network = visible.networks_by_id(tx, [subnet["network_id"]])[subnet["network_id"]]
    return visible.subnet(tx, context, subnet_id), network


def _cidr(text: str, version: int) -> Net:
    try:
        net = ip_network(text, strict=False)
    except ValueError:
        raise BadRequest(f"Invalid input for cidr. Reason: '{text}' is not a valid IP subnet.", kind="HTTPBadRequest") from None
    if net.version != version:
        raise _invalid(f"cidr {text} does not match the ip_version {version}")
    if net.prefixlen == 0:
        raise _invalid("0 is not allowed as CIDR prefix length")
    if net.is_multicast or net.is_loopback or net.is_link_local:
        raise _invalid(f"{net} is a multicast, loopback or link-local range: choose another one")
    return net


def _check_dhcp(net: Net, enabled: bool) -> None:
    if net.version == 6 and enabled:
        raise _invalid("DHCP for IPv6 is not offered: set enable_dhcp to false; servers get their IPv6 addresses by their config drive")


def _default_gateway(net: Net) -> Address | None:
    if net.num_addresses == 1:
        return None
    return net[0] if net.num_addresses == 2 else net[1]


def _gateway(net: Net, text: str | None) -> Address | None:
    if text is None:
        return None
    gateway = fixed_ips.parse_address(text)
    if fixed_ips.usable(str(net), gateway) or (gateway.version == net.version == 6 and gateway.is_link_local):
        return gateway
    raise _invalid(f"gateway_ip {text} is not an address of the subnet {net}")


def _default_pools(net: Net, gateway: Address | None) -> list[Range]:
    if net.num_addresses <= 2:
        first, last = net[0], net[-1]
    else:
        first, last = net[1], net[-2] if net.version == 4 else net[-1]
    if gateway is None or not int(first) <= int(gateway) <= int(last):
        return [(first, last)]
    around = [(first, gateway - 1), (gateway + 1, last)]
    return [(a, b) for a, b in around if int(first) <= int(a) <= int(b) <= int(last)]


def _checked_pools(net: Net, pools: Sequence[Range]) -> list[Range]:
    ordered = sorted(pools, key=lambda pool: int(pool[0]))
    for first, last in ordered:
        if first.version != net.version or last.version != net.version or int(last) < int(first):
            raise BadRequest(f"The allocation pool {first}-{last} is not valid.", kind="InvalidAllocationPool")
        if not (fixed_ips.usable(str(net), first) and fixed_ips.usable(str(net), last)):
            raise BadRequest(f"The allocation pool {first}-{last} spans beyond the subnet cidr {net}.", kind="OutOfBoundsAllocationPool")
    for (a, b), (c, d) in pairwise(ordered):
        if int(c) <= int(b):
            raise Conflict(f"Found overlapping allocation pools: {a}-{b}, {c}-{d} for subnet {net}.", kind="OverlappingAllocationPools")
    return ordered


def _check_gateway_apart(gateway: Address | None, pools: Sequence[Range]) -> None:
    for first, last in pools:
        if gateway is not None and gateway.version == first.version and int(first) <= int(gateway) <= int(last):
            raise Conflict(
                f"Gateway ip {gateway} conflicts with allocation pool {first}-{last}.", kind="GatewayConflictWithAllocationPools"
            )


def _checked_dns(config: Config, servers: Sequence[str]) -> list[str]:
    most = config.settings.network.max_dns_nameservers
    if len(servers) > most:
        raise BadRequest(f"The number of DNS nameservers exceeds the limit {most}.", kind="DNSNameServersExhausted")
    checked = [str(fixed_ips.parse_address(server)) for server in servers]
    if len(set(checked)) < len(checked):
        raise _invalid("dns_nameservers has duplicates")
    return checked


def _checked_routes(config: Config, net: Net, routes: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    most = config.settings.network.max_host_routes
    if len(routes) > most:
        raise BadRequest(f"The number of host routes exceeds the limit {most}.", kind="HostRoutesExhausted")
    checked = []
    for route in routes:
        try:
            destination = ip_network(route["destination"], strict=False)
        except ValueError:
            raise _invalid(f"host route destination {route['destination']!r} is not a CIDR") from None
        nexthop = fixed_ips.parse_address(route["nexthop"])
        if destination.version != net.version or nexthop.version != net.version:
            raise _invalid(f"host route {destination} via {nexthop} is not of the subnet's IP version")
        checked.append({"destination": str(destination), "nexthop": str(nexthop)})
    return checked


def _as_json(pools: Sequence[Range]) -> list[list[str]]:
    return [[str(first), str(last)] for first, last in pools]


def _from_json(pools: Sequence[Sequence[str]]) -> list[Range]:
    return [(fixed_ips.parse_address(first), fixed_ips.parse_address(last)) for first, last in pools]


def _as_hex(pools: Sequence[Range]) -> list[Pool]:
    return [(addresses.encode(first), addresses.encode(last)) for first, last in pools]


def _invalid(reason: str) -> BadRequest:
    return BadRequest(f"Invalid input for operation: {reason}.", kind="InvalidInput")
