"""The catalogue: what this cloud offers and where. It follows from the public URL alone, so it is worked out once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

REGION = "RegionOne"
INTERFACES = ("public", "internal", "admin")
SERVICES = (
    ("identity", "keystone", "/identity"),
    ("image", "glance", "/image"),
    ("placement", "placement", "/placement"),
    ("compute", "nova", "/compute/v2.1"),
    ("network", "neutron", "/network"),
)
"""Type, name, path."""

_NAMESPACE = uuid.UUID("6f1a6a0c-51a3-5d0e-9b9e-0d6c5f3c1f57")

Item = Mapping[str, Any]


def services() -> list[Item]:
    return [{"id": _uid(kind), "type": kind, "name": name, "enabled": True, "description": ""} for kind, name, _ in SERVICES]


def endpoints(base_url: str) -> list[Item]:
    return [
        {
            "id": _uid(kind, interface),
            "service_id": _uid(kind),
            "interface": interface,
            "url": base_url + path,
            "region": REGION,
            "region_id": REGION,
            "enabled": True,
        }
        for kind, _, path in SERVICES
        for interface in INTERFACES
    ]


def regions() -> list[Item]:
    return [{"id": REGION, "description": "", "parent_region_id": None}]


def catalog(base_url: str) -> list[Item]:
    """As it stands in a token."""
    shown = ("id", "interface", "url", "region", "region_id")
    by_service: dict[str, list[Item]] = {}
    for endpoint in endpoints(base_url):
        by_service.setdefault(endpoint["service_id"], []).append({key: endpoint[key] for key in shown})
    return [
        {"id": service["id"], "type": service["type"], "name": service["name"], "endpoints": by_service[service["id"]]}
        for service in services()
    ]


def _uid(*parts: str) -> str:
    """The same at every start, since clients may remember it."""
    return uuid.uuid5(_NAMESPACE, "/".join(parts)).hex
