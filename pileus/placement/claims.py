"""Allocations: who holds what of which provider. The guarded UPDATE in `_take` is all that keeps a provider from being overbooked."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import ColumnElement, Integer, Update, and_, bindparam, case, delete, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from pileus.clients.placement import Resources
from pileus.errors import BadRequest, Conflict, NotFound
from pileus.placement import classes
from pileus.placement.tables import allocations, consumers, inventories, providers
from pileus.store import Tx
from pileus.store.sql import Row, first, rows, upsert

CONCURRENT_UPDATE = "placement.concurrent_update"

Held = dict[str, dict[str, int]]
"""Provider → resource class → amount."""


class DoesNotFit(Conflict):
    """A provider has not enough left of something, or gives it only in other portions."""


class NoProvider(BadRequest):
    """Resources were asked of a provider that does not exist."""


@dataclass(frozen=True)
class Wanted:
    """What a consumer shall hold from now on; no resources: nothing. `generation` is compared only with `guarded`
    (None: the consumer must be new). A `consumer_type` of None leaves it as it is."""

    consumer: str
    project_id: str
    user_id: str
    resources: Mapping[str, Resources]
    guarded: bool = False
    generation: int | None = None
    consumer_type: str | None = None


def fits(amount: ColumnElement[int] | int) -> ColumnElement[bool]:
    """Can an inventory row give that amount, in these units, on top of what is used?"""
    row = inventories.c
    return and_(row.used + amount <= row.capacity, amount >= row.min_unit, amount <= row.max_unit, amount % row.step_size == 0)


# Built once: making a statement costs more than executing it.
_HELD = select(allocations).where(allocations.c.consumer_id.in_(bindparam("ids", expanding=True)))
_CONSUMERS = select(consumers).where(consumers.c.id.in_(bindparam("ids", expanding=True)))
_TOUCH = (
    update(providers)
    .where(providers.c.id == bindparam("provider"))
    .values(generation=providers.c.generation + 1, updated_at=bindparam("now"))
)
_FORGET = delete(allocations).where(allocations.c.consumer_id == bindparam("consumer"))
_LEAVE = delete(consumers).where(consumers.c.id == bindparam("consumer"))
_HOLD = insert(allocations)


def held_by(tx: Tx, consumer_ids: Iterable[str]) -> dict[str, Held]:
    """Consumer → what it holds; consumers that hold nothing are missing."""
    held: dict[str, Held] = {}
    for consumer, provider, name, used in tx.execute(_HELD, {"ids": list(consumer_ids)}):
        held.setdefault(consumer, {}).setdefault(provider, {})[name] = used
    return held


def replace(tx: Tx, wanted: Sequence[Wanted]) -> None:
    """Give each consumer exactly what is wanted for it: all of them or, when this raises, none.

    Raises Conflict (a generation that is not the current one), DoesNotFit, NoProvider.
    """
    ids = [want.consumer for want in wanted]
    known: dict[str, Row] = {row["id"]: dict(row) for row in tx.execute(_CONSUMERS, {"ids": ids}).mappings()}
    for want in wanted:
        if want.guarded:
            _check_generation(want, known.get(want.consumer))
    held = held_by(tx, known) if known else {}
    # One order for everybody, so that two that move between the same providers never wait for each other.
    for provider in sorted({p for h in held.values() for p in h} | {p for want in wanted for p in want.resources}):
        _touch(tx, provider)
    for consumer, what in held.items():
        for provider, had in what.items():
            tx.execute(_giving_back(tuple(sorted(had))), {"provider": provider, **had})
        tx.execute(_FORGET, {"consumer": consumer})
    for want in wanted:
        for provider, resources in want.resources.items():
            _take(tx, provider, resources)
        _write(tx, want, known.get(want.consumer))


def set_allocations(tx: Tx, wanted: Sequence[Wanted]) -> None:
    """`replace`, for callers whose resource classes may not exist. Raises BadRequest then."""
    classes.check(tx, {name for want in wanted for resources in want.resources.values() for name in resources})
    replace(tx, wanted)


def claim(tx: Tx, consumer: str, provider: str, resources: Resources, *, project_id: str, user_id: str) -> None:
    """One server's resources on one provider; nothing where it holds just that. Raises DoesNotFit, NoProvider."""
    asked = {name: amount for name, amount in resources.items() if amount > 0}
    if held_by(tx, [consumer]).get(consumer) == {provider: asked}:
        return
    replace(tx, [Wanted(consumer, project_id, user_id, {provider: asked}, consumer_type="INSTANCE")])


def release(tx: Tx, consumer: str) -> bool:
    """Give back whatever the consumer holds; whether it held anything."""
    held = held_by(tx, [consumer]).get(consumer)
    if held is None:
        return False
    replace(tx, [Wanted(consumer, "", "", {})])
    return True


