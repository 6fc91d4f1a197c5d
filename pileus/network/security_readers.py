"""Which hosts are told of which security groups: those that ask for them, as far as they may.

A host may read the rules of the groups that ports bound to it have, and the sets of addresses that these rules name: nothing else is
its business. What it asks for is all that it is told of; so a question also ends what the last one began, unless a later one was here
before it: a row of no subject says which number the last one had (`security_readers.asked_at`, in every other row a time).

Nobody is missed, and no lock is needed for it: a host is written down before the versions that it is answered with are read, and
whoever changes something looks for its readers after the commit.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, and_, bindparam, delete, or_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from pileus.messages import AddressSet, GroupRules, Security, SecurityRequest
from pileus.network import agents, security_members, security_rules
from pileus.network.tables import address_groups, agent_beats, ports, security_groups, security_readers
from pileus.network.tables import security_rules as rules_table
from pileus.store import Tx
from pileus.store.sql import insert_new, rows

NONE = 0
"""The version that what is gone, or not the host's business, is told at: empty."""
NO_SUBJECT = ""

# Built once: every host asks, and asks again now and then.
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_HOST = security_readers.c.host == bindparam("on")
_HERE = select(ports.c.id, ports.c.security_groups, ports.c.port_security).where(ports.c.host == bindparam("on"))
_NAMING = and_(
    rules_table.c.group_id == security_groups.c.id,
    or_(rules_table.c.remote_group_id.is_not(None), rules_table.c.remote_address_group_id.is_not(None)),
)
_GROUPS = (
    select(
        security_groups.c.id,
        security_groups.c.rules_version,
        security_groups.c.members_version,
        rules_table.c.remote_group_id,
        rules_table.c.remote_address_group_id,
    )
    .select_from(security_groups.outerjoin(rules_table, _NAMING))
    .where(security_groups.c.id.in_(_IDS))
)
_MEMBERS = select(security_groups.c.id, security_groups.c.members_version).where(security_groups.c.id.in_(_IDS))
_ADDRESS_GROUPS = select(address_groups.c.id, address_groups.c.version).where(address_groups.c.id.in_(_IDS))
_ADDRESSES = select(address_groups.c.id, address_groups.c.addresses).where(address_groups.c.id.in_(_IDS))
_SUBJECTS = select(security_readers.c.subject_id).where(_HOST, security_readers.c.subject_id != NO_SUBJECT)
_DROP = delete(security_readers).where(_HOST, security_readers.c.subject_id.in_(_IDS))


def _heard(insert: Any) -> Any:
    later = security_readers.c.asked_at < insert.excluded.asked_at
    raised = insert.on_conflict_do_update(index_elements=["subject_id", "host"], set_={"asked_at": insert.excluded.asked_at}, where=later)
    return raised.execution_options(preserve_rowcount=True)


_HEARD = {"sqlite": _heard(sqlite.insert(security_readers)), "postgresql": _heard(postgresql.insert(security_readers))}
_READERS = select(security_readers.c.subject_id, security_readers.c.host).where(security_readers.c.subject_id.in_(_IDS))
_ALIVE = select(agent_beats.c.host).where(agent_beats.c.heartbeat_at >= bindparam("since"))
_DEAD = and_(security_readers.c.host.not_in(_ALIVE), security_readers.c.asked_at < bindparam("since"))
_OF_DEAD = select(security_readers.c.subject_id, security_readers.c.host).where(_DEAD).with_for_update(skip_locked=True)
_FORGET = delete(security_readers).where(tuple_(security_readers.c.subject_id, security_readers.c.host).in_(_OF_DEAD))


@dataclass(frozen=True)
class Answer:
    """What a host is told, and what is to be written down of it: subjects that it reads from now on, and those that it does no more."""

    security: Security
    new: frozenset[str]
    old: frozenset[str]


