"""Addresses of a subnet: given once, at the same cost whatever the fill and however many ask.

What is free stands as ranges of rows, large pools as several (`STRIPES`). Giving an address counts a range's `taken` up; an address
that was asked for by name splits a range; a released one is appended as a range of its own and given again last, because guests and
switches remember whom they met there. A range is known by its last address, which giving does not change: so no index entry is made
or left behind by it (PostgreSQL changes the row in place), and the first free range is found at once however many were given before.

On an engine with concurrent writers each takes the first range that nobody else is taking from; only when all are being taken from
it waits. Who changes pools, or deletes a subnet or network, has the network's gate to itself (`visible.lock_network`); who gives
holds it together with others (`visible.with_subnets`). The order of locks is in `pileus/network/ports.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, delete, false, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from pileus.errors import Unavailable
from pileus.network.tables import allocations, free
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

Address = IPv4Address | IPv6Address
Pool = tuple[str, str]
"""First and last address, both included, as hex."""

STRIPES = 16
"""Ranges that a pool is laid out in: so many writers give at once without waiting for one another."""
LEAST = 8
"""Addresses of the smallest stripe."""
TRIES = 100
"""Looks at the free ranges before we give up; each one lost means that somebody else got an address."""

# Built once: they are on the path of every boot.
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_MINE = free.c.subnet_id == bindparam("subnet")
_RANGE = and_(_MINE, free.c.last == bindparam("to"))
_ANY = select(free.c.last).where(_MINE).limit(1)
_DROP = delete(free).where(_RANGE)
_AROUND = select(free).where(_MINE, free.c.last >= bindparam("address")).order_by(free.c.last).limit(1)
_IS = and_(allocations.c.subnet_id == bindparam("subnet"), allocations.c.address == bindparam("is"))
_POOLED = update(allocations).where(_IS).values(pooled=True)
_RELEASE = delete(allocations).where(allocations.c.port_id.in_(_IDS)).returning(allocations)
_FREE = free.insert()


def _taking(*, skip: bool) -> ReturningUpdate[str, int, str]:
    """One address of the first range; `skip`: of the first that nobody else takes from now."""
    each = free.alias()
    choice = select(each.c.last).where(each.c.subnet_id == bindparam("subnet")).order_by(each.c.freed, each.c.last).limit(1)
    chosen: Select[str] = choice.with_for_update(skip_locked=skip)
    of = and_(_MINE, free.c.last == chosen.scalar_subquery())
    return update(free).where(of).values(taken=free.c.taken + 1).returning(free.c.first, free.c.taken, free.c.last)


_TAKE, _TAKE_WAITING = _taking(skip=True), _taking(skip=False)


def encode(address: Address) -> str:
    """Fixed-width hex: sorts as the address does."""
    return f"{int(address):08x}" if address.version == 4 else f"{int(address):032x}"


def decode(text: str) -> Address:
    return IPv4Address(int(text, 16)) if len(text) == 8 else IPv6Address(int(text, 16))


def step(text: str, by: int) -> str:
    """The address `by` further on, in the same width."""
    return f"{int(text, 16) + by:0{len(text)}x}"


def set_pools(tx: Tx, subnet_id: str, pools: Sequence[Pool]) -> None:
    """Make these the subnet's pools: whatever in them is not given is free. Costs as much as the subnet has allocations. The caller
    has locked the network."""
    ordered = sorted(pools)
    # First of all, so that who is releasing an address is waited for; and once, since a row that is changed twice has its port looked
    # up and locked.
    inside = or_(false(), *(_inside(start, end) for start, end in ordered))
    tx.execute(update(allocations).where(allocations.c.subnet_id == subnet_id).values(pooled=inside))
    tx.execute(delete(free).where(free.c.subnet_id == subnet_id))
    taken = [row["address"] for row in rows(tx, select(allocations.c.address).where(allocations.c.subnet_id == subnet_id))]
    gaps = [_range(subnet_id, a, b) for gap in _gaps(ordered, sorted(taken)) for a, b in _striped(*gap)]
    if gaps:
        tx.execute(_FREE, gaps)


def give_any(tx: Tx, subnet_id: str, port_id: str, position: int) -> str | None:
    """Allocate the next free address of the subnet (hex); None when its pools are exhausted."""
    subnet = {"subnet": subnet_id}
    for _ in range(TRIES):
        found = tx.execute(_TAKE, subnet).first() or tx.execute(_TAKE_WAITING, subnet).first()
        if found is None:
            if tx.execute(_ANY, subnet).first() is None:
                return None
            continue  # what was waited for is used up, or laid out anew
        begin, taken, last = found
        address = step(begin, taken - 1)
        if address == last:
            tx.execute(_DROP, {"subnet": subnet_id, "to": last})
        if _insert(tx, subnet_id, address, port_id, position, pooled=True):
            return address
        tx.execute(_POOLED, {"subnet": subnet_id, "is": address})  # asked for by name while it was being released
    raise Unavailable("too many requests for addresses of one subnet at once; try again")


def give(tx: Tx, subnet_id: str, address: str, port_id: str, position: int) -> bool:
    """Allocate this address (inside the subnet, inside or outside of its pools); False when somebody has it."""
    pooled = _cut(tx, subnet_id, address)
    if not _insert(tx, subnet_id, address, port_id, position, pooled=pooled):
        return False
    if not pooled and _cut(tx, subnet_id, address, wait=False):  # it was released just now
        tx.execute(_POOLED, {"subnet": subnet_id, "is": address})
    return True


def take_back(tx: Tx, port_ids: Sequence[str], *, only: Iterable[tuple[str, str]] | None = None) -> list[Row]:
    """Release the ports' addresses (or only these, as (subnet id, hex)); what was released."""
    if only is None:
        released = rows(tx, _RELEASE, ids=sorted(port_ids)) if port_ids else []
    else:
        mine = allocations.c.port_id.in_(port_ids)
        released = [row for which in sorted(only) for row in rows(tx, delete(allocations).where(mine, _is(*which)).returning(allocations))]
    freed = time.time_ns() // 1000
    back = [_range(row["subnet_id"], row["address"], row["address"], freed) for row in released if row["pooled"]]
    if back:
        tx.execute(_FREE, back)
    return released


