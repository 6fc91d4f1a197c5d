"""The network service's face: Neutron's v2.0."""

from __future__ import annotations

from pileus.errors import PileusError
from pileus.http import faults
from pileus.http.face import Authenticate, Face, Limits
from pileus.network.api import agents, extensions, networks, ports, quotas, subnets, versions
from pileus.network.service import Network

ROUTES = [
    *versions.ROUTES,
    *networks.ROUTES,
    *subnets.ROUTES,
    *ports.ROUTES,
    *agents.ROUTES,
    *extensions.ROUTES,
    *quotas.ROUTES,
]


def face(network: Network, authenticate: Authenticate, identity_url: str, base_url: str, limits: Limits) -> Face[Network]:
    return Face(
        network,
        ROUTES,
        base=f"{base_url}/network",
        fault=fault,
        authenticate=authenticate,
        identity_url=identity_url,
        limits=limits,
    )


def fault(error: PileusError, request_id: str, accept: str) -> faults.Rendered:
    """What has no name of its own is called as webob calls it: HTTPBadRequest, HTTPNotFound, …"""
    if error.kind == type(error).__name__:
        error.kind = f"HTTP{error.kind}"
    return faults.network(error, request_id, accept)
