"""Whose addresses a security group stands for: written with each port, told by version.

A row stands for an address of one of the group's ports, so a boot costs one statement here, and neither reads nor writes what the group
has already. What hosts were not told of as it is (`announced` is false) an index finds: whoever sweeps takes it for the groups that are
due, gives those a new version and says what joined and what left. The more hosts read a group, the more is gathered between two
tellings (`network.members_rate`), so that a storm of n boots in a group that n hosts read is not n² messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from sqlalchemy import BindParameter, Float, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from pileus.messages import SetChange
from pileus.network.tables import SET_NEWS, security_groups, security_readers, set_members
from pileus.store import Tx
from pileus.store.schema import Time
from pileus.store.sql import Row, rows

BATCH = 200
"""Groups of one sweep."""
NO_ADDRESS = ""
"""Stands for a port that has none."""

Member = tuple[str, str]
"""Group and address."""

# Built once: the first two are on the path of every boot and every delete.
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_ENTER = set_members.insert()
_LEAVE = update(set_members).where(set_members.c.port_id.in_(_IDS), set_members.c.gone.is_(False)).values(gone=True, announced=False)
_OF_PORT = select(set_members).where(set_members.c.port_id == bindparam("port"))
_GO = (
    update(set_members)
    .where(
        set_members.c.set_id == bindparam("from_set"),
        set_members.c.address == bindparam("is"),
        set_members.c.port_id == bindparam("port"),
    )
    .values(gone=True, announced=False)
)
_NEWS = select(set_members.c.set_id).where(SET_NEWS)
_DUE = (
    select(security_groups.c.id)
    .where(security_groups.c.id.in_(_NEWS), security_groups.c.members_due <= bindparam("now", type_=Time))
    .order_by(security_groups.c.id)
    .limit(BATCH)
    .with_for_update(key_share=True, skip_locked=True)
)
_NEXT_DUE = select(func.min(security_groups.c.members_due)).where(security_groups.c.id.in_(_NEWS))
_IN_SETS = set_members.c.set_id.in_(_IDS)
_KEY = tuple_(set_members.c.set_id, set_members.c.address, set_members.c.port_id)
_NEWS_OF = select(set_members.c.set_id, set_members.c.address, set_members.c.port_id).where(_IN_SETS, SET_NEWS)
_NOBODYS = _NEWS_OF.with_for_update(skip_locked=True)
_JOINED = (
    update(set_members)
    .where(_IN_SETS, SET_NEWS, set_members.c.gone.is_(False), _KEY.in_(_NOBODYS.where(set_members.c.gone.is_(False))))
    .values(announced=True)
    .returning(set_members.c.set_id, set_members.c.address)
)
_LEFT = (
    delete(set_members)
    .where(_IN_SETS, SET_NEWS, set_members.c.gone.is_(True), _KEY.in_(_NOBODYS.where(set_members.c.gone.is_(True))))
    .returning(set_members.c.set_id, set_members.c.address)
)
_STILL = select(set_members.c.set_id, set_members.c.address).where(
    _IN_SETS, set_members.c.address.in_(bindparam("addresses", expanding=True)), set_members.c.gone.is_(False)
)
_READING = select(func.count()).select_from(security_readers).where(security_readers.c.subject_id == security_groups.c.id).scalar_subquery()
_NEXT_VERSION = (
    update(security_groups)
    .where(security_groups.c.id.in_(_IDS))
    .values(
        members_version=security_groups.c.members_version + 1,
        members_due=bindparam("now", type_=Time) + _READING / bindparam("rate", type_=Float),
    )
    .returning(security_groups.c.id, security_groups.c.members_version)
)
_ALL = select(set_members.c.set_id, set_members.c.address).where(_IN_SETS, set_members.c.gone.is_(False))
_ANY = select(set_members.c.port_id).where(set_members.c.set_id == bindparam("of_set"), set_members.c.gone.is_(False)).limit(1)


def _back(insert: Any) -> Any:
    return insert.on_conflict_do_update(index_elements=["set_id", "address", "port_id"], set_={"gone": False, "announced": False})


_COME = {"sqlite": _back(sqlite.insert(set_members)), "postgresql": _back(postgresql.insert(set_members))}


def of_port(port: Row) -> set[Member]:
    """What a port (with its `fixed_ips`) adds to its groups."""
    addresses = {address["ip"] for address in port["fixed_ips"]} | {_plain(pair["ip"]) for pair in port["pairs"]}
    return {(group_id, address) for group_id in port["security_groups"] for address in addresses or {NO_ADDRESS}}


def _plain(text: str) -> str:
    """An address or CIDR as there is only one way to write it: who leaves a set must be who came."""
    network = ip_network(text, strict=False)
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def enter(tx: Tx, ports: Iterable[Row]) -> None:
    """Ports that are new (with their `fixed_ips`)."""
    new = [_row(member, port["id"]) for port in ports for member in sorted(of_port(port))]
    if new:
        tx.execute(_ENTER, new)


def change(tx: Tx, port: Row) -> None:
    """A port whose groups or addresses may be others now; the caller has locked it."""
    before = {(row["set_id"], row["address"]) for row in rows(tx, _OF_PORT, port=port["id"]) if not row["gone"]}
    after = of_port(port)
    if before - after:
        tx.execute(_GO, [{"from_set": set_id, "is": address, "port": port["id"]} for set_id, address in sorted(before - after)])
    if after - before:
        tx.execute(_COME[tx.dialect.name], [_row(member, port["id"]) for member in sorted(after - before)])


def leave(tx: Tx, ports: Sequence[Row]) -> None:
    """Ports that are deleted."""
    ids = sorted(port["id"] for port in ports if port["security_groups"])
    if ids:
        tx.execute(_LEAVE, {"ids": ids})


def in_use(tx: Tx, group_id: str) -> bool:
    """Has any port the group?"""
    return tx.execute(_ANY, {"of_set": group_id}).first() is not None


def forget(tx: Tx, group_id: str) -> None:
    """The group is deleted; the caller has locked it, and no port has it."""
    tx.execute(delete(set_members).where(set_members.c.set_id == group_id))


def of_sets(tx: Tx, set_ids: Collection[str]) -> dict[str, set[str]]:
    """Group → the addresses of its ports."""
    found: dict[str, set[str]] = {set_id: set() for set_id in set_ids}
    if found:
        for row in rows(tx, _ALL, ids=sorted(found)):
            found[row["set_id"]].add(row["address"])
    return {set_id: addresses - {NO_ADDRESS} for set_id, addresses in found.items()}


def next_due(tx: Tx) -> float | None:
    """When there is something to sweep; None: nothing."""
    found: float | None = tx.execute(_NEXT_DUE).scalar()
    return found


def sweep(tx: Tx, now: float, rate: float) -> list[SetChange] | None:
    """Take what has changed of the groups that are due; None: of none. What others are changing at this moment is left for the next
    time, so this waits for nobody. The groups' readers are looked up after the commit."""
    due = [row["id"] for row in rows(tx, _DUE, now=now)]
    if not due:
        return None
    came, went = rows(tx, _JOINED, ids=due), rows(tx, _LEFT, ids=due)
    if not came and not went:
        return None
    joined, left = _by_set(came), _by_set(went)
    changed = sorted(set_id for set_id in joined.keys() | left.keys() if (joined.get(set_id) or left.get(set_id)))
    if not changed:
        return []
    gone = sorted({address for addresses in left.values() for address in addresses})
    still = _by_set(rows(tx, _STILL, ids=changed, addresses=gone)) if gone else {}  # other ports have them as well
    versions = {row["id"]: row["members_version"] for row in rows(tx, _NEXT_VERSION, ids=changed, now=now, rate=rate)}
    return [
        SetChange(
            set_id,
            versions[set_id] - 1,
            versions[set_id],
            sorted(joined.get(set_id, set())),
            sorted(left.get(set_id, set()) - still.get(set_id, set())),
        )
        for set_id in changed
    ]


def _by_set(found: Sequence[Row]) -> dict[str, set[str]]:
    by_set: dict[str, set[str]] = {}
    for row in found:
        if row["address"] != NO_ADDRESS:
            by_set.setdefault(row["set_id"], set()).add(row["address"])
    return by_set


def _row(member: Member, port_id: str) -> Row:
    return {"set_id": member[0], "address": member[1], "port_id": port_id, "gone": False, "announced": False}
