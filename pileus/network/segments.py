"""What carries a network: its type, its physical network, its VLAN id or its number in tunnels (VNI)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sqlalchemy import delete, select

from pileus.errors import BadRequest, Conflict
from pileus.network.config import Config
from pileus.network.tables import vlans, vnis
from pileus.store import Tx
from pileus.store.sql import insert_new

Segment = tuple[str, str | None, int | None]
"""Type, physical network, VLAN id or VNI."""

OVERHEAD = {"geneve": 58, "vxlan": 50}
"""What a tunnel adds to a packet over IPv4, in bytes: Ethernet 14, IPv4 20, UDP 8, and VXLAN 8 (RFC 7348), or Geneve 8 with room for
8 of options (RFC 8926), as Neutron counts."""
OVERHEAD_IPV6 = 20
"""How much more over IPv6."""

TUNNELS = tuple(OVERHEAD)
TYPES = (*TUNNELS, "vlan", "local")
LARGEST_VNI = (1 << 24) - 1

PROBES = 8
"""Numbers tried at random before the first gap is searched for: only a range that is nearly full costs that search."""


def allocate(tx: Tx, config: Config, network_id: str, kind: str | None, physical: str | None, number: int | None) -> Segment:
    """The segment of a new network; what is None is chosen. Raises BadRequest, Conflict (VlanIdInUse, TunnelIdInUse,
    NoNetworkAvailable)."""
    if kind is None and (physical is not None or number is not None):
        raise _invalid("provider:network_type is needed with provider:physical_network or provider:segmentation_id")
    kind = kind or config.settings.network.default_type
    if kind not in TYPES:
        raise _invalid(f"provider:network_type {kind!r} is not offered: one of {', '.join(TYPES)}")
    if kind == "local":
        if physical is not None or number is not None:
            raise _invalid("a local network has neither provider:physical_network nor provider:segmentation_id")
        return kind, None, None
    if kind in TUNNELS:
        return kind, None, _tunnel(tx, config, network_id, kind, physical, number)
    return (kind, *_vlan(tx, config, network_id, physical, number))


def release(tx: Tx, network_id: str) -> None:
    for table in (vlans, vnis):
        tx.execute(delete(table).where(table.c.network_id == network_id))


def largest_mtu(config: Config, kind: str) -> int | None:
    """What a tunnel leaves of the underlay's MTU; None for types that the tunnels' headers do not limit."""
    if kind not in TUNNELS:
        return None
    network = config.settings.network
    return network.mtu - OVERHEAD[kind] - (OVERHEAD_IPV6 if network.underlay == "ipv6" else 0)


def _vlan(tx: Tx, config: Config, network_id: str, physical: str | None, vlan: int | None) -> tuple[str, int]:
    if physical is not None and physical not in config.vlans:
        known = ", ".join(sorted(config.vlans)) or "none"
        raise _invalid(f"unknown provider:physical_network {physical!r}; network.vlan_ranges has: {known}")
    if vlan is None:
        return _any_vlan(tx, config, network_id, physical)
    if physical is None:
        raise _invalid("provider:physical_network is needed with provider:segmentation_id")
    if not 1 <= vlan <= 4094:
        raise _invalid("segmentation_id out of range (1 through 4094)")
    if not _take_vlan(tx, physical, vlan, network_id):
        raise Conflict(f"Unable to create the network. The VLAN {vlan} on physical network {physical} is in use.", kind="VlanIdInUse")
    return physical, vlan


def _any_vlan(tx: Tx, config: Config, network_id: str, physical: str | None) -> tuple[str, int]:
    for name, ranges in config.vlans.items():
        if physical not in (None, name):
            continue
        taken = set(tx.execute(select(vlans.c.vlan).where(vlans.c.physical_network == name)).scalars())
        for first, last in ranges:
            for vlan in range(first, last + 1):
                if vlan not in taken and _take_vlan(tx, name, vlan, network_id):
                    return name, vlan
    raise _none_left()


def _take_vlan(tx: Tx, physical: str, vlan: int, network_id: str) -> bool:
    return insert_new(tx, vlans, {"physical_network": physical, "vlan": vlan, "network_id": network_id})


def _tunnel(tx: Tx, config: Config, network_id: str, kind: str, physical: str | None, vni: int | None) -> int:
    if physical is not None:
        raise _invalid(f"a {kind} network has no provider:physical_network")
    if vni is None:
        return _any_vni(tx, config, network_id, kind)
    if not 1 <= vni <= LARGEST_VNI:
        raise _invalid(f"segmentation_id out of range (1 through {LARGEST_VNI})")
    if not _take_vni(tx, kind, vni, network_id):
        raise Conflict(f"Unable to create the network. The tunnel ID {vni} is in use.", kind="TunnelIdInUse")
    return vni


def _any_vni(tx: Tx, config: Config, network_id: str, kind: str) -> int:
    sizes = [last - first + 1 for first, last in config.vnis]
    for _ in range(PROBES if sizes else 0):
        first, last = random.choices(config.vnis, sizes)[0]  # noqa: S311 - spreads, guards nothing
        vni = random.randint(first, last)  # noqa: S311
        if _take_vni(tx, kind, vni, network_id):
            return vni
    for vni in _gaps(tx, kind, config.vnis):
        if _take_vni(tx, kind, vni, network_id):
            return vni
    raise _none_left()


def _gaps(tx: Tx, kind: str, ranges: Sequence[tuple[int, int]]) -> list[int]:
    """The first number of each range, and the first free one after a taken one."""
    after = vnis.alias()
    found: list[int] = []
    for first, last in ranges:
        found.append(first)
        follows = select(after.c.vni).where(after.c.type == kind, after.c.vni == vnis.c.vni + 1).exists()
        within = (vnis.c.type == kind, vnis.c.vni >= first, vnis.c.vni < last)
        gap = select(vnis.c.vni + 1).where(*within, ~follows).order_by(vnis.c.vni).limit(1)
        found += tx.execute(gap).scalars()
    return found


def _take_vni(tx: Tx, kind: str, vni: int, network_id: str) -> bool:
    return insert_new(tx, vnis, {"type": kind, "vni": vni, "network_id": network_id})


def _none_left() -> Conflict:
    return Conflict("Unable to create the network. No tenant network is available for allocation.", kind="NoNetworkAvailable")


def _invalid(reason: str) -> BadRequest:
    return BadRequest(f"Invalid input for operation: {reason}.", kind="InvalidInput")
