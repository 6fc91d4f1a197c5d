"""The network info cache: the addresses of servers, kept beside them, so that showing a server asks nobody. Transaction functions.

Reads of the network are numbered by server: one is begun by adding 1 to `addresses_asked`, outside of any transaction the network service
is asked, and the answer is written where `addresses_known` is less than the number. So a late answer never overwrites a newer one. While
a read is under way, `refresh_at` says when somebody else begins it anew; whoever learns meanwhile that the cache is stale sets it to now,
which the end of that read leaves as it is. A boot reads for nothing: what `allocate` answered is written with its other news.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Update, bindparam, case, literal, null, select, update

from pileus.clients.network import ServerAddress
from pileus.compute.tables import IS_HEALED, MUST_READ, host_beats, servers
from pileus.messages import PortWiring
from pileus.settings import Compute as Settings
from pileus.store import Tx, one_statement
from pileus.store.schema import Time
from pileus.store.sql import Row, rows

TOLD_BY = frozenset({"network-changed", "network-vif-deleted"})
"""External events that say that a cache is stale."""
NEVER = 1e11
"""When a server is healed where healing is off: on the day when it is on again (`settle`)."""
NO_TURN = 0.0
"""When a server or host is healed that never had a turn."""
LATE = 0.2
"""The part of an interval by which healing may come late and go on in the same rhythm."""


@dataclass(frozen=True)
class Read:
    """A read that was begun. `until`: nobody else begins it before. `late`: healing is behind (`LATE`)."""

    server_id: str
    number: int
    until: float
    late: bool = False


_ID, _NUMBER = servers.c.id, servers.c.addresses_asked
_NOW, _UNTIL, _INTERVAL, _ANEW = (bindparam(name, type_=Time) for name in ("now", "until", "interval", "anew"))
_BEGUN: dict[str, Any] = {"addresses_asked": _NUMBER + 1, "refresh_at": _UNTIL}


def _rhythm(due: ColumnElement[float]) -> ColumnElement[float]:
    """The next turn of what is due. In time it keeps its place in the interval; what is late gets one anew (`_spread`)."""
    return case((due > _NOW - LATE * _INTERVAL, due + _INTERVAL), else_=_ANEW)


def _free(which: Select[Any]) -> Update:
    """Changes those of these servers that nobody else is changing: it never waits."""
    return update(servers).where(_ID.in_(which.with_for_update(skip_locked=True)))


def _all(which: Select[Any]) -> Update:
    """Changes all of these servers, waiting for them in the order of their ids, as everybody does."""
    return update(servers).where(_ID.in_(which.order_by(_ID).with_for_update()))


_THESE = select(_ID).where(_ID.in_(bindparam("ids", expanding=True)))
_MOST = bindparam("most", type_=servers.c.launch_index.type)

_DUE = select(_ID).where(MUST_READ, servers.c.refresh_at <= _NOW, IS_HEALED)
_ANY_DUE = _DUE.order_by(servers.c.refresh_at).limit(1)
_BEGIN_DUE = _free(_DUE.order_by(servers.c.refresh_at).limit(_MOST)).values(_BEGUN).returning(_ID, _NUMBER)

_IN_TURN = select(_ID).where(IS_HEALED, servers.c.heal_at <= _NOW, servers.c.refresh_at.is_(None))
_BEGIN_IN_TURN = (
    _free(_IN_TURN.order_by(servers.c.heal_at).limit(_MOST))
    .values({**_BEGUN, "heal_at": _rhythm(servers.c.heal_at)})
    .returning(_ID, _NUMBER, servers.c.heal_at)
)
_HOSTS_IN_TURN = select(host_beats.c.name).where(host_beats.c.heal_at <= _NOW, host_beats.c.name != "")
_ANY_IN_TURN = {"all": _IN_TURN.order_by(servers.c.heal_at).limit(1), "one": _HOSTS_IN_TURN.limit(1)}
_BEGIN_HOSTS = (
    update(host_beats)
    .where(host_beats.c.name.in_(_HOSTS_IN_TURN.order_by(host_beats.c.heal_at).limit(_MOST).with_for_update(skip_locked=True)))
    .values(heal_at=_rhythm(host_beats.c.heal_at))
    .returning(host_beats.c.name, host_beats.c.heal_at)
)
_LONGEST = (
    select(_ID)
    .where(servers.c.host == host_beats.c.name, IS_HEALED)
    .order_by(servers.c.heal_at)
    .limit(1)
    .correlate(host_beats)
    .scalar_subquery()
)
_LONGEST_OF = select(host_beats.c.name, _LONGEST.label("id")).where(host_beats.c.name.in_(bindparam("names", expanding=True)))
_BEGIN_THESE = _free(_THESE).values({**_BEGUN, "heal_at": _NOW + _INTERVAL}).returning(_ID, _NUMBER)

_FOUND = (
    update(servers)
    .where(servers.c.id == bindparam("this"), servers.c.addresses_known < bindparam("number"), servers.c.deleted_at.is_(None))
    .values(
        addresses=bindparam("found", type_=servers.c.addresses.type),
        addresses_known=bindparam("number"),
        refresh_at=case((servers.c.refresh_at == _UNTIL, null()), else_=servers.c.refresh_at),
    )
)
_PUT_OFF = _all(_THESE.where(servers.c.refresh_at == _UNTIL)).values(refresh_at=bindparam("again", type_=Time))
_STALE = update(servers).where(_ID.in_(bindparam("ids", expanding=True))).values(addresses_asked=_NUMBER + 1, refresh_at=_NOW)
_NAMED = (
    select(_ID, servers.c.host)
    .where(_ID.in_(bindparam("ids", expanding=True)), servers.c.deleted_at.is_(None))
    .order_by(_ID)
    .with_for_update()
)
_AT_ONCE = _all(select(_ID).where(IS_HEALED, servers.c.host.in_(bindparam("hosts", expanding=True)), servers.c.heal_at > _NOW)).values(
    heal_at=_NOW
)
_HOSTS_AT_ONCE = update(host_beats).where(host_beats.c.name.in_(bindparam("hosts", expanding=True))).values(heal_at=_NOW)
# Two, for one with `or` would read the whole index.
_NEARER = [
    _free(select(_ID).where(IS_HEALED, which).order_by(servers.c.heal_at).limit(_MOST)).values(heal_at=_ANEW).returning(_ID)
    for which in (servers.c.heal_at > _NOW + _INTERVAL, servers.c.heal_at == bindparam("no_turn", type_=Time))
]
_FAR_HOSTS = (
    select(host_beats.c.name)
    .where((host_beats.c.heal_at > _NOW + _INTERVAL) | (host_beats.c.heal_at == NO_TURN))
    .with_for_update(skip_locked=True)
)
_TURN = update(servers).where(bindparam("this") == _ID).values(heal_at=_ANEW)
_HOST_TURN = update(host_beats).where(host_beats.c.name == bindparam("this")).values(heal_at=_ANEW)

_UNTOUCHED = servers.c.addresses_asked == bindparam("loaded_asked")
BOOTED: dict[str, Any] = {
    "addresses": case((_UNTOUCHED, bindparam("found", type_=servers.c.addresses.type)), else_=servers.c.addresses),
    "addresses_known": case((_UNTOUCHED, _NUMBER), else_=servers.c.addresses_known),
    "refresh_at": case((_UNTOUCHED, null()), else_=bindparam("found_at", type_=Time)),
    "heal_at": bindparam("healed_next", type_=Time),
}
"""What an action that asked the network service for the server's ports writes with its other news: their addresses, where nobody else
has begun a read since the server was loaded; else they are read anew. Values: `booted`."""

FORGOTTEN: dict[str, Any] = {
    "addresses": literal([], type_=servers.c.addresses.type),
    "addresses_asked": _NUMBER + 1,
    "addresses_known": _NUMBER + 1,
    "refresh_at": null(),
}
"""What an action that gave back the server's ports writes: there are none, and no read that was begun before says otherwise."""


