"""Allocations: who holds what of which provider. The guarded UPDATE in `_take` is all that keeps a provider from being overbooked.

Everybody locks in one order: consumers, by id; what they hold; providers, by id (their generations); the inventories of these. So no two
wait in a circle, and two who change one consumer come one after the other. What a boot does (`claim` of a new consumer, `release`) is
four statements, of which a provider is held for the last two.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import BindParameter, ColumnElement, Integer, Update, and_, bindparam, case, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from pileus.clients.placement import Resources
from pileus.errors import BadRequest, Conflict, NotFound
from pileus.placement import classes
from pileus.placement.tables import allocations, consumers, inventories, providers
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

CONCURRENT_UPDATE = "placement.concurrent_update"

Held = dict[str, dict[str, int]]
"""Provider → resource class → amount."""


class DoesNotFit(Conflict):
    """A provider has not enough left of something, or gives it only in other portions."""


class NoProvider(BadRequest):
    """Resources were asked of a provider that does not exist."""


_NO_PROVIDER = "Allocation for resource provider '{}' that does not exist."


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
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_HELD = select(allocations).where(allocations.c.consumer_id.in_(_IDS))
_CONSUMERS = select(consumers).where(consumers.c.id.in_(_IDS)).order_by(consumers.c.id).with_for_update()
_TOUCH = (
    update(providers)
    .where(providers.c.id == bindparam("provider"))
    .values(generation=providers.c.generation + 1, updated_at=bindparam("now"))
)
_FORGET = (
    delete(allocations)
    .where(
        allocations.c.consumer_id
        == select(consumers.c.id).where(consumers.c.id == bindparam("consumer")).with_for_update().scalar_subquery()
    )
    .returning(allocations.c.provider_id, allocations.c.resource_class, allocations.c.used)
)
_LEAVE = delete(consumers).where(consumers.c.id == bindparam("consumer"), ~exists().where(allocations.c.consumer_id == consumers.c.id))
_CHANGE = (
    update(consumers)
    .where(consumers.c.id == bindparam("consumer"))
    .values(
        project_id=bindparam("project"),
        user_id=bindparam("user"),
        consumer_type=bindparam("type"),
        generation=consumers.c.generation + 1,
        updated_at=bindparam("now"),
    )
)
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
    known = _entered(tx, wanted)
    held: dict[str, Held] = {consumer: _forget(tx, consumer) for consumer in sorted(known)}
    for provider in sorted({p for what in held.values() for p in what} | {p for want in wanted for p in want.resources}):
        _touch(tx, provider)
    for what in held.values():
        _give_back(tx, what)
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
    want = Wanted(consumer, project_id, user_id, {provider: asked}, consumer_type="INSTANCE")
    if asked and _new(tx, want):
        try:
            tx.execute(_HOLD, _entries(want))
        except IntegrityError:
            raise NoProvider(_NO_PROVIDER.format(provider)) from None
        _touch(tx, provider)
        _take(tx, provider, asked)
    elif held_by(tx, [consumer]).get(consumer) != {provider: asked}:
        replace(tx, [want])


def release(tx: Tx, consumer: str) -> bool:
    """Give back whatever the consumer holds; whether it held anything."""
    held: Held = {}
    for _ in range(2):  # the second time, where somebody changed it at this very moment: now he has to wait
        for provider, had in _forget(tx, consumer).items():
            held.setdefault(provider, {}).update(had)
        if held and tx.execute(_LEAVE, {"consumer": consumer}).rowcount == 1:
            break
    for provider in sorted(held):
        _touch(tx, provider)
    _give_back(tx, held)
    return bool(held)


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


def consumer_ids(tx: Tx, after: str = "", most: int | None = None) -> set[str]:
    """See `PlacementClient.consumers`."""
    return set(tx.execute(select(consumers.c.id).where(consumers.c.id > after).order_by(consumers.c.id).limit(most)).scalars())


def _entered(tx: Tx, wanted: Sequence[Wanted]) -> dict[str, Row]:
    """The consumers that are there, as they were, locked; new ones are made, so that nobody else makes them. Raises Conflict."""
    known = {row["id"]: row for row in rows(tx, _CONSUMERS, ids=[want.consumer for want in wanted])}
    for want in sorted(wanted, key=lambda want: want.consumer):
        if want.guarded:
            _check_generation(want, known.get(want.consumer))
        if want.consumer in known or not _holds(want) or _new(tx, want):
            continue
        known |= {row["id"]: row for row in rows(tx, _CONSUMERS, ids=[want.consumer])}  # somebody was faster, and has committed by now
        if want.guarded:
            _check_generation(want, known.get(want.consumer))
    return known


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
        raise NoProvider(_NO_PROVIDER.format(provider))


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


def _holds(want: Wanted) -> bool:
    return any(want.resources.values())


def _new(tx: Tx, want: Wanted) -> bool:
    """Make the consumer, unless it is there."""
    values = {
        "id": want.consumer,
        "project_id": want.project_id,
        "user_id": want.user_id,
        "consumer_type": want.consumer_type,
        "generation": 1,
        "updated_at": time.time(),
    }
    return insert_new(tx, consumers, values)


def _forget(tx: Tx, consumer: str) -> Held:
    held: Held = {}
    for provider, name, used in tx.execute(_FORGET, {"consumer": consumer}):
        held.setdefault(provider, {})[name] = used
    return held


def _give_back(tx: Tx, held: Held) -> None:
    for provider in sorted(held):
        had = held[provider]
        tx.execute(_giving_back(tuple(sorted(had))), {"provider": provider, **had})


def _entries(want: Wanted) -> list[Row]:
    return [
        {"consumer_id": want.consumer, "provider_id": provider, "resource_class": name, "used": amount}
        for provider, resources in want.resources.items()
        for name, amount in resources.items()
    ]


def _write(tx: Tx, want: Wanted, before: Row | None) -> None:
    """`before`: the consumer as it was; None: it is new, and written."""
    if not _holds(want):
        tx.execute(_LEAVE, {"consumer": want.consumer})
        return
    if before is not None:
        kind = want.consumer_type or before["consumer_type"]
        values = {"project": want.project_id, "user": want.user_id, "type": kind, "now": time.time()}
        tx.execute(_CHANGE, {"consumer": want.consumer, **values})
    tx.execute(_HOLD, _entries(want))


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
