"""Addresses of a subnet: given once, at the same cost whatever the fill.

What is free stands as ranges of rows. Giving one shortens a range; an address that was asked for by name splits one; a released
one is appended as a range of its own and given again last, because guests and switches remember whom they met there.
The primary key (subnet, address) of the allocations is what makes an address unique; each statement on a free range is
guarded by what was read, so that concurrent writers at worst look again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from sqlalchemy import ColumnElement, and_, bindparam, delete, select, update

from pileus.errors import Unavailable
from pileus.network.tables import allocations, free
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

Address = IPv4Address | IPv6Address
Pool = tuple[str, str]
"""First and last address, both included, as hex."""

TRIES = 100
"""Looks at the free ranges before we give up; each one lost means that somebody else got an address."""

_NEXT = select(free).where(free.c.subnet_id == bindparam("subnet")).order_by(free.c.freed, free.c.first).limit(1)
"""Built once: it is on the path of every boot. So are the two below."""

_SAME = and_(free.c.subnet_id == bindparam("subnet"), free.c.first == bindparam("from"), free.c.last == bindparam("to"))
_SHORTEN = update(free).where(_SAME).values(first=bindparam("then"))


def encode(address: Address) -> str:
    """Fixed-width hex: sorts as the address does."""
    return f"{int(address):08x}" if address.version == 4 else f"{int(address):032x}"


def decode(text: str) -> Address:
    return IPv4Address(int(text, 16)) if len(text) == 8 else IPv6Address(int(text, 16))


def step(text: str, by: int) -> str:
    """The address `by` further on, in the same width."""
    return f"{int(text, 16) + by:0{len(text)}x}"


def set_pools(tx: Tx, subnet_id: str, pools: Sequence[Pool]) -> None:
    """Make these the subnet's pools: whatever in them is not given is free. Costs as much as the subnet has allocations."""
    ordered = sorted(pools)
    tx.execute(delete(free).where(free.c.subnet_id == subnet_id))
    taken = [row["address"] for row in rows(tx, select(allocations.c.address).where(allocations.c.subnet_id == subnet_id))]
    if taken:
        tx.execute(update(allocations).where(allocations.c.subnet_id == subnet_id).values(pooled=False))
        for start, end in ordered:
            tx.execute(update(allocations).where(_inside(subnet_id, start, end)).values(pooled=True))
    gaps = [{"subnet_id": subnet_id, "first": a, "last": b, "freed": 0} for a, b in _gaps(ordered, sorted(taken))]
    if gaps:
        tx.execute(free.insert(), gaps)


def give_any(tx: Tx, subnet_id: str, port_id: str, position: int) -> str | None:
    """Allocate the next free address of the subnet (hex); None when its pools are exhausted."""
    for _ in range(TRIES):
        row = tx.execute(_NEXT, {"subnet": subnet_id}).mappings().first()
        if row is None:
            return None
        found = dict(row)
        address: str = found["first"]
        if not _shrink(tx, found, address):
            continue
        if _insert(tx, subnet_id, address, port_id, position, pooled=True):
            return address
        _mark_pooled(tx, subnet_id, address)  # somebody asked for it by name just now, and finds it in no free range
    raise Unavailable("too many requests for addresses of one subnet at once; try again")


def give(tx: Tx, subnet_id: str, address: str, port_id: str, position: int) -> bool:
    """Allocate this address (inside the subnet, inside or outside of its pools); False when somebody has it."""
    if not _insert(tx, subnet_id, address, port_id, position, pooled=False):
        return False
    around = select(free).where(free.c.subnet_id == subnet_id, free.c.first <= address).order_by(free.c.first.desc()).limit(1)
    for _ in range(TRIES):
        found = first(tx, around)
        if found is None or found["last"] < address:
            return True
        if _shrink(tx, found, address):
            _mark_pooled(tx, subnet_id, address)
            return True
    raise Unavailable("too many requests for addresses of one subnet at once; try again")


def take_back(tx: Tx, port_ids: Sequence[str], *, only: Iterable[tuple[str, str]] | None = None) -> list[Row]:
    """Release the ports' addresses (or only these, as (subnet id, hex)); what was released."""
    mine = allocations.c.port_id.in_(port_ids)
    released: list[Row] = []
    for condition in [mine] if only is None else [and_(mine, _is(*which)) for which in only]:
        released += rows(tx, delete(allocations).where(condition).returning(allocations))
    freed = time.time_ns() // 1000
    back = [
        {"subnet_id": row["subnet_id"], "first": row["address"], "last": row["address"], "freed": freed}
        for row in released
        if row["pooled"]
    ]
    if back:
        tx.execute(free.insert(), back)
    return released


def _is(subnet_id: str, address: str) -> ColumnElement[bool]:
    return and_(allocations.c.subnet_id == subnet_id, allocations.c.address == address)


def _inside(subnet_id: str, start: str, end: str) -> ColumnElement[bool]:
    return and_(allocations.c.subnet_id == subnet_id, allocations.c.address >= start, allocations.c.address <= end)


def _mark_pooled(tx: Tx, subnet_id: str, address: str) -> None:
    tx.execute(update(allocations).where(_is(subnet_id, address)).values(pooled=True))


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


def _shrink(tx: Tx, found: Row, address: str) -> bool:
    """Take one address out of a free range; False when the range is no more what was read."""
    if address == found["first"] != found["last"]:
        values = {"subnet": found["subnet_id"], "from": found["first"], "to": found["last"], "then": step(address, 1)}
        return tx.execute(_SHORTEN, values).rowcount == 1
    same = and_(free.c.subnet_id == found["subnet_id"], free.c.first == found["first"], free.c.last == found["last"])
    if found["first"] == found["last"]:
        return tx.execute(delete(free).where(same)).rowcount == 1
    if tx.execute(update(free).where(same).values(last=step(address, -1))).rowcount != 1:
        return False
    if address != found["last"]:
        tx.execute(free.insert().values(**{**found, "first": step(address, 1)}))
    return True


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