def asked(tx: Tx, question: SecurityRequest) -> Answer:
    """The answer to a host's question."""
    here: dict[str, list[str] | None] = {}
    if question.groups or question.ports:
        found = rows(tx, _HERE, on=question.host)
        here = {row["id"]: row["security_groups"] if row["port_security"] else None for row in found}
    mine = sorted(question.groups.keys() & {group_id for groups in here.values() for group_id in groups or ()})
    versions: dict[str, int] = {}
    sets: dict[str, int] = {}
    named: set[str] = set()
    for row in rows(tx, _GROUPS, ids=mine) if mine else ():
        versions[row["id"]] = row["rules_version"]
        sets[row["id"]] = row["members_version"]
        named |= {each for each in (row["remote_group_id"], row["remote_address_group_id"]) if each is not None}
    sets |= _versions(tx, named - sets.keys())
    sets = {set_id: version for set_id, version in sets.items() if set_id in named}
    other = sorted(port_id for port_id in question.ports.keys() & here.keys() if not _alike(question.ports[port_id], here[port_id]))
    told = Security(_rules(tx, question, versions), _sets(tx, question, sets), other)
    reads = versions.keys() | named
    was = {row["subject_id"] for row in rows(tx, _SUBJECTS, on=question.host)}
    return Answer(told, frozenset(reads - was), frozenset(was - reads))


def register(tx: Tx, host: str, number: float, new: Collection[str], old: Collection[str]) -> None:
    """The host's question with this number was heard: it reads these from now on, and those no more, if nothing later was heard of it.
    (Its row is locked first, so that of two questions one waits for the other.)"""
    is_last = tx.execute(_HEARD[tx.dialect.name], {"subject_id": NO_SUBJECT, "host": host, "asked_at": number}).rowcount == 1
    for subject_id in sorted(new):
        insert_new(tx, security_readers, {"subject_id": subject_id, "host": host, "asked_at": time.time()})
    if old and is_last:
        tx.execute(_DROP, {"on": host, "ids": sorted(old)})


def readers(tx: Tx, subject_ids: Collection[str]) -> dict[str, list[str]]:
    """Group or set → the hosts that read it. Asked after the commit of what they are told of."""
    found: dict[str, list[str]] = {}
    for row in rows(tx, _READERS, ids=sorted(subject_ids)) if subject_ids else ():
        found.setdefault(row["subject_id"], []).append(row["host"])
    return found


def of_rules(tx: Tx, group_ids: Sequence[str]) -> dict[str, list[GroupRules]]:
    """Host → the rules of those of these groups that it reads."""
    reading = readers(tx, group_ids)
    told = security_rules.told(tx, sorted(reading))
    found: dict[str, list[GroupRules]] = {}
    for group_id, hosts in reading.items():
        for host in hosts if group_id in told else ():
            found.setdefault(host, []).append(told[group_id])
    return found


def forget_dead(tx: Tx, down_time: float) -> None:
    """Hosts that were not heard of for so long (s) are told no more; whoever lives asks again. Not while nobody could hear them."""
    if agents.hears(tx, down_time):
        tx.execute(_FORGET, {"since": time.time() - down_time})


def _alike(said: list[str] | None, true: list[str] | None) -> bool:
    return set(said) == set(true) if said is not None and true is not None else said is true


def _versions(tx: Tx, set_ids: Collection[str]) -> dict[str, int]:
    """Of sets that are others than the groups themselves."""
    if not set_ids:
        return {}
    found = {row["id"]: row["members_version"] for row in rows(tx, _MEMBERS, ids=sorted(set_ids))}
    rest = sorted(set_ids - found.keys())
    return found | {row["id"]: row["version"] for row in (rows(tx, _ADDRESS_GROUPS, ids=rest) if rest else ())}


def _rules(tx: Tx, question: SecurityRequest, versions: dict[str, int]) -> list[GroupRules]:
    other = [group_id for group_id, version in versions.items() if version != question.groups[group_id]]
    empty = [GroupRules(each, NONE, True, []) for each, known in question.groups.items() if each not in versions and known != NONE]
    return [*security_rules.told(tx, other).values(), *empty]


def _sets(tx: Tx, question: SecurityRequest, versions: dict[str, int]) -> list[AddressSet]:
    other = {set_id: version for set_id, version in versions.items() if version != question.sets.get(set_id, -1)}
    addresses: dict[str, list[str]] = {}
    if other:
        addresses = {set_id: sorted(found) for set_id, found in security_members.of_sets(tx, other).items()}
        addresses |= {row["id"]: row["addresses"] for row in rows(tx, _ADDRESSES, ids=sorted(other))}
    empty = [AddressSet(each, NONE, []) for each, known in question.sets.items() if each not in versions and known != NONE]
    return [*(AddressSet(set_id, version, addresses[set_id]) for set_id, version in other.items()), *empty]
