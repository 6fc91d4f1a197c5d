"""What could be given: pictures for the scheduler, allocation candidates for the API."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from pileus.clients.placement import ProviderPicture, Resources
from pileus.placement import classes
from pileus.placement.providers import with_room
from pileus.placement.tables import inventories, providers
from pileus.store import Tx


def pictures(tx: Tx) -> list[ProviderPicture]:
    """Every provider, from one query."""
    return _gather(tx, _looking())


def candidates(tx: Tx, resources: Resources, limit: int | None) -> list[ProviderPicture]:
    """Providers with room for all of it, at most `limit`. Raises BadRequest for an unknown class."""
    classes.check(tx, resources)
    chosen = with_room(resources).order_by(inventories.c.provider_id).limit(limit)
    return _gather(tx, _looking().where(providers.c.id.in_(chosen)))


def _looking() -> Select[Any]:
    row = inventories.c
    return (
        select(providers.c.id, providers.c.name, row.resource_class, row.capacity, row.used)
        .join_from(providers, inventories, row.provider_id == providers.c.id, isouter=True)
        .order_by(providers.c.id)
    )


def _gather(tx: Tx, statement: Select[Any]) -> list[ProviderPicture]:
    found: dict[str, tuple[str, dict[str, int], dict[str, int]]] = {}
    for provider, name, resource_class, capacity, used in tx.execute(statement):
        _, capacities, uses = found.setdefault(provider, (name, {}, {}))
        if resource_class is not None:
            capacities[resource_class], uses[resource_class] = capacity, used
    return [ProviderPicture(provider, name, capacities, uses) for provider, (name, capacities, uses) in found.items()]
