"""Agents: two a host, known by its heartbeats."""

from __future__ import annotations

import time
import uuid

from sqlalchemy import update

from pileus.messages import HostFacts
from pileus.network.tables import agents
from pileus.store import Tx
from pileus.store.sql import insert_new

KINDS = {"Open vSwitch agent": "pileus-openvswitch-agent", "DHCP agent": "pileus-dhcp-agent"}
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


def alive(heartbeat_at: float, down_time: float) -> bool:
    return time.time() - heartbeat_at <= down_time
