"""Agents: two a host, known by its heartbeats."""

from __future__ import annotations

import time
import uuid

from sqlalchemy import select, update

from pileus.errors import NotFound
from pileus.messages import HostFacts
from pileus.network.tables import agents
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

DHCP = "DHCP agent"
KINDS = {"Open vSwitch agent": "pileus-openvswitch-agent", DHCP: "pileus-dhcp-agent"}
"""Agent type → binary."""


def heard(tx: Tx, facts: HostFacts) -> None:
    """Write a host's heartbeat down: one statement, but for the first."""
    now = time.time()
    values = {
        "availability_zone": facts.availability_zone,
        "configurations": {"physical_networks": facts.physical_networks, "network_types": facts.network_types},
        "started_at": facts.started_at,
        "heartbeat_at": now,
    }
    if tx.execute(update(agents).where(agents.c.host == facts.host).values(**values)).rowcount >= len(KINDS):
        return
    for kind, binary in KINDS.items():
        identity = {"id": str(uuid.uuid4()), "agent_type": kind, "binary": binary, "host": facts.host, "created_at": now}
        insert_new(tx, agents, identity | values)


def show(tx: Tx, agent_id: str) -> Row:
    """Raises NotFound."""
    found = first(tx, select(agents).where(agents.c.id == agent_id))
    if found is None:
        raise NotFound(f"Agent {agent_id} could not be found.", kind="AgentNotFound")
    return found


def of_kind(tx: Tx, kind: str) -> list[Row]:
    return rows(tx, select(agents).where(agents.c.agent_type == kind))


def alive(heartbeat_at: float, down_time: float) -> bool:
    return time.time() - heartbeat_at <= down_time
