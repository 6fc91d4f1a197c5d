"""Made-up results that look like real ones, for the reports."""

from __future__ import annotations

import math
from typing import Any

from pileus.lab.results import Case, Experiment, Rung, Window

START = {
    "compute.heal_instance_info_cache_interval": 60.0,
    "compute.heal_scope": "all",
    "network.rpc_workers": 1,
    "database.max_pool_size": 1,
    "network.flow_deletion": "blocking",
    "compute.plug_signal": "callback",
}
LOAD = 4.0
TIMEOUT = 300.0


def windows(seconds: float, p99: float, *, grows: float = 1.0, lost: float = 0.0) -> list[Window]:
    found = []
    for n in range(12):
        scale = p99 * (1 + (grows - 1) * n / 11) * (1 + 0.1 * math.sin(n * 2.1))
        created = int(LOAD * seconds / 12)
        active = created - int(created * lost * n / 11)
        found.append(Window(n * seconds / 12, created, active, scale * 0.4 if active else None, scale if active else None))
    return found


def case(name: str, knee: float, predicted: float, share: float, p99: float, steps: dict[str, float], **changes: Any) -> Case:
    created = 1200
    active = int(created * share)
    settings = {**START, **{key.replace("__", "."): value for key, value in changes.items()}}
    grows, lost = (4.0, 1 - share) if share < 1 else (1.0, 0.0)
    rungs = [
        Rung(
            rate,
            300.0,
            int(rate * 300),
            int(rate * 300 * (share if rate > knee else 1)),
            int(rate * 300 * (1 - share if rate > knee else 0)),
            int(rate * 300 * (1 - share if rate > knee else 0)),
            p99 * 0.3 * rate / LOAD,
            p99 * 0.8 * rate / LOAD,
            p99 * rate / LOAD,
            rate <= knee,
            steps,
            windows(300.0, p99, grows=grows, lost=lost),
            {
                "agent_blocked_s": 2.0 * steps.get("wired", 0.0),
                "pool_wait_s": p99 / 400,
                "rpc_wait_s": p99 / 90,
                "heal_requests_per_min": 6000.0 / (1 + knee),
                "wire_wait_s": p99 / 30,
                "agent_turn_s": p99 / 20,
                "deletes_per_s": 1.5,
            },
        )
        for rate in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0)
    ]
    return Case(
        name,
        settings,
        knee,
        predicted,
        created,
        active,
        created - active,
        created - active,
        p99 * 0.3,
        p99 * 0.8,
        p99,
        steps,
        "connections of the rpc workers",
        f"1 worker × 1 connection / (137 statements × 1.05 ms) = {predicted:g}/s",
        "" if "pool" not in name else "With one RPC worker that takes one request at a time a second connection has nothing to do.",
        rungs,
    )


def experiment(**more: Any) -> Experiment:
    slow = {"queued": 40.0, "claimed": 0.3, "addressed": 1.2, "image": 0.4, "plugged": 0.2, "paused": 0.5, "wired": 61.0, "signalled": 92.0}
    less = {"queued": 8.0, "claimed": 0.2, "addressed": 0.6, "image": 0.4, "plugged": 0.2, "paused": 0.5, "wired": 9.0, "signalled": 22.0}
    fine = {"queued": 0.1, "claimed": 0.1, "addressed": 0.2, "image": 0.3, "plugged": 0.1, "paused": 0.4, "wired": 1.9, "signalled": 2.4}
    best = {
        "queued": 0.01,
        "claimed": 0.02,
        "addressed": 0.03,
        "image": 0.01,
        "plugged": 0.01,
        "paused": 0.05,
        "wired": 0.02,
        "signalled": 0.001,
    }
    cases = [
        case("The story's start", 1.0, 0.9, 0.61, 296.0, slow),
        case("Healing every 600 s", 1.0, 1.3, 0.72, 281.0, slow, compute__heal_instance_info_cache_interval=600.0),
        case("20 rpc workers", 2.0, 2.2, 0.9, 180.0, less, network__rpc_workers=20),
        case("A pool of 60", 1.0, 0.9, 0.62, 295.0, slow, database__max_pool_size=60),
        case("Deferred deletion", 2.0, 1.4, 0.88, 190.0, less, network__flow_deletion="deferred"),
        case(
            "All four",
            8.0,
            9.4,
            1.0,
            14.0,
            fine,
            compute__heal_instance_info_cache_interval=600.0,
            network__rpc_workers=20,
            database__max_pool_size=60,
            network__flow_deletion="deferred",
        ),
        case("Pileus's default", 40.0, 44.0, 1.0, 0.42, best, compute__plug_signal="local"),
    ]
    given: dict[str, Any] = {
        "title": "A storm that one setting at a time calms",
        "version": "0.1.0",
        "started_at": 1795374000.0,
        "seconds": 4100.0,
        "machine": {
            "cpus": 2,
            "cpu_model": "x86-64 at 2.9 GHz",
            "memory_gib": 15.6,
            "kernel": "6.1",
            "postgresql": "15.9",
            "nats_server": "2.9.10",
        },
        "load_per_s": LOAD,
        "plug_timeout_s": TIMEOUT,
        "real": ["api, worker and network-rpc as processes of their own", "PostgreSQL 15 and NATS", "the network agent's code"],
        "simulated": ["20 hollow hosts: no guest runs, the switch is a table", "the switch's costs, from Open vSwitch 3.1 on this machine"],
        "added": ["1 ms to each round trip to the database and to REST", "statements, so that a port costs 137 of them as Neutron's does"],
        "cases": cases,
    }
    return Experiment(**{**given, **more})
