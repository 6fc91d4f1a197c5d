"""What carries a network: its type, its physical network, its VLAN id."""

from __future__ import annotations

from sqlalchemy import delete, select

from pileus.errors import BadRequest, Conflict
from pileus.network.config import Config
from pileus.network.tables import vlans
from pileus.store import Tx
from pileus.store.sql import insert_new

Segment = tuple[str, str | None, int | None]
"""Type, physical network, VLAN id."""

TYPES = ("local", "vlan")


def allocate(tx: Tx, config: Config, network_id: str, kind: str | None, physical: str | None, vlan: int | None) -> Segment:
    """The segment of a new network; what is None is chosen. Raises BadRequest, Conflict (VlanIdInUse, NoNetworkAvailable)."""
    if kind is None and (physical is not None or vlan is not None):
        raise _invalid("provider:network_type is needed with provider:physical_network or provider:segmentation_id")
    kind = kind or config.settings.network.default_type
    if kind not in TYPES:
        raise _invalid(f"provider:network_type {kind!r} is not offered: one of {', '.join(TYPES)}")
    if kind == "local":
        if physical is not None or vlan is not None:
            raise _invalid("a local network has neither provider:physical_network nor provider:segmentation_id")
        return kind, None, None
    if physical is not None and physical not in config.vlans:
        known = ", ".join(sorted(config.vlans)) or "none"
        raise _invalid(f"unknown provider:physical_network {physical!r}; network.vlan_ranges has: {known}")
    if vlan is None:
        return (kind, *_any_vlan(tx, config, network_id, physical))
    if physical is None:
        raise _invalid("provider:physical_network is needed with provider:segmentation_id")
    if not 1 <= vlan <= 4094:
        raise _invalid("segmentation_id out of range (1 through 4094)")
    if not _take(tx, physical, vlan, network_id):
        raise Conflict(f"Unable to create the network. The VLAN {vlan} on physical network {physical} is in use.", kind="VlanIdInUse")
    return kind, physical, vlan


def release(tx: Tx, network_id: str) -> None:
    tx.execute(delete(vlans).where(vlans.c.network_id == network_id))


def _any_vlan(tx: Tx, config: Config, network_id: str, physical: str | None) -> tuple[str, int]:
    for name, ranges in config.vlans.items():
        if physical not in (None, name):
            continue
        taken = set(tx.execute(select(vlans.c.vlan).where(vlans.c.physical_network == name)).scalars())
        for first, last in ranges:
            for vlan in range(first, last + 1):
                if vlan not in taken and _take(tx, name, vlan, network_id):
                    return name, vlan
    raise Conflict("Unable to create the network. No tenant network is available for allocation.", kind="NoNetworkAvailable")


def _take(tx: Tx, physical: str, vlan: int, network_id: str) -> bool:
    return insert_new(tx, vlans, {"physical_network": physical, "vlan": vlan, "network_id": network_id})


def _invalid(reason: str) -> BadRequest:
    return BadRequest(f"Invalid input for operation: {reason}.", kind="InvalidInput")