def _is(subnet_id: str, address: str) -> ColumnElement[bool]:
    return and_(allocations.c.subnet_id == subnet_id, allocations.c.address == address)


def _inside(start: str, end: str) -> ColumnElement[bool]:
    return and_(allocations.c.address >= start, allocations.c.address <= end)


def _insert(tx: Tx, subnet_id: str, address: str, port_id: str, position: int, *, pooled: bool) -> bool:
    values = {
        "subnet_id": subnet_id,
        "address": address,
        "ip": str(decode(address)),
        "port_id": port_id,
        "position": position,
        "pooled": pooled,
    }
    return insert_new(tx, allocations, values)


def _cut(tx: Tx, subnet_id: str, address: str, *, wait: bool = True) -> bool:
    """Take this address out of the free range that holds it; False when there is none (or, without `wait`, it is being taken from).

    A range that had to be waited for may be another one by then: what was seen counts only when a second look is the same."""
    around = _AROUND.with_for_update(skip_locked=not wait)
    before: str | None = None
    for _ in range(TRIES):
        found = first(tx, around, subnet=subnet_id, address=address)
        if found is not None and (begin := step(found["first"], found["taken"])) <= address:
            _split(tx, found, begin, address)
            return True
        seen = "" if found is None else found["last"]
        if not wait or seen == before:
            return False
        before = seen
    raise Unavailable("too many requests for addresses of one subnet at once; try again")


def _split(tx: Tx, found: Row, begin: str, address: str) -> None:
    """Make of a locked range, free from `begin` on, what is left around an address of it."""
    subnet_id, last = found["subnet_id"], found["last"]
    if begin < address:
        tx.execute(_FREE, [_range(subnet_id, begin, step(address, -1), found["freed"])])
    this = and_(free.c.subnet_id == subnet_id, free.c.last == last)
    if address == last:
        tx.execute(delete(free).where(this))
    else:
        tx.execute(update(free).where(this).values(first=step(address, 1), taken=0))


def _range(subnet_id: str, begin: str, last: str, freed: int = 0) -> Row:
    return {"subnet_id": subnet_id, "first": begin, "last": last, "taken": 0, "freed": freed}


def _striped(begin: str, last: str) -> Iterable[Pool]:
    """A range in so many parts that several can give of it at once."""
    a, b = int(begin, 16), int(last, 16)
    size = max(-((a - b - 1) // STRIPES), LEAST)
    for start in range(a, b + 1, size):
        yield step(begin, start - a), step(begin, min(start + size - 1, b) - a)


def _gaps(pools: Sequence[Pool], taken: Sequence[str]) -> Iterable[Pool]:
    """What of the pools is not taken; both sorted."""
    for start, end in pools:
        at = start
        for address in taken:
            if at <= address <= end:
                if at < address:
                    yield at, step(address, -1)
                at = step(address, 1)
        if int(at, 16) <= int(end, 16):
            yield at, end
