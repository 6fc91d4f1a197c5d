"""Resource providers and their inventories. (Source: Placement's api-ref; capacity = (total − reserved) × allocation_ratio.)"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, and_, delete, exists, func, insert, or_, select, update

from pileus.clients.placement import Inventory, Resources
from pileus.errors import BadRequest, Conflict, NotFound
from pileus.placement import classes
from pileus.placement.claims import CONCURRENT_UPDATE, fits
from pileus.placement.tables import allocations, inventories, providers
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

DUPLICATE_NAME = "placement.duplicate_name"
PROVIDER_IN_USE = "placement.resource_provider.inuse"
INVENTORY_IN_USE = "placement.inventory.inuse"

FIELDS = ("total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio")
_MAX_CAPACITY = 2**62


def capacity(inventory: Inventory) -> int:
    """What can be given of an inventory, in whole units."""
    return int(max(min((inventory.total - inventory.reserved) * inventory.allocation_ratio, float(_MAX_CAPACITY)), -float(_MAX_CAPACITY)))


def show(tx: Tx, provider: str) -> Row:
    """Raises NotFound."""
    found = first(tx, select(providers).where(providers.c.id == provider))
    if found is None:
        raise NotFound(f"No resource provider with uuid {provider} found.")
    return found


def listed(tx: Tx, *, provider: str | None = None, name: str | None = None, resources: Resources | None = None) -> list[Row]:
    """Providers by id, name, and what they have room for. Raises BadRequest for an unknown resource class."""
    statement = select(providers).order_by(providers.c.name)
    if provider is not None:
        statement = statement.where(providers.c.id == provider)
    if name is not None:
        statement = statement.where(providers.c.name == name)
    if resources:
        classes.check(tx, resources)
        statement = statement.where(providers.c.id.in_(with_room(resources)))
    return rows(tx, statement)


def with_room(resources: Resources) -> Select[tuple[str]]:
    """The ids of providers that can give all of it now."""
    row = inventories.c
    can = [and_(row.resource_class == name, fits(amount)) for name, amount in resources.items()]
    return select(row.provider_id).where(or_(*can)).group_by(row.provider_id).having(func.count() == len(can))


def create(tx: Tx, provider: str, name: str) -> Row:
    """Raises Conflict where the id or the name is taken."""
    now = time.time()
    values: Row = {"id": provider, "name": name, "generation": 0, "created_at": now, "updated_at": now}
    if not insert_new(tx, providers, values):
        raise Conflict(f"Conflicting resource provider {name} ({provider}) already exists.", kind=DUPLICATE_NAME)
    return values


def rename(tx: Tx, provider: str, name: str) -> Row:
    """Raises NotFound, Conflict where another provider has the name."""
    show(tx, provider)
    if tx.execute(select(exists().where(providers.c.name == name, providers.c.id != provider))).scalar():
        raise Conflict(f"Conflicting resource provider {name} already exists.", kind=DUPLICATE_NAME)
    tx.execute(update(providers).where(providers.c.id == provider).values(name=name, updated_at=time.time()))
    return show(tx, provider)


def remove(tx: Tx, provider: str) -> None:
    """Delete a provider with its inventories. Raises NotFound, Conflict while somebody holds something of it."""
    show(tx, provider)
    if tx.execute(select(exists().where(allocations.c.provider_id == provider))).scalar():
        raise Conflict(
            f"Unable to delete resource provider {provider}: it has allocations; delete those of its consumers first.", kind=PROVIDER_IN_USE
        )
    tx.execute(delete(inventories).where(inventories.c.provider_id == provider))
    tx.execute(delete(providers).where(providers.c.id == provider))


def inventories_of(tx: Tx, provider: str) -> tuple[Row, dict[str, Row]]:
    """The provider and its inventories by class. Raises NotFound."""
    found = show(tx, provider)
    statement = select(inventories).where(inventories.c.provider_id == provider).order_by(inventories.c.resource_class)
    return found, {row["resource_class"]: row for row in rows(tx, statement)}


def inventory_of(tx: Tx, provider: str, name: str) -> tuple[Row, Row]:
    """Raises NotFound."""
    found, by_class = inventories_of(tx, provider)
    if name not in by_class:
        raise NotFound(f"No inventory of class {name} for {provider}")
    return found, by_class[name]


def set_inventories(
    tx: Tx, provider: str, wanted: Mapping[str, Inventory], *, generation: int | None, full_reserve: bool = True
) -> tuple[Row, dict[str, Row]]:
    """Give a provider exactly these inventories; usage stays. `generation` None: whatever it is now.

    Raises NotFound, BadRequest (an unknown class, or one with no capacity; with `full_reserve` 0 is enough), Conflict
    (the generation has moved on, or a class that is left out is in use).
    """
    found, before = inventories_of(tx, provider)
    _check_generation(found, generation)
    classes.check(tx, wanted)
    for name, inventory in wanted.items():
        _check_capacity(name, inventory, provider, full_reserve)
    for name in before.keys() - wanted.keys():
        _remove(tx, before[name], INVENTORY_IN_USE)
    for name, inventory in wanted.items():
        _put(tx, provider, name, inventory, exists_already=name in before)
    _bump(tx, provider)
    return inventories_of(tx, provider)


def add_inventory(tx: Tx, provider: str, name: str, inventory: Inventory, *, full_reserve: bool = True) -> tuple[Row, Row]:
    """Raises NotFound, BadRequest as `set_inventories`, Conflict where the provider has that class already."""
    _, before = inventories_of(tx, provider)
    classes.check(tx, [name])
    _check_capacity(name, inventory, provider, full_reserve)
    if name in before:
        raise Conflict(f"Update conflict: {provider} has inventory of {name} already; change it with PUT.", kind=CONCURRENT_UPDATE)
    _put(tx, provider, name, inventory, exists_already=False)
    _bump(tx, provider)
    return inventory_of(tx, provider, name)


def change_inventory(
    tx: Tx, provider: str, name: str, inventory: Inventory, *, generation: int, full_reserve: bool = True
) -> tuple[Row, Row]:
    """Raises NotFound, BadRequest (also where the provider has no such class yet), Conflict (generation)."""
    found, before = inventories_of(tx, provider)
    _check_generation(found, generation)
    if name not in before:
        raise BadRequest(f"No inventory record with resource class {name} for resource provider {provider}; create it with POST.")
    _check_capacity(name, inventory, provider, full_reserve)
    _put(tx, provider, name, inventory, exists_already=True)
    _bump(tx, provider)
    return inventory_of(tx, provider, name)


def remove_inventory(tx: Tx, provider: str, name: str) -> None:
    """Raises NotFound, Conflict while in use."""
    _, row = inventory_of(tx, provider, name)
    _remove(tx, row, CONCURRENT_UPDATE)
    _bump(tx, provider)


def is_as_told(tx: Tx, provider: str, name: str, wanted: Mapping[str, Inventory]) -> bool:
    """Is a provider already as a host tells it?"""
    found = first(tx, select(providers).where(providers.c.id == provider))
    if found is None or found["name"] != name:
        return False
    _, before = inventories_of(tx, provider)
    return {kind: _told(row) for kind, row in before.items()} == wanted


def tell(tx: Tx, provider: str, name: str, wanted: Mapping[str, Inventory]) -> None:
    """Make a provider as its host tells it. A class that the host no longer has but somebody still holds is closed (all of it
    reserved) until it is given back. Raises BadRequest, Conflict (the name is another provider's)."""
    known = first(tx, select(providers).where(providers.c.id == provider))
    if known is None:
        create(tx, provider, name)
    elif known["name"] != name:
        rename(tx, provider, name)
    _, before = inventories_of(tx, provider)
    closed = {
        kind: Inventory(row["total"], row["total"]) for kind, row in before.items() if kind not in wanted and _in_use(tx, provider, kind)
    }
    set_inventories(tx, provider, {**wanted, **closed}, generation=None)


def _told(row: Row) -> Inventory:
    return Inventory(**{field: row[field] for field in FIELDS})


def _check_generation(found: Row, generation: int | None) -> None:
    if generation is not None and generation != found["generation"]:
        raise Conflict("resource provider generation conflict; read the provider again and retry", kind=CONCURRENT_UPDATE)


def _check_capacity(name: str, inventory: Inventory, provider: str, full_reserve: bool) -> None:
    found = capacity(inventory)
    if found < 0 or (found == 0 and not full_reserve):
        limit = "more than" if full_reserve else "as much as"
        raise BadRequest(f"Invalid inventory for '{name}' on resource provider '{provider}'. The reserved value is {limit} the capacity.")


def _in_use(tx: Tx, provider: str, name: str) -> bool:
    held = exists().where(allocations.c.provider_id == provider, allocations.c.resource_class == name)
    return bool(tx.execute(select(held)).scalar())


def _remove(tx: Tx, row: Row, code: str) -> None:
    provider, name = row["provider_id"], row["resource_class"]
    if _in_use(tx, provider, name):
        raise Conflict(f"Inventory for '{name}' on resource provider '{provider}' in use.", kind=code)
    tx.execute(delete(inventories).where(inventories.c.provider_id == provider, inventories.c.resource_class == name))


def _put(tx: Tx, provider: str, name: str, inventory: Inventory, *, exists_already: bool) -> None:
    values: dict[str, Any] = {**asdict(inventory), "capacity": capacity(inventory), "updated_at": time.time()}
    if exists_already:
        which = (inventories.c.provider_id == provider, inventories.c.resource_class == name)
        tx.execute(update(inventories).where(*which).values(**values))
    else:
        tx.execute(insert(inventories).values(provider_id=provider, resource_class=name, used=0, **values))


def _bump(tx: Tx, provider: str) -> None:
    tx.execute(update(providers).where(providers.c.id == provider).values(generation=providers.c.generation + 1, updated_at=time.time()))
