"""Networks: made, changed, deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden
from pileus.network import members, quotas, segments, subnets, visible
from pileus.network.config import Config
from pileus.network.port_checks import DHCP
from pileus.network.tables import networks
from pileus.network.tables import ports as ports_table
from pileus.store import Tx
from pileus.store.sql import Row, first

LEAST_MTU, MOST_MTU = 68, 9216
WIRED_BY = frozenset({"admin_state_up", "mtu"})


@dataclass
class NewNetwork:
    """What is None is chosen from the settings. `mtu` 0: as large as it can be."""

    project_id: str
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    shared: bool = False
    port_security: bool = True
    mtu: int = 0
    type: str | None = None
    physical_network: str | None = None
    segmentation_id: int | None = None


def create(tx: Tx, config: Config, new: NewNetwork) -> Row:
    """Raises BadRequest, Conflict (VlanIdInUse, TunnelIdInUse, NoNetworkAvailable), QuotaExceeded."""
    network_id = str(uuid.uuid4())
    kind, physical, number = segments.allocate(tx, config, network_id, new.type, new.physical_network, new.segmentation_id)
    now = time.time()
    network: Row = {
        "id": network_id,
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "admin_state_up": new.admin_state_up,
        "shared": new.shared,
        "port_security": new.port_security,
        "mtu": _mtu(config, kind, new.mtu),
        "type": kind,
        "physical_network": physical,
        "segmentation_id": number,
        "members_version": 0,
        "host": None,
        "bound": 0,
        "created_at": now,
        "updated_at": now,
        "revision": 1,
    }
    tx.execute(networks.insert().values(**network))
    quotas.use(tx, config, new.project_id, "network")
    return network


def change(tx: Tx, config: Config, context: Context, network_id: str, changes: Mapping[str, Any]) -> tuple[Row, bool]:
    """Change name, description, admin_state_up, shared, port_security, mtu; the network, and whether hosts must be told.
    Raises NotFound, Forbidden, BadRequest, Conflict."""
    network = _own(tx, context, network_id)
    changes = dict(changes)
    if "mtu" in changes:
        changes["mtu"] = _mtu(config, network["type"], changes["mtu"])
        if changes["mtu"] < subnets.IPV6_MTU and any(s["ip_version"] == 6 for s in visible.subnets_of(tx, [network_id])[network_id]):
            raise Conflict(
                f"The network has an IPv6 subnet: its MTU can be no less than {subnets.IPV6_MTU}.", kind="NetworkMTUSubnetConflict"
            )
    if network["shared"] and changes.get("shared") is False and _used_by_others(tx, network):
        raise Conflict(
            f"Unable to reconfigure sharing settings for network {network_id}. Multiple projects are using it.",
            kind="InvalidSharedSetting",
        )
    values = {**changes, "updated_at": time.time(), "revision": network["revision"] + 1}
    same = update(networks).where(networks.c.id == network_id, networks.c.revision == network["revision"])
    if tx.execute(same.values(**values)).rowcount != 1:
        raise Conflict(f"Network {network_id} was changed by somebody else at the same time; try again", kind="StaleDataError")
    return network | values, not WIRED_BY.isdisjoint(changes)


def delete_one(tx: Tx, config: Config, context: Context, network_id: str) -> None:
    """Delete a network with its subnets. Raises NotFound, Forbidden, Conflict (NetworkInUse)."""
    network = _own(tx, context, network_id)
    visible.lock_network(tx, network_id)
    tally = quotas.Tally()
    if first(tx, select(ports_table.c.id).where(ports_table.c.network_id == network_id, ports_table.c.device_owner != DHCP).limit(1)):
        raise _in_use(network_id)
    for subnet in visible.subnets_of(tx, [network_id])[network_id]:
        subnets.remove(tx, config, network, subnet, tally)
    segments.release(tx, network_id)
    members.forget(tx, network_id)
    tx.execute(delete(networks).where(networks.c.id == network_id))
    tally[network["project_id"], "network"] -= 1
    quotas.settle(tx, config, tally)


def _own(tx: Tx, context: Context, network_id: str) -> Row:
    network = visible.network(tx, context, network_id)
    if not context.sees(network["project_id"]):
        raise Forbidden("The network belongs to another project: only that project or an admin may change or delete it.")
    return network


def _used_by_others(tx: Tx, network: Row) -> bool:
    others = select(ports_table.c.id).where(
        ports_table.c.network_id == network["id"],
        ports_table.c.project_id != network["project_id"],
        ports_table.c.device_owner != DHCP,
    )
    return first(tx, others.limit(1)) is not None


def _mtu(config: Config, kind: str, wanted: int) -> int:
    """Of a network of this type; 0: as large as it can be. Raises BadRequest."""
    largest = segments.largest_mtu(config, kind)
    mtu = wanted or largest or config.settings.network.mtu
    if not LEAST_MTU <= mtu <= MOST_MTU:
        raise BadRequest(f"Invalid input for operation: mtu {mtu} is not within {LEAST_MTU} and {MOST_MTU}.", kind="InvalidInput")
    if largest is not None and mtu > largest:
        raise BadRequest(
            f"Invalid input for operation: Requested MTU is too big, maximum is {largest} (network.mtu less the headers of {kind}).",
            kind="InvalidInput",
        )
    return mtu


def _in_use(network_id: str) -> Conflict:
    return Conflict(
        f"Unable to complete operation on network {network_id}. There are one or more ports still in use on the network.",
        kind="NetworkInUse",
    )
