"""What may be asked of a network service before a server is made: told by its API, judged here, since we call it as a service."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from pileus.clients.network import CheckedNics, Requested, RequestedNic
from pileus.compute import neutron_facts as facts
from pileus.compute import neutron_security
from pileus.compute.neutron_api import NeutronApi
from pileus.compute.neutron_facts import HOST, Json, OnNetwork
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, QuotaExceeded

TUNNELS = ("geneve", "vxlan")


async def check(api: NeutronApi, context: Context, requested: Requested, count: int, groups: Sequence[str]) -> CheckedNics:
    """See `NetworkClient.check`."""
    ids = await neutron_security.wanted(api, context, groups)
    if requested == "none":
        return CheckedNics([])
    nics = await _auto(api, context) if requested == "auto" else list(requested)
    if count > 1 and any(nic.port_id or nic.fixed_ip for nic in nics):
        raise BadRequest("A port or a fixed IP can be asked for only when one server is made, not several.")
    given = [nic.port_id for nic in nics if nic.port_id]
    if len(set(given)) < len(given):
        raise BadRequest("The same port is asked for twice.")
    ports = await api.by_ids("ports", given)
    for port_id in given:
        check_given(context, ports.get(port_id), port_id, "")
        if ports[port_id].get(HOST):
            raise _in_use(port_id)
        if not ports[port_id]["fixed_ips"] and ports[port_id].get("ip_allocation") not in ("deferred", "none"):
            raise BadRequest(f"Port {port_id} requires a FixedIP in order to be used.", kind="PortRequiresFixedIP")
    on = await on_networks(api, {nic.network_id for nic in nics if nic.network_id and not nic.port_id})
    for nic in nics:
        if not nic.port_id:
            await _check_network(api, context, on, nic)
    needed = count * (len(nics) - len(given))
    room = await api.free_ports(context.project) if needed else None
    if room is not None and needed > room:
        raise QuotaExceeded("Quota exceeded for resources: ['port'].")
    if ids:
        if not all(on[nic.network_id or ""].network.get("port_security_enabled", True) for nic in nics if not nic.port_id):
            raise neutron_security.not_applied()
        nics = [nic if nic.port_id else replace(nic, security_groups=ids) for nic in nics]
    return await constraint(api, nics)


async def _auto(api: NeutronApi, context: Context) -> list[RequestedNic]:
    """The one network that the project can use. (Nova: its own or a shared one; several are ambiguous.)"""
    mine = {"tenant_id": context.project, "shared": "false", "admin_state_up": "true"}
    own = await api.listed("networks", mine)
    shared = await api.listed("networks", {"shared": "true", "admin_state_up": "true"})
    found = [network for network in [*own, *shared] if not network.get("router:external")]
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.", kind="NetworkAmbiguous")
    return [RequestedNic(network_id=network["id"]) for network in found]


async def _check_network(api: NeutronApi, context: Context, on: dict[str, OnNetwork], nic: RequestedNic) -> None:
    if not nic.network_id:
        raise BadRequest("A network or a port is needed for each entry of networks.")
    await check_seen(api, context, on, nic.network_id)
    check_wish(context, on[nic.network_id].network, nic)
    subnets = on[nic.network_id].subnets
    if not subnets:
        raise BadRequest(f"Network {nic.network_id} requires a subnet in order to boot instances on.", kind="NetworkRequiresSubnet")
    if nic.fixed_ip is None:
        return
    try:
        wanted = ip_address(nic.fixed_ip)
    except ValueError:
        raise BadRequest(f"'{nic.fixed_ip}' is not a valid IP address.") from None
    cidr = next((cidr for cidr in (ip_network(subnet["cidr"]) for subnet in subnets) if wanted in cidr), None)
    if cidr is None or (cidr.version == 4 and wanted in (cidr.network_address, cidr.broadcast_address)):
        raise BadRequest(f"{wanted} is no address that a port of network {nic.network_id} can have.", kind="InvalidIpForNetwork")
    taken = {"network_id": nic.network_id, "fixed_ips": f"ip_address={wanted}", "fields": ["id"]}
    if await api.listed("ports", taken):
        raise Conflict(f"Fixed IP address {wanted} is already in use.", kind="IpAddressAlreadyAllocated")


async def check_seen(api: NeutronApi, context: Context, on: dict[str, OnNetwork], network_id: str) -> None:
    """May the caller use this network? Raises NotFound."""
    network = on[network_id].network if network_id in on else None
    if network is not None and (network["shared"] or context.sees(network["project_id"])):
        return
    if network is None or not await api.is_shared_with(network_id, context.project):
        raise NotFound(f"Network {network_id} could not be found.", kind="NetworkNotFound")


async def constraint(api: NeutronApi, nics: Sequence[RequestedNic]) -> CheckedNics:
    """See `NetworkClient.constraint`. Where a network is, its ports say: a `local` one on one host, another on hosts with tunnels."""
    ports = await api.by_ids("ports", {nic.port_id for nic in nics if nic.port_id}, ["id", "network_id"])
    ids = {nic.network_id for nic in nics if nic.network_id} | {port["network_id"] for port in ports.values()}
    hosts: set[str] = set()
    types: set[str] = set()
    physical: set[str] = set()
    for network_id, network in (await api.by_ids("networks", ids)).items():
        kind, on, _ = facts.segment(network)
        physical |= {on} if on else set()
        there = await api.a_host_of(network_id) if kind in (*TUNNELS, "local") else ""
        if there and kind in TUNNELS and await _has_tunnels(api, there):
            types.add(kind)
        elif there:
            hosts.add(there)
    if len(hosts) > 1:
        raise Conflict("The networks live on different hosts, each on one alone: no host has them all.", kind="HostTaken")
    return CheckedNics(list(nics), next(iter(hosts), None), frozenset(physical), frozenset(types))


async def _has_tunnels(api: NeutronApi, host: str) -> bool:
    """A host whose agent says nothing of it gets the benefit of the doubt."""
    agents = await api.listed("agents", {"host": host})
    told = [agent["configurations"]["tunneling_ip"] for agent in agents if "tunneling_ip" in agent["configurations"]]
    return not told or any(told)


async def on_networks(api: NeutronApi, network_ids: Collection[str]) -> dict[str, OnNetwork]:
    """These networks with all that a host is told of them."""
    if not network_ids:
        return {}
    ids = sorted(network_ids)
    networks, subnets, dhcp = await asyncio.gather(
        api.by_ids("networks", ids),
        api.listed("subnets", {"network_id": ids}),
        api.listed("ports", {"network_id": ids, "device_owner": "network:dhcp", "fields": ["fixed_ips"]}),
    )
    servers = {each["subnet_id"]: each["ip_address"] for port in dhcp for each in port["fixed_ips"]}
    return {
        network_id: OnNetwork(network, [subnet for subnet in subnets if subnet["network_id"] == network_id], servers)
        for network_id, network in networks.items()
    }


def check_given(context: Context, port: Json | None, port_id: str, server_id: str) -> None:
    """May the caller have this port for that server (empty: for a new one)? Raises NotFound, Conflict."""
    if port is None or not context.sees(port["project_id"]):
        raise NotFound(f"Port {port_id} could not be found.", kind="PortNotFound")
    if port["device_id"] not in ("", server_id) or facts.mark_of(port).server not in ("", server_id):
        raise _in_use(port_id)


def check_wish(context: Context, network: Json, nic: RequestedNic) -> None:
    """Raises Forbidden."""
    if nic.fixed_ip is not None and not context.sees(network["project_id"]):
        raise Forbidden("On another project's network only that project or an admin may choose an address.")


def _in_use(port_id: str) -> Conflict:
    return Conflict(f"Port {port_id} is still in use.", kind="PortInUse")
