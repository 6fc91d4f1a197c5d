"""External events: what the network service tells of ports, handed on to the host of the server, or to who keeps info caches.

Source: Nova's api-ref, `POST /os-server-external-events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from pileus.bus import Bus
from pileus.compute import info_cache
from pileus.compute.info_cache import TOLD_BY
from pileus.compute.tables import servers
from pileus.messages import ACTIONS, ActionHint, HostEvent, event_subject
from pileus.store import Store, Tx

NEEDS_TAG = frozenset({"volume-extended", "power-update", "accelerator-request-bound"})
"""Names that Nova refuses without a tag."""


@dataclass(frozen=True)
class Event:
    name: str
    server_uuid: str
    status: str = "completed"
    tag: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one event: `code` 200, 400, 404 or 422; `status` completed means taken, whatever the event itself said."""

    event: Event
    status: str
    code: int


async def deliver(store: Store, bus: Bus, events: Sequence[Event]) -> list[Outcome]:
    """Hand the good events to their servers' hosts, whatever the others are. 200 means sent, as in Nova.

    Those that say that an info cache is stale are written down, also for a server that has no host yet: its boot may be under way.
    """
    stale = {event.server_uuid for event in events if event.name in TOLD_BY}
    hosts = await store.read(_hosts_of, sorted({event.server_uuid for event in events} - stale))
    if stale:
        hosts |= await store.write(info_cache.stale, stale)
        await bus.publish(ACTIONS, ActionHint(stale=True))
    outcomes = [_judge(event, hosts) for event in events]
    for outcome in outcomes:
        host = hosts.get(outcome.event.server_uuid)
        event = outcome.event
        if outcome.code == 200 and host is not None and event.name not in TOLD_BY:
            await bus.publish(event_subject(host), HostEvent(event.server_uuid, event.name, event.status, event.tag or ""))
    return outcomes


def _judge(event: Event, hosts: dict[str, str | None]) -> Outcome:
    if event.server_uuid not in hosts:
        return Outcome(event, "failed", 404)
    if event.name in NEEDS_TAG and event.tag is None:
        return Outcome(event, "failed", 400)
    if hosts[event.server_uuid] is None:
        return Outcome(event, "failed", 422)
    return Outcome(event, "completed", 200)


def _hosts_of(tx: Tx, ids: Sequence[str]) -> dict[str, str | None]:
    found = tx.execute(select(servers.c.id, servers.c.host).where(servers.c.id.in_(ids), servers.c.deleted_at.is_(None)))
    return {row.id: row.host for row in found}
