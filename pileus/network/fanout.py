"""What became of a port, told to every agent of the cloud, as Neutron does (`network.notify_agents` all): a message to each agent for each
port, whomever it concerns. By default nobody does this: docs/STORY.md, the faults of that design."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select

from pileus.bus import Bus
from pileus.messages import PortLevel, PortsChanged, PortWiring, ports_subject
from pileus.network import visible, wiring
from pileus.network.agents import DHCP
from pileus.network.tables import agents, ports
from pileus.store import Store, Tx
from pileus.store.sql import rows

TOLD = ("wired", "failed")
"""What Neutron's agents report of a port that is there."""

_PORTS = select(ports).where(ports.c.id.in_(bindparam("ids", expanding=True))).order_by(ports.c.id)
_HOSTS = select(agents.c.host).where(agents.c.agent_type != DHCP).order_by(agents.c.host)


async def tell(store: Store, bus: Bus, levels: Sequence[PortLevel]) -> None:
    """Of those of these ports that are there."""
    ids = sorted({level.port_id for level in levels if level.level in TOLD})
    if not ids:
        return
    hosts, wirings = await store.read(_all, ids)
    for each in wirings:
        for host in hosts:
            await bus.publish(ports_subject(host), PortsChanged([each]))


def _all(tx: Tx, ids: Sequence[str]) -> tuple[list[str], list[PortWiring]]:
    found = visible.with_addresses(tx, rows(tx, _PORTS, ids=list(ids)))
    return [row["host"] for row in rows(tx, _HOSTS)], wiring.several(tx, found)
