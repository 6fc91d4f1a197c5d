"""How many builds a host has at once: a counter on its row, changed in the very transaction that moves a create to it or away from it.

A create counts on its `build_host` exactly while its state is `sent`: one that only waits for its network (`parked`) does not; with
`compute.hold_build_slot` none is ever parked. The host's row is the last that a transaction locks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Integer, bindparam, or_, update

from pileus.compute.tables import hosts
from pileus.store import Tx

_MOST = bindparam("most", type_=Integer)
_ENTER = (
    update(hosts).where(hosts.c.name == bindparam("host"), or_(_MOST == 0, hosts.c.building < _MOST)).values(building=hosts.c.building + 1)
)
_LEAVE = update(hosts).where(hosts.c.name == bindparam("host"), hosts.c.building > 0).values(building=hosts.c.building - 1)


def enter(tx: Tx, host: str, most: int) -> bool:
    """One more build on a host; False where it has `most` already (0: there is no most)."""
    return tx.execute(_ENTER, {"host": host, "most": most}).rowcount == 1


def leave(tx: Tx, host: str) -> None:
    tx.execute(_LEAVE, {"host": host})


def counted(action: Mapping[str, Any]) -> str | None:
    """The host on which an action counts as a build now."""
    return action["build_host"] if action["name"] == "create" and action["state"] == "sent" else None
