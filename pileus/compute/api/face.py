"""The compute API: Nova's v2.1, microversions 2.1 to 2.96."""

from __future__ import annotations

from pileus.compute.api import (
    addresses,
    aggregates,
    availability_zones,
    extensions,
    external_events,
    flavors,
    hypervisors,
    instance_actions,
    interfaces,
    keypairs,
    quotas,
    server_actions,
    server_metadata,
    server_security_groups,
    servers,
    services,
    versions,
)
from pileus.compute.service import Compute
from pileus.http import faults
from pileus.http.face import Authenticate, Face, Limits, Route
from pileus.http.microversions import Microversions

MICROVERSIONS = Microversions("compute", versions.FIRST, versions.LAST, legacy="X-OpenStack-Nova-API-Version")

RESOURCES = (
    servers,  # what clients ask for again and again stands first: routes are tried in order
    versions,
    flavors,
    keypairs,
    server_actions,
    server_metadata,
    server_security_groups,
    addresses,
    aggregates,
    interfaces,
    instance_actions,
    external_events,
    hypervisors,
    services,
    availability_zones,
    quotas,
    extensions,
)
ROUTES: list[Route[Compute]] = [route for resource in RESOURCES for route in resource.ROUTES]


def face(compute: Compute, authenticate: Authenticate, identity_url: str, base_url: str, limits: Limits | None = None) -> Face[Compute]:
    """The ASGI application; it expects paths without the `/compute` that its URLs have."""
    return Face(
        compute,
        ROUTES,
        base=f"{base_url.rstrip('/')}/compute",
        fault=faults.compute,
        authenticate=authenticate,
        identity_url=identity_url,
        microversions=MICROVERSIONS,
        limits=limits,
        request_id_headers=("X-Openstack-Request-Id", "X-Compute-Request-Id"),
    )