def booted(server: Row, ports: Sequence[PortWiring], heal_next: float) -> dict[str, Any]:
    """The values of `BOOTED`, for a server as it was loaded before its ports were asked for."""
    found = [
        ServerAddress(port.network_name, ip.address, 6 if ":" in ip.address else 4, port.mac, port.port_id)
        for port in ports
        for ip in port.fixed_ips
    ]
    return {
        "loaded_asked": server["addresses_asked"],
        "found": _written(found),
        "found_at": time.time(),
        "healed_next": heal_next,
    }


def heal_next(settings: Settings) -> float:
    """When a server whose cache was just filled is healed: evenly spread over the interval."""
    interval = settings.heal_instance_info_cache_interval
    return time.time() + interval * _chance() if interval > 0 else NEVER


def of(server: Mapping[str, Any]) -> list[ServerAddress] | None:
    """A server's addresses as far as they are known; None: the network was never read."""
    found = server["addresses"]
    return None if found is None else [ServerAddress(**each) for each in found]


def stale(tx: Tx, server_ids: Collection[str]) -> dict[str, str | None]:
    """These are to be read anew. Those of them that there are, each with its host."""
    found = rows(tx, _NAMED, ids=sorted(server_ids))
    if found:
        tx.execute(_STALE, {"ids": [row["id"] for row in found], "now": time.time()})
    return {row["id"]: row["host"] for row in found}


@one_statement
def any_due(tx: Tx) -> bool:
    """Is there one that must be read?"""
    return tx.execute(_ANY_DUE, {"now": time.time()}).first() is not None


