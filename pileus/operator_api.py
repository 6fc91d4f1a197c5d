"""What an operator asks of a running cloud: how it is, and where a server's time went. Not one of OpenStack's APIs, and not
in the catalogue: `pileus status` and `pileus why` call it at {base_url}/pileus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pileus
from pileus import settings, timeline
from pileus.compute import actions, admission, hosts, servers, timelines
from pileus.compute.lifecycle import status
from pileus.compute.service import Compute
from pileus.configuration import describe
from pileus.context import Context
from pileus.http import faults
from pileus.http.face import Authenticate, Call, Face, Limits, Reply, Route
from pileus.store import Tx
from pileus.store.sql import Row

CREATES = (("waiting", "waiting", ""), ("blocked", "blocked", ""), ("running", "queued", "sent"), ("parked", "parked", ""))
"""What `pileus status` says of creates → states of their actions."""

SHOWN = ("compute.plug_signal", "compute.vif_plugging_timeout", "compute.vif_plugging_is_fatal", "network.send_events_interval")
"""The settings that decide how a boot waits for its network."""

UNEXPLAINED: dict[str, Any] = {
    "explained": False,
    "stamps": {},
    "details": {},
    "waiting": None,
    "queue_seconds": 0.0,
    "service_seconds": None,
    "spans": [],
    "critical": [],
}
"""What is told of an action with `compute.explain` false, beside that it began and how it ended."""


async def show_status(compute: Compute, call: Call) -> Reply:
    found, guests, servers_now, creates = await compute.store.read(_cloud)
    body = {
        "version": pileus.__version__,
        "settings": {key: value for key, value in _values(compute.settings).items() if key in SHOWN},
        "hosts": [_host(row, guests.get(row["name"], {}), compute.settings) for row in found],
        "servers": servers_now,
        "creates": {word: creates.get(state, 0) + creates.get(other, 0) for word, state, other in CREATES},
    }
    return Reply(body=body)


async def show_timeline(compute: Compute, call: Call) -> Reply:
    server, found, before = await compute.store.read(_story, call.context, call.path["ref"])
    body = {
        "server": {
            "id": server["id"],
            "name": server["name"],
            "status": status(server["vm_state"], server["task_state"]),
            "host": server["host"],
            "fault": (server["fault"] or {}).get("message"),
        },
        "actions": [_action(row, server, compute.settings, before) for row in found],
    }
    return Reply(body=body)


def _cloud(tx: Tx) -> tuple[list[Row], dict[str, dict[str, int]], dict[str, int], dict[str, int]]:
    return hosts.all_hosts(tx), hosts.guest_counts(tx), servers.count_by_status(tx), admission.counts(tx)


def _story(tx: Tx, context: Context, ref: str) -> tuple[Row, list[Row], int]:
    """The server, its actions, the newest first, and how many stand before the one that waits."""
    server = servers.find(tx, context, ref)
    found = actions.of_server(tx, server["id"])
    queued = next((row for row in found if row["state"] in ("waiting", "blocked") and row["tag"] is not None), None)
    return server, found, admission.before(tx, queued) if queued else 0


def _host(row: Row, guests: Mapping[str, int], told: settings.Settings) -> dict[str, Any]:
    facts = row["facts"]
    return {
        "name": row["name"],
        "up": hosts.is_up(row, told.compute),
        "seen_seconds_ago": max(0.0, time.time() - row["seen_at"]),
        "disabled": row["disabled"],
        "disabled_reason": row["disabled_reason"],
        "zone": row["zone"],
        "hypervisor": facts["hypervisor_type"],
        "acceleration": facts["acceleration"],
        "acceleration_reason": facts["acceleration_reason"],
        "guests": facts["guests"],
        "servers": guests.get("servers", 0),
        "vcpus": facts["vcpus"],
        "vcpus_used": guests.get("vcpus", 0),
        "memory_mb": facts["memory_mb"],
        "memory_mb_used": guests.get("ram", 0),
    }


def _action(row: Row, server: Row, told: settings.Settings, before: int) -> dict[str, Any]:
    host = str(server["host"] or (row["tried"] or [""])[-1])
    spans = _spans(row, host)
    whole = {
        "request_id": row["request_id"],
        "action": row["name"],
        "state": row["state"],
        "attempt": row["attempt"],
        "host": host or None,
        "message": row["message"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
        "stamps": row["stamps"],
        "details": row["details"],
        "failures": [{"attempt": f.attempt, "step": f.step, "host": f.host, "cause": f.cause} for f in timelines.failures(row["details"])],
        "waiting": _waiting(row, host, before),
        "queue_seconds": _queue_seconds(row),
        "service_seconds": _service_seconds(row),
        "spans": [_span(span, told) for span in spans],
        "critical": [span.step for span in timeline.critical(spans)],
        "explained": True,
    }
    return whole if told.compute.explain else whole | UNEXPLAINED


def _spans(row: Row, host: str) -> list[timeline.Span]:
    """The steps as they ended. Of a failed action the step that failed stands there too, for as long as it was waited for."""
    spans = timeline.spans(row["stamps"], host)
    failure = row["details"].get("failure")
    end = row["finished_at"]
    if row["state"] != "failed" or end is None or failure is None or failure["step"] in row["stamps"]:
        return spans
    step = failure["step"]
    kind = timeline.STEPS.get(step)
    if kind is None:
        return spans
    before = [(at, name) for name, at in row["stamps"].items() if name in kind.after]
    start, after = max(before, default=(row["started_at"], ""))
    where = f"host {failure['host']}" if failure["host"] and kind.where in ("host", "agent", "signal") else kind.where
    waited = timeline.Span(step, start, end, where, kind.meaning, after, kind.limit)
    done = [span for span in spans if span.step != "reported"]
    told = [timeline.Span("reported", end, end, "worker", timeline.STEPS["reported"].meaning, step, "")]
    return [*done, waited, *told]


def _span(span: timeline.Span, told: settings.Settings) -> dict[str, Any]:
    limit = _values(told).get(span.limit)
    return {
        "step": span.step,
        "start": span.start,
        "end": span.end,
        "seconds": span.seconds,
        "where": span.where,
        "meaning": span.meaning,
        "after": span.after,
        "limit": span.limit,
        "limit_seconds": limit,
    }


def _queue_seconds(row: Row) -> float:
    """For how long it waited for its turn and for room, until now where it still does."""
    begun = max((row["stamps"][step] for step in ("queued", "blocked") if step in row["stamps"]), default=None)
    if row["state"] in ("waiting", "blocked"):
        begun = time.time()
    return float((begun or row["finished_at"] or time.time()) - row["started_at"])


def _service_seconds(row: Row) -> float | None:
    """For how long it was worked on since its turn came; None before."""
    if row["state"] in ("waiting", "blocked") or "queued" not in row["stamps"]:
        return None
    return float((row["finished_at"] or time.time()) - row["started_at"] - _queue_seconds(row))


def _waiting(row: Row, host: str, before: int) -> str | None:
    """What an action that is not over waits for, in words; None when it is over."""
    if row["state"] not in actions.OPEN:
        return None
    now = time.time()
    ahead = f"more than {admission.MOST_SHOWN:,}" if before > admission.MOST_SHOWN else f"{before}"
    if row["state"] == "waiting":
        back = f"; it waits again because {row['details']['back']}" if "back" in row["details"] else ""
        return f"its turn, since {now - row['started_at']:.1f} s: {ahead} before it{back}"
    if row["state"] == "blocked":
        note = row["details"]["blocked"]
        looks = f"looked at {note['looks']} time{'s' if note['looks'] != 1 else ''}, again in {max(0.0, row['due_at'] - now):.1f} s"
        return f"room on a host, since {now - note['since']:.1f} s ({ahead} before it; {looks}): {note['reason']}"
    if row["state"] == "queued":
        return f"a worker, since {now - row['updated_at']:.1f} s"
    again = f"; tried again in {max(0.0, row['due_at'] - now):.1f} s" if row["due_at"] is not None else ""
    if row["state"] == "unwinding":
        return f"what it held to be given back, after a failure{again}"
    since = now - row["stamps"].get("sent", row["updated_at"])
    if row["state"] == "parked" or "waits_for" in row["details"]:
        step = row["details"].get("waits_for", "wired")
        return f"its network on host {host}: all else is done, `{step}` is not, {since:.1f} s after the host was told{again}"
    return f"host {host}, which was told {since:.1f} s ago (sent {row['resends']} time{'s' if row['resends'] != 1 else ''}{again})"


def _values(told: settings.Settings) -> dict[str, Any]:
    return {item.key: item.value for item in describe(told, {})}


ROUTES: list[Route[Compute]] = [
    Route("GET", "/v1/status", show_status, "admin"),
    Route("GET", "/v1/servers/{ref:path}/timeline", show_timeline, "reader"),
]


def face(compute: Compute, authenticate: Authenticate, identity_url: str, base_url: str, limits: Limits) -> Face[Compute]:
    """The face for the prefix `/pileus`."""
    return Face(
        compute,
        ROUTES,
        base=f"{base_url}/pileus",
        fault=faults.identity,
        authenticate=authenticate,
        identity_url=identity_url,
        limits=limits,
    )
