"""Statements that do nothing but cost a round trip: as many as Neutron's service executes beyond ours for the same work.

So that a lab can have Neutron's waiting for its database without Neutron; where the figures come from: docs/STORY.md. By default none.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select

from pileus.network.tables import ports
from pileus.store import Tx

_AGAIN = select(ports.c.revision).where(ports.c.id == bindparam("port"))


def spend(tx: Tx, statements: int, port_id: str = "") -> None:
    """Ask the database for a port that many times, one round trip each, in the caller's transaction."""
    for _ in range(statements):
        tx.execute(_AGAIN, {"port": port_id}).first()


def details_share(statements: int) -> int:
    """Of what a port costs from the agent's question to its report: the question's part. It is about the half in Neutron."""
    return statements - statements // 2


def level_share(statements: int) -> int:
    """The report's part."""
    return statements // 2
