"""Resource classes: the standard ones, and CUSTOM_ ones that an admin makes. (Source: os-resource-classes; Placement's api-ref.)"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from sqlalchemy import delete, exists, select, update

from pileus.errors import BadRequest, Conflict, NotFound
from pileus.placement.tables import allocations, inventories, resource_classes
from pileus.store import Tx
from pileus.store.sql import insert_new

STANDARD = (
    "VCPU",
    "MEMORY_MB",
    "DISK_GB",
    "PCI_DEVICE",
    "SRIOV_NET_VF",
    "NUMA_SOCKET",
    "NUMA_CORE",
    "NUMA_THREAD",
    "NUMA_MEMORY_MB",
    "IPV4_ADDRESS",
    "VGPU",
    "VGPU_DISPLAY_HEAD",
    "NET_BW_EGR_KILOBIT_PER_SEC",
    "NET_BW_IGR_KILOBIT_PER_SEC",
    "PCPU",
    "MEM_ENCRYPTION_CONTEXT",
    "FPGA",
    "PGPU",
    "NET_PACKET_RATE_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
)

PATTERN = r"^[A-Z0-9_]{1,255}\Z"
_CUSTOM = re.compile(r"^CUSTOM_[A-Z0-9_]{1,248}\Z")


def names(tx: Tx) -> list[str]:
    """All classes, the standard ones first."""
    custom = tx.execute(select(resource_classes.c.name).order_by(resource_classes.c.name)).scalars().all()
    return [*STANDARD, *custom]


def known(tx: Tx, name: str) -> bool:
    return name in STANDARD or tx.execute(select(resource_classes.c.name).where(resource_classes.c.name == name)).first() is not None


def show(tx: Tx, name: str) -> str:
    """The class itself. Raises NotFound."""
    if not known(tx, name):
        raise NotFound(f"No such resource class {name}.")
    return name


def check(tx: Tx, wanted: Iterable[str]) -> None:
    """Raises BadRequest that names the classes which do not exist."""
    unknown = [name for name in wanted if name not in STANDARD]
    if unknown:
        found = set(tx.execute(select(resource_classes.c.name).where(resource_classes.c.name.in_(unknown))).scalars())
        unknown = sorted(set(unknown) - found)
    if unknown:
        raise BadRequest(
            f"No such resource class {', '.join(unknown)}. Create custom classes first, or use one of: {', '.join(STANDARD[:3])}."
        )


def create(tx: Tx, name: str) -> bool:
    """Make a custom class; False where it exists already. Raises BadRequest for a name without CUSTOM_."""
    if not _CUSTOM.match(name):
        raise BadRequest(f"Resource class {name!r} must begin with CUSTOM_ and contain only A-Z, 0-9 and _ (at most 255 characters).")
    return insert_new(tx, resource_classes, {"name": name, "updated_at": time.time()})


def rename(tx: Tx, name: str, new: str) -> None:
    """Raises NotFound, BadRequest for a standard class or a bad name, Conflict where the new name is taken."""
    show(tx, name)
    _check_custom(name, "updated")
    if not create(tx, new):
        raise Conflict(f"Resource class already exists: {new}")
    for table in (inventories, allocations):
        tx.execute(update(table).where(table.c.resource_class == name).values(resource_class=new))
    remove(tx, name)


def remove(tx: Tx, name: str) -> None:
    """Raises NotFound, BadRequest for a standard class, Conflict while a provider has inventory of it."""
    show(tx, name)
    _check_custom(name, "deleted")
    if tx.execute(select(exists().where(inventories.c.resource_class == name))).scalar():
        raise Conflict(f"Error in delete resource class: {name} is in use in inventory; remove that inventory first.")
    tx.execute(delete(resource_classes).where(resource_classes.c.name == name))


def _check_custom(name: str, what: str) -> None:
    if name in STANDARD:
        raise BadRequest(f"Standard resource class {name} cannot be {what}.")
