"""Placement's face."""

from __future__ import annotations

from pileus.http import faults
from pileus.http.face import Authenticate, Face, Limits
from pileus.placement.api import (
    allocation_candidates,
    allocations,
    inventories,
    resource_classes,
    resource_providers,
    usages,
    versions,
)
from pileus.placement.service import Placement

ROUTES = [
    *versions.ROUTES,
    *resource_providers.ROUTES,
    *inventories.ROUTES,
    *usages.ROUTES,
    *allocations.ROUTES,
    *allocation_candidates.ROUTES,
    *resource_classes.ROUTES,
]


def face(placement: Placement, authenticate: Authenticate, identity_url: str, base_url: str, limits: Limits) -> Face[Placement]:
    return Face(
        placement,
        ROUTES,
        base=f"{base_url}/placement",
        fault=faults.placement,
        authenticate=authenticate,
        identity_url=identity_url,
        microversions=versions.SPOKEN,
        limits=limits,
    )
