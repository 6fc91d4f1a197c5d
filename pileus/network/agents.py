"""Agents: two a host, known by its heartbeats."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from sqlalchemy import bindparam, case, or_, select, update

from pileus.errors import NotFound
from pileus.hearing import DEAF, silent_before
from pileus.messages import AgentBeat, AgentFacts
from pileus.network.tables import agent_beats, agents
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

DHCP = "DHCP agent"
KINDS = {"Open vSwitch agent": "pileus-openvswitch-agent", DHCP: "pileus-dhcp-agent"}
"""Agent type → binary."""
EARS = ""
"""The name under which the rpc workers note that they hear."""

# Built once: these run every second, the last one for every port that is bound.
_BEATS = agent_beats.c
_NAMED = _BEATS.host.in_(bindparam("names", expanding=True))
_KNOWN = select(agent_beats).where(_NAMED)
_SEEN = update(agent_beats).where(_NAMED).values(heartbeat_at=bindparam("now"))
_SINCE = update(agent_beats).where(_BEATS.host == bindparam("this")).values(started_at=bindparam("since"))
_HEARING = (
    update(agent_beats)
    .where(_BEATS.host == EARS)
    .values(
        started_at=case((_BEATS.heartbeat_at < bindparam("now") - DEAF, bindparam("now")), else_=_BEATS.started_at),
        heartbeat_at=bindparam("now"),
    )
)
_DEAD = select(agent_beats).where(or_(_BEATS.host == bindparam("host"), _BEATS.host == EARS))


def hear(tx: Tx, facts: Sequence[AgentFacts], beats: Sequence[AgentBeat]) -> list[str]:
    """Write a batch of heartbeats down, two statements where their facts are as before; hosts that must be asked for their facts."""
    now = time.time()
    for each in sorted(facts, key=lambda one: one.host):
        _write(tx, each, now)
    if not beats:
        return []
    known = {row["host"]: row for row in rows(tx, _KNOWN, names=sorted({each.host for each in beats}))}
    if known:
        tx.execute(_SEEN, {"names": sorted(known), "now": now})
    anew = {each.host: each.started_at for each in beats if each.host in known and each.started_at > known[each.host]["started_at"]}
    if anew:
        tx.execute(_SINCE, [{"this": host, "since": at} for host, at in sorted(anew.items())])
    told = {each.host for each in facts}
    return [b.host for b in beats if b.host not in told and (b.host not in known or known[b.host]["mark"] != b.mark)]


def hearing(tx: Tx) -> None:
    """The rpc workers have heard their own echo."""
    now = time.time()
    if tx.execute(_HEARING, {"now": now}).rowcount == 0:
        insert_new(tx, agent_beats, {"host": EARS, "heartbeat_at": now, "started_at": now, "mark": 0})


def is_dead(tx: Tx, host: str, down_time: float) -> bool:
    """Is the host's agent known to be dead? Not one that was never heard of, nor while nobody could have heard it."""
    found = {row["host"]: row for row in rows(tx, _DEAD, host=host)}
    beat, ears = found.get(host), found.get(EARS)
    if beat is None or ears is None:
        return False
    return bool(beat["heartbeat_at"] < silent_before(ears["heartbeat_at"], ears["started_at"], down_time, time.time()))


def hears(tx: Tx, span: float) -> bool:
    """Have the rpc workers heard whatever was said in the last `span` seconds?"""
    now = time.time()
    ears = first(tx, _KNOWN, names=[EARS])
    return ears is not None and bool(ears["started_at"] <= now - span and ears["heartbeat_at"] >= now - DEAF)


def show(tx: Tx, agent_id: str) -> Row:
    """Raises NotFound."""
    found = first(tx, select(agents).where(agents.c.id == agent_id))
    if found is None:
        raise NotFound(f"Agent {agent_id} could not be found.", kind="AgentNotFound")
    return found


def of_kind(tx: Tx, kind: str) -> list[Row]:
    """Agents of a type, with their beats."""
    return with_beats(tx, rows(tx, select(agents).where(agents.c.agent_type == kind)))


def with_beats(tx: Tx, found: list[Row]) -> list[Row]:
    """Agents' rows with `heartbeat_at` and `started_at`."""
    beats = {row["host"]: row for row in rows(tx, _KNOWN, names=sorted({row["host"] for row in found}))} if found else {}
    never = {"heartbeat_at": 0.0, "started_at": 0.0}
    return [row | {name: beats.get(row["host"], never)[name] for name in never} for row in found]


def alive(heartbeat_at: float, down_time: float) -> bool:
    return time.time() - heartbeat_at <= down_time


def _write(tx: Tx, facts: AgentFacts, now: float) -> None:
    values = {
        "availability_zone": facts.availability_zone,
        "configurations": {
            "physical_networks": facts.physical_networks,
            "network_types": facts.network_types,
            "tunneling_ip": facts.address,
        },
    }
    if tx.execute(update(agents).where(agents.c.host == facts.host).values(**values)).rowcount < len(KINDS):
        for kind, binary in KINDS.items():
            identity = {"id": str(uuid.uuid4()), "agent_type": kind, "binary": binary, "host": facts.host, "created_at": now}
            insert_new(tx, agents, identity | values)
    beat = {"heartbeat_at": now, "started_at": facts.started_at, "mark": facts.mark}
    if tx.execute(update(agent_beats).where(_BEATS.host == facts.host).values(**beat)).rowcount == 0:
        insert_new(tx, agent_beats, {"host": facts.host} | beat)
