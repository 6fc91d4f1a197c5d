"""/v2.0/agents and /v2.0/availability_zones"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, true

from pileus.context import Context
from pileus.http.face import Call, Reply, Route
from pileus.network import agents
from pileus.network.api import lists
from pileus.network.api.attributes import boolean
from pileus.network.service import Network
from pileus.network.tables import agent_beats
from pileus.network.tables import agents as table
from pileus.store import Tx
from pileus.store.sql import Row

TOPICS = {"Open vSwitch agent": "N/A", agents.DHCP: "dhcp_agent"}


def _shape(down_time: float) -> Callable[[Row, Context], dict[str, Any]]:
    def shape(row: Row, context: Context) -> dict[str, Any]:
        return {
            "id": row["id"],
            "agent_type": row["agent_type"],
            "binary": row["binary"],
            "host": row["host"],
            "topic": TOPICS[row["agent_type"]],
            "admin_state_up": True,
            "alive": agents.alive(row["heartbeat_at"], down_time),
            "availability_zone": row["availability_zone"] if row["agent_type"] == agents.DHCP else None,
            "configurations": row["configurations"],
            "created_at": _time(row["created_at"]),
            "started_at": _time(row["started_at"]),
            "heartbeat_timestamp": _time(row["heartbeat_at"]),
            "description": None,
        }

    return shape


def _alive(down_time: float) -> lists.Filter:
    def condition(name: str, values: list[str]) -> ColumnElement[bool]:
        fresh = table.c.host.in_(select(agent_beats.c.host).where(agent_beats.c.heartbeat_at >= time.time() - down_time))
        return or_(*[fresh if wanted else ~fresh for wanted in {boolean(name, value) for value in values}])

    return condition


def _resource(network: Network) -> lists.Resource:
    down_time = network.config.settings.network.agent_down_time
    return lists.Resource(
        "agent",
        "agents",
        table,
        lambda context: true(),
        filters={
            "id": lists.of_text(table.c.id),
            "agent_type": lists.of_text(table.c.agent_type),
            "binary": lists.of_text(table.c.binary),
            "host": lists.of_text(table.c.host),
            "availability_zone": lists.of_text(table.c.availability_zone),
            "admin_state_up": lists.constant(True),
            "alive": _alive(down_time),
        },
        sortable={"agent_type": table.c.agent_type, "binary": table.c.binary, "host": table.c.host, "created_at": table.c.created_at},
        decorate=agents.with_beats,
        shape=_shape(down_time),
    )


async def index(network: Network, call: Call) -> Reply:
    return await lists.index(network.store, call, _resource(network))


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, _resource(network), _load)


async def zones(network: Network, call: Call) -> Reply:
    """Zones in which DHCP agents were heard of; available while one of them lives."""
    down_time = network.config.settings.network.agent_down_time
    by_zone: dict[str, bool] = {}
    for row in await network.store.read(agents.of_kind, agents.DHCP):
        zone = row["availability_zone"]
        by_zone[zone] = by_zone.get(zone, False) or agents.alive(row["heartbeat_at"], down_time)
    shown = [{"name": zone, "resource": "network", "state": "available" if up else "unavailable"} for zone, up in sorted(by_zone.items())]
    return Reply(200, {"availability_zones": shown})


def _load(tx: Tx, context: Context, agent_id: str) -> Row:
    return agents.show(tx, agent_id)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


ROUTES = [
    Route("GET", "/v2.0/agents", index, "admin"),
    Route("GET", "/v2.0/agents/{id}", show, "admin"),
    Route("GET", "/v2.0/availability_zones", zones, "reader"),
]
