"""Which hosts have ports in a tunnel network: counted by host, told by version.

A row stands for a host that ports of the network are bound on, from its first port until the sweep finds that its last one is gone. So
a boot costs one statement here, and a host whose last port makes room for another one never left. What the others do not know
of yet (`announced` is false, or no port is left) an index finds: whoever sweeps tells them, and gives the network a new version.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import BindParameter, bindparam, delete, or_, select, update

from pileus.errors import Conflict
from pileus.messages import Members, MembersChange, MembersRequest, NetworkMembers
from pileus.network.tables import MEMBERS_NEWS, members, networks
from pileus.store import Tx
from pileus.store.sql import insert_new, rows

BATCH = 500
"""Rows of one sweep."""

_HERE = (members.c.network_id == bindparam("network"), members.c.host == bindparam("on"))
_IDS: BindParameter[str] = bindparam("ids", expanding=True)

# Built once: they are on the path of every boot, and of every host's questions.
_ONE_MORE = update(members).where(*_HERE, members.c.ports > 0).values(ports=members.c.ports + 1)
_FIRST_AGAIN = update(members).where(*_HERE).values(ports=members.c.ports + 1)
_FEWER = update(members).where(*_HERE).values(ports=members.c.ports - bindparam("gone"))
_ANY = select(members.c.host, members.c.address).where(members.c.network_id == bindparam("network"), members.c.ports > 0).limit(1)
_ANY_OTHER = _ANY.where(members.c.host != bindparam("on"))
_ANY_KNOWN = _ANY.where(members.c.address.is_not(None))
_NETWORK = select(networks.c.id).where(networks.c.id == bindparam("network"))
_LOCK, _LOCK_ALONE = _NETWORK.with_for_update(read=True), _NETWORK.with_for_update(key_share=True)
_HOLD = (
    select(members.c.host)
    .where(members.c.network_id == bindparam("network"), members.c.host.in_(_IDS))
    .order_by(members.c.host)
    .with_for_update()
)
_NEWS = select(members.c.network_id).where(MEMBERS_NEWS)
_DUE = (
    select(networks.c.id)
    .where(networks.c.id.in_(_NEWS))
    .order_by(networks.c.id)
    .limit(BATCH)
    .with_for_update(key_share=True, skip_locked=True)
)
_TAKE = (
    select(members.c.network_id, members.c.host, members.c.address, members.c.ports)
    .where(MEMBERS_NEWS, members.c.network_id.in_(_IDS))
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
_VERSIONS = select(networks.c.id, networks.c.members_version).where(networks.c.id.in_(_IDS))
_MEMBERS = select(members.c.network_id, members.c.host, members.c.address).where(members.c.network_id.in_(_IDS))
_TAKE_LEFT = delete(members).where(*_HERE, members.c.ports <= 0)
_TAKE_JOINED = update(members).where(*_HERE, members.c.announced.is_(False)).values(announced=True)
_NEXT_VERSION = (
    update(networks)
    .where(networks.c.id.in_(_IDS))
    .values(members_version=networks.c.members_version + 1)
    .returning(networks.c.id, networks.c.members_version)
)
_STALE = (members.c.host == bindparam("on"), or_(members.c.address.is_(None), members.c.address != bindparam("now_at")))
_ELSEWHERE = select(members.c.network_id).where(*_STALE).order_by(members.c.network_id)
_MOVED = update(members).where(*_STALE, members.c.network_id == bindparam("network")).values(address=bindparam("now_at"), announced=False)


def enter(tx: Tx, network_id: str, host: str, address: str | None) -> None:
    """One more port of the network is bound on the host, whose tunnels end at `address` (empty: it has none; None: not known).
    Raises Conflict where host and network cannot be joined."""
    here = {"network": network_id, "on": host}
    if tx.execute(_ONE_MORE, here).rowcount == 1:
        return
    _check_reach(tx, network_id, host, address)
    new = {"network_id": network_id, "host": host, "ports": 1, "address": address, "announced": False}
    if not insert_new(tx, members, new):
        tx.execute(_FIRST_AGAIN, here)


def leave(tx: Tx, network_id: str, host: str, ports: int = 1) -> None:
    """So many ports fewer are bound there. Whether it was the last one, the sweep finds out."""
    tx.execute(_FEWER, {"network": network_id, "on": host, "gone": ports})


def hold(tx: Tx, network_id: str, hosts: Collection[str], *, alone: bool) -> None:
    """Before ports of the network leave one host and enter another in one transaction: nobody else changes these members until it ends,
    and it waits for nobody any more. `alone`: one of the hosts has no tunnels."""
    tx.execute(_LOCK_ALONE if alone else _LOCK, {"network": network_id})
    tx.execute(_HOLD, {"network": network_id, "ids": sorted(hosts)})


def forget(tx: Tx, network_id: str) -> None:
    """The network is deleted."""
    tx.execute(delete(members).where(members.c.network_id == network_id))


def anywhere(tx: Tx, network_id: str) -> tuple[str, bool] | None:
    """A host that has ports in the network and has said whether it has tunnels, and whether it reaches others; None while there is no
    such host: what nobody knows asks nothing of the next one."""
    found = tx.execute(_ANY_KNOWN, {"network": network_id}).first()
    return None if found is None else (str(found[0]), found[1] != "")


def news(tx: Tx) -> bool:
    """Is there anything to sweep?"""
    return tx.execute(_NEWS.limit(1)).first() is not None


def sweep(tx: Tx) -> dict[str, list[MembersChange]] | None:
    """Take what has changed, give those networks a new version: host → what it is to be told. None: nothing was there to take. What
    others are changing at this moment is left for the next time, so this waits for nobody."""
    due = [row["id"] for row in rows(tx, _DUE)]
    joined: dict[str, list[tuple[str, str]]] = {}
    left: dict[str, list[str]] = {}
    for row in rows(tx, _TAKE, ids=due) if due else ():
        here = {"network": row["network_id"], "on": row["host"]}
        if row["ports"] <= 0:
            if tx.execute(_TAKE_LEFT, here).rowcount == 1:
                left.setdefault(row["network_id"], []).append(row["address"] or "")
        elif tx.execute(_TAKE_JOINED, here).rowcount == 1:
            joined.setdefault(row["network_id"], []).append((row["host"], row["address"] or ""))
    changed = sorted(joined.keys() | left.keys())
    if not changed:
        return None
    told: dict[str, list[MembersChange]] = {}
    versions = {row["id"]: row["members_version"] for row in rows(tx, _NEXT_VERSION, ids=changed)}
    there = rows(tx, _MEMBERS, ids=changed)
    still = {(row["network_id"], row["address"]) for row in there}  # a host may come back by another name, or name another's address
    for row in there:
        if row["address"] == "" or row["network_id"] not in versions:
            continue  # nobody is told who has no tunnels
        version = versions[row["network_id"]]
        others = [address for host, address in joined.get(row["network_id"], ()) if address and host != row["host"]]
        gone = [address for address in left.get(row["network_id"], ()) if address and (row["network_id"], address) not in still]
        told.setdefault(row["host"], []).append(MembersChange(row["network_id"], version - 1, version, others, gone))
    return told


def asked(tx: Tx, question: MembersRequest) -> tuple[Members, bool]:
    """The answer to a host: those networks that it has ports in and knows at another version; and whether another address than the
    one it gives is written down of it (`moved`)."""
    known = question.networks
    versions = {row["id"]: row["members_version"] for row in rows(tx, _VERSIONS, ids=sorted(known))}
    other = [network_id for network_id, version in versions.items() if version != known[network_id]]
    by_network: dict[str, dict[str, str]] = {network_id: {} for network_id in other}
    for row in rows(tx, _MEMBERS, ids=other) if other else ():
        by_network[row["network_id"]][row["host"]] = row["address"] or ""
    answer = [
        NetworkMembers(network_id, versions[network_id], sorted(at for host, at in found.items() if at and host != question.host))
        for network_id, found in by_network.items()
        if question.host in found
    ]
    elsewhere = tx.execute(_ELSEWHERE.limit(1), {"on": question.host, "now_at": question.address}).first() is not None
    return Members(answer), elsewhere


def moved(tx: Tx, host: str, address: str) -> None:
    """The host's tunnels end at this address now. The version skips one, so that everybody asks anew and forgets the old one."""
    for row in rows(tx, _ELSEWHERE, on=host, now_at=address):
        tx.execute(_NEXT_VERSION, {"ids": [row["network_id"]]})
        tx.execute(_MOVED, {"network": row["network_id"], "on": host, "now_at": address})


def _check_reach(tx: Tx, network_id: str, host: str, address: str | None) -> None:
    """A host without tunnels has a network for itself alone. The lock: of two hosts that come at once one waits for the other."""
    tx.execute(_LOCK_ALONE if address == "" else _LOCK, {"network": network_id})
    other = tx.execute(_ANY_OTHER, {"network": network_id, "on": host}).first()
    if other is None or (address != "" and other[1] != ""):
        return
    alone = host if address == "" else str(other[0])
    raise Conflict(
        f"Network {network_id} has ports on host {other[0]} and cannot be on host {host} too: {alone} has no tunnels (host.tunnel_address)",
        kind="HostTaken",
    )