def begin_due(tx: Tx, until: float, most: int) -> list[Read]:
    """Begin to read those that must be read, the longest due first: several who ask at once get different ones."""
    return [Read(row["id"], row["addresses_asked"], until) for row in rows(tx, _BEGIN_DUE, now=time.time(), until=until, most=most)]


@one_statement
def any_in_turn(tx: Tx, settings: Settings) -> bool:
    """Is it anybody's turn to be healed?"""
    return tx.execute(_ANY_IN_TURN[settings.heal_scope], {"now": time.time()}).first() is not None


def begin_in_turn(tx: Tx, settings: Settings, until: float, most: int) -> list[Read]:
    """Begin to read those whose turn it is to be healed: all that are due, or of each host that is due the one that waits longest."""
    interval, now = settings.heal_instance_info_cache_interval, time.time()
    anew = now + interval * _chance()
    times = {"now": now, "interval": interval, "anew": anew, "most": most}
    if settings.heal_scope == "all":
        found = rows(tx, _BEGIN_IN_TURN, until=until, **times)
        _spread(tx, _TURN, settings, [row["id"] for row in found if row["heal_at"] == anew])
        return [Read(row["id"], row["addresses_asked"], until, row["heal_at"] == anew) for row in found]
    hosts = {row["name"]: row["heal_at"] == anew for row in rows(tx, _BEGIN_HOSTS, **times)}
    _spread(tx, _HOST_TURN, settings, [name for name, is_late in hosts.items() if is_late])
    late = {row["id"]: hosts[row["name"]] for row in rows(tx, _LONGEST_OF, names=sorted(hosts)) if row["id"] is not None} if hosts else {}
    if not late:
        return []
    found = rows(tx, _BEGIN_THESE, ids=sorted(late), until=until, now=now, interval=interval)
    return [Read(row["id"], row["addresses_asked"], until, late[row["id"]]) for row in found]


def end(tx: Tx, reads: Sequence[Read], found: Mapping[str, Sequence[ServerAddress]]) -> None:
    """Write down what was read, where nobody has written anything newer."""
    if reads:
        ordered = sorted(reads, key=lambda read: read.server_id)
        answers = [
            {"this": read.server_id, "number": read.number, "until": read.until, "found": _written(found.get(read.server_id, ()))}
            for read in ordered
        ]
        tx.execute(_FOUND, answers)


def put_off(tx: Tx, reads: Sequence[Read], again: float) -> None:
    """The network service did not answer: these are read again at the given time, unless they were meanwhile."""
    for until in {read.until for read in reads}:
        tx.execute(_PUT_OFF, {"ids": sorted(read.server_id for read in reads if read.until == until), "until": until, "again": again})


def begin_anew(tx: Tx, hosts: Collection[str]) -> None:
    """The compute services of these hosts were started anew: all of their servers are due to be healed (`heal_resume` false)."""
    now = time.time()
    tx.execute(_AT_ONCE, {"hosts": sorted(hosts), "now": now})
    tx.execute(_HOSTS_AT_ONCE, {"hosts": sorted(hosts), "now": now})


def begin_hosts(tx: Tx, settings: Settings, hosts: Collection[str]) -> None:
    """Each of these hosts has its first turn within the interval, at a time of its own, however many came at once."""
    _spread(tx, _HOST_TURN, settings, hosts)


def settle(tx: Tx, settings: Settings, most: int) -> int:
    """Give a turn to what has none (of before the upgrade), and bring forward what is to be healed later than in one interval, since that
    was longer or healing was off; how many servers."""
    interval, now = settings.heal_instance_info_cache_interval, time.time()
    times = {"now": now, "interval": interval}
    names = sorted(tx.execute(_FAR_HOSTS, times).scalars())
    if names:
        begin_hosts(tx, settings, names)
    anew = {"anew": now + interval * _chance(), "most": most}
    brought = [row["id"] for which in _NEARER for row in rows(tx, which, no_turn=NO_TURN, **times, **anew)]
    _spread(tx, _TURN, settings, brought)
    return len(brought)


def _spread(tx: Tx, turn: Update, settings: Settings, names: Collection[str]) -> None:
    """Turns anew, evenly over the interval from now on: as many parts as there are names, by chance which is whose, and when in it."""
    interval, now = settings.heal_instance_info_cache_interval, time.time()
    if not names:
        return
    if interval <= 0:
        turns = [NEVER] * len(names)
    else:
        turns = [now + interval * (part + _chance()) / len(names) for part in range(len(names))]
        random.shuffle(turns)
    tx.execute(turn, [{"this": name, "anew": anew} for name, anew in zip(sorted(names), turns, strict=True)])


def _written(found: Sequence[ServerAddress]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(each) for each in found]


def _chance() -> float:
    return 1.0 - random.random()  # noqa: S311 - spreads work, guards nothing
