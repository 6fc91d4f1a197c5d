"""The compute API: Nova's v2.1, microversions 2.1 to 2.96."""

from __future__ import annotations

from pileus.compute.api import flavors, server_actions, servers, versions
from pileus.compute.service import Compute
from pileus.http import faults
from pileus.http.face import Authenticate, Face, Limits, Route
from pileus.http.microversions import Microversions

MICROVERSIONS = Microversions("compute", versions.FIRST, versions.LAST, legacy="X-OpenStack-Nova-API-Version")

ROUTES: list[Route[Compute]] = [*versions.ROUTES, *flavors.ROUTES, *servers.ROUTES, *server_actions.ROUTES]


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
