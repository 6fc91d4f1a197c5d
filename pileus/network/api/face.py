"""The network service's face: Neutron's v2.0."""

from __future__ import annotations

from dataclasses import replace

from pileus.context import Context
from pileus.errors import PileusError
from pileus.http import faults
from pileus.http.face import Authenticate, Call, Face, Limits, Reply, Route
from pileus.network import cost
from pileus.network.api import (
    address_groups,
    agents,
    extensions,
    networks,
    ports,
    quotas,
    security_group_rules,
    security_groups,
    subnets,
    versions,
)
from pileus.network.service import Network

ROUTES = [
    *versions.ROUTES,
    *networks.ROUTES,
    *subnets.ROUTES,
    *ports.ROUTES,
    *security_groups.ROUTES,
    *security_group_rules.ROUTES,
    *address_groups.ROUTES,
    *agents.ROUTES,
    *extensions.ROUTES,
    *quotas.ROUTES,
]


def face(network: Network, authenticate: Authenticate, identity_url: str, base_url: str, limits: Limits) -> Face[Network]:
    statements = network.config.settings.network.api_statements

    async def caller(token: str) -> Context:
        return _with_service_rights(await authenticate(token))

    return Face(
        network,
        [_costly(route, statements) for route in ROUTES] if statements else ROUTES,
        base=f"{base_url}/network",
        fault=fault,
        authenticate=caller,
        identity_url=identity_url,
        limits=limits,
    )


def fault(error: PileusError, request_id: str, accept: str) -> faults.Rendered:
    """What has no name of its own is called as webob calls it: HTTPBadRequest, HTTPNotFound, …"""
    if error.kind == type(error).__name__:
        error.kind = f"HTTP{error.kind}"
    return faults.network(error, request_id, accept)


def _with_service_rights(context: Context) -> Context:
    """Another service (a Nova, our own compute) binds ports and sees whose they are, as an admin does: so Neutron's policies have it."""
    return replace(context, roles=context.roles | {"admin", "member", "reader"}) if "service" in context.roles else context


def _costly(route: Route[Network], statements: int) -> Route[Network]:
    """The route, with the statements that a request costs Neutron beyond our own."""

    async def handler(network: Network, call: Call) -> Reply:
        await network.store.read(cost.spend, statements)
        return await route.handler(network, call)

    return replace(route, handler=handler)