def show_consumer(tx: Tx, consumer: str) -> tuple[Row | None, dict[str, Row]]:
    """The consumer (None: it holds nothing), and by provider what it holds: `resources`, and the provider's `generation`."""
    row = first(tx, select(consumers).where(consumers.c.id == consumer))
    held = held_by(tx, [consumer]).get(consumer, {})
    found = tx.execute(select(providers.c.id, providers.c.generation).where(providers.c.id.in_(list(held))))
    generations = {provider.id: provider.generation for provider in found}
    return row, {provider: {"resources": resources, "generation": generations[provider]} for provider, resources in held.items()}


def of_provider(tx: Tx, provider: str) -> tuple[Row, dict[str, Row]]:
    """The provider, and by consumer what it holds of it: `resources`, the consumer's `generation` and `updated_at`. Raises NotFound."""
    found = first(tx, select(providers).where(providers.c.id == provider))
    if found is None:
        raise NotFound(f"No resource provider with uuid {provider} found.")
    statement = (
        select(allocations, consumers.c.generation, consumers.c.updated_at)
        .join(consumers, consumers.c.id == allocations.c.consumer_id)
        .where(allocations.c.provider_id == provider)
        .order_by(allocations.c.consumer_id)
    )
    by_consumer: dict[str, Row] = {}
    for row in rows(tx, statement):
        entry = by_consumer.setdefault(
            row["consumer_id"], {"resources": {}, "generation": row["generation"], "updated_at": row["updated_at"]}
        )
        entry["resources"][row["resource_class"]] = row["used"]
    return found, by_consumer


def consumer_ids(tx: Tx) -> set[str]:
    return set(tx.execute(select(consumers.c.id)).scalars())


def _check_generation(want: Wanted, found: Row | None) -> None:
    current = None if found is None else found["generation"]
    if want.generation != current:
        expected = "null" if current is None else current
        got = "null" if want.generation is None else want.generation
        raise Conflict(
            f"consumer generation conflict - expected {expected} but got {got}; read the consumer's allocations again and retry",
            kind=CONCURRENT_UPDATE,
        )


def _touch(tx: Tx, provider: str) -> None:
    """A provider's generation counts every change of its usage; the row's lock orders those who change it."""
    if tx.execute(_TOUCH, {"provider": provider, "now": time.time()}).rowcount != 1:
        raise NoProvider(f"Allocation for resource provider '{provider}' that does not exist.")


@lru_cache(256)
def _giving_back(names: tuple[str, ...]) -> Update:
    row = inventories.c
    return _of_classes(names).values(used=row.used - _amount(names))


@lru_cache(256)
def _taking(names: tuple[str, ...]) -> ReturningUpdate[str]:
    row = inventories.c
    return _of_classes(names).where(fits(_amount(names))).values(used=row.used + _amount(names)).returning(row.resource_class)


def _of_classes(names: tuple[str, ...]) -> Update:
    return update(inventories).where(inventories.c.provider_id == bindparam("provider"), inventories.c.resource_class.in_(names))


def _amount(names: tuple[str, ...]) -> ColumnElement[int]:
    """The amount that belongs to an inventory row's class; given by the class's name."""
    return case({name: bindparam(name, type_=Integer) for name in names}, value=inventories.c.resource_class, else_=0)


def _take(tx: Tx, provider: str, resources: Resources) -> None:
    if not resources:
        return
    taken = set(tx.execute(_taking(tuple(sorted(resources))), {"provider": provider, **resources}).scalars())
    if len(taken) != len(resources):
        raise DoesNotFit(_why_not(tx, provider, {name: amount for name, amount in resources.items() if name not in taken}))


def _write(tx: Tx, want: Wanted, found: Row | None) -> None:
    entries = [
        {"consumer_id": want.consumer, "provider_id": provider, "resource_class": name, "used": amount}
        for provider, resources in want.resources.items()
        for name, amount in resources.items()
    ]
    if not entries:
        tx.execute(_LEAVE, {"consumer": want.consumer})
        return
    values = {
        "project_id": want.project_id,
        "user_id": want.user_id,
        "generation": 1 if found is None else found["generation"] + 1,
        "consumer_type": want.consumer_type or (found and found["consumer_type"]),
        "updated_at": time.time(),
    }
    upsert(tx, consumers, {"id": want.consumer}, values)
    tx.execute(_HOLD, entries)


def _why_not(tx: Tx, provider: str, resources: Resources) -> str:
    """A sentence about the classes that were refused."""
    found = {row["resource_class"]: row for row in rows(tx, select(inventories).where(inventories.c.provider_id == provider))}
    reasons = []
    for name, amount in resources.items():
        row = found.get(name)
        if row is None:
            reasons.append(f"it has no inventory of {name}")
        elif row["used"] + amount > row["capacity"]:
            reasons.append(f"{amount} of {name} were asked for, {max(row['capacity'] - row['used'], 0)} of {row['capacity']} are left")
        else:
            form = f"from {row['min_unit']} to {row['max_unit']} in steps of {row['step_size']}"
            reasons.append(f"{name} is given {form}, {amount} were asked for")
    return f"Unable to allocate inventory on resource provider '{provider}': {'; '.join(reasons)}."
