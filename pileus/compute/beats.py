"""How hosts are heard: heartbeats written down in batches, silence noticed once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import and_, bindparam, case, select, update

from pileus.compute.hosts import EARS, deaf_to
from pileus.compute.tables import host_beats, hosts
from pileus.hearing import DEAF
from pileus.messages import HostBeat, HostFacts
from pileus.settings import Compute
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

# All built once: these run every second.
_NAMED = host_beats.c.name.in_(bindparam("names", expanding=True))
_KNOWN = select(host_beats).where(_NAMED)
_FACTS = select(hosts).where(hosts.c.name.in_(bindparam("names", expanding=True)))
_SEEN = update(host_beats).where(_NAMED).values(seen_at=bindparam("now"), down_at=0.0)
_TOLD = update(host_beats).where(host_beats.c.name == bindparam("this")).values(started_at=bindparam("since"), guests=bindparam("holds"))
_MARK = update(host_beats).where(host_beats.c.name == bindparam("this")).values(mark=bindparam("of"))
_HEARING = (
    update(host_beats)
    .where(host_beats.c.name == EARS)
    .values(
        started_at=case((host_beats.c.seen_at < bindparam("now") - DEAF, bindparam("now")), else_=host_beats.c.started_at),
        seen_at=bindparam("now"),
    )
)
_EARS = select(host_beats.c.seen_at, host_beats.c.started_at).where(host_beats.c.name == EARS)
_QUIET = and_(host_beats.c.down_at == 0.0, host_beats.c.seen_at <= bindparam("limit"), host_beats.c.name != EARS)
_SILENT = select(host_beats.c.name).where(_QUIET)
_NOTICE = update(host_beats).where(_QUIET, host_beats.c.name == bindparam("this")).values(down_at=bindparam("now"))


@dataclass
class Heard:
    """What follows from a batch of beats.

    `offers`: facts that placement has not been told of, with the hosts' rows. `ask`: hosts whose facts are not known. `anew`: hosts
    that began anew since they were last heard of. `back`: hosts that had been noticed to be down, and new ones, which are also `new`.
    """

    offers: list[tuple[Row, HostFacts]] = field(default_factory=list)
    ask: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def hear(tx: Tx, facts: Sequence[HostFacts], beats: Sequence[HostBeat]) -> Heard:
    """Write a batch down: two statements for however many hosts whose facts are as before."""
    heard, now = Heard(), time.time()
    news: list[HostBeat | HostFacts] = [*beats, *facts]
    if not news:
        return heard
    known = {row["name"]: row for row in rows(tx, _KNOWN, names=sorted({each.host for each in news}))}
    _write_facts(tx, facts, known, heard, now)
    told: dict[str, HostBeat | HostFacts] = {}
    for each in news:
        before = known.get(each.host)
        if before is None:
            heard.ask.append(each.host)
            continue
        if isinstance(each, HostBeat) and each.mark != before["mark"]:
            heard.ask.append(each.host)
        if _is_news(each, before):
            told[each.host] = each
    for name, row in known.items():
        if row["down_at"]:
            heard.back.append(name)
        if name in told and told[name].started_at != row["started_at"]:
            heard.anew.append(name)
    if known:
        tx.execute(_SEEN, {"names": sorted(known), "now": now})
    if told:
        ordered = sorted(told.items())
        tx.execute(_TOLD, [{"this": name, "since": each.started_at, "holds": each.guests} for name, each in ordered])
    asked = {each.host for each in facts}
    heard.ask = [name for name in dict.fromkeys(heard.ask) if name not in asked]
    return heard


def _is_news(each: HostBeat | HostFacts, before: Row) -> bool:
    """Does it tell what is not written down? A short beat of the process before this one is only late."""
    if each.started_at == before["started_at"]:
        return bool(each.guests != before["guests"])
    return isinstance(each, HostFacts) or each.started_at > before["started_at"]


def _write_facts(tx: Tx, facts: Sequence[HostFacts], known: dict[str, Row], heard: Heard, now: float) -> None:
    """Rows for facts that are new or other ones; `known` has their beats' rows afterwards."""
    if not facts:
        return
    stored = {row["name"]: row for row in rows(tx, _FACTS, names=sorted({each.host for each in facts}))}
    for each in sorted(facts, key=lambda one: one.host):
        row = stored.get(each.host)
        values = {"facts": msgspec.to_builtins(each), "zone": each.availability_zone}
        if row is None:
            row = {
                "name": each.host,
                "id": str(uuid.uuid4()),
                "service_id": str(uuid.uuid4()),
                "disabled": False,
                "disabled_reason": None,
                "forced_down": False,
                "created_at": now,
                "updated_at": now,
            } | values
            if not insert_new(tx, hosts, row):
                row = first(tx, _FACTS, names=[each.host])
                assert row is not None
        if row["facts"] != values["facts"]:
            tx.execute(update(hosts).where(hosts.c.name == each.host).values(**values))
        if each.host not in known:
            beat = {"name": each.host, "seen_at": now, "started_at": each.started_at, "guests": each.guests, "mark": -1, "down_at": 0.0}
            if insert_new(tx, host_beats, beat):
                heard.new.append(each.host)
            known[each.host] = beat
            heard.back.append(each.host)
        if known[each.host]["mark"] != each.mark:
            heard.offers.append((row | values, each))


def offered(tx: Tx, facts: Iterable[HostFacts]) -> None:
    """Placement was told of these facts: until then every beat asks for them again."""
    tx.execute(_MARK, [{"this": each.host, "of": each.mark} for each in facts])


def hearing(tx: Tx) -> None:
    """The control plane has heard its own echo."""
    now = time.time()
    if tx.execute(_HEARING, {"now": now}).rowcount == 0:
        insert_new(tx, host_beats, {"name": EARS, "seen_at": now, "started_at": now, "guests": 0, "mark": 0, "down_at": 0.0})


def silent(tx: Tx, settings: Compute) -> list[str]:
    """Hosts that have fallen silent and of which nobody has noticed it yet."""
    return list(tx.execute(_SILENT, {"limit": _limit(tx, settings)}).scalars())


def notice(tx: Tx, settings: Compute) -> list[str]:
    """The silent hosts that the caller is the first to notice: it must act on them."""
    limit, now = _limit(tx, settings), time.time()
    names = sorted(tx.execute(_SILENT, {"limit": limit}).scalars())
    return [name for name in names if tx.execute(_NOTICE, {"this": name, "limit": limit, "now": now}).rowcount == 1]


def _limit(tx: Tx, settings: Compute) -> float:
    ears = first(tx, _EARS) or {"seen_at": None, "started_at": None}
    return max(deaf_to(ears["seen_at"], ears["started_at"], settings, time.time()), -1.0)
