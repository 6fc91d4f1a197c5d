"""The metadata of a server that is there already: merged, replaced, taken away."""

from __future__ import annotations

from collections.abc import Mapping

from pileus.compute import quotas, servers
from pileus.context import Context
from pileus.errors import Conflict, NotFound, QuotaExceeded
from pileus.settings import Quota
from pileus.store import Tx

CHANGEABLE = frozenset({"active", "paused", "stopped"})


def check(tx: Tx, defaults: Quota, project_id: str, count: int) -> None:
    """May a server have so many items? Raises QuotaExceeded."""
    allowed = quotas.limits(tx, defaults, project_id)["metadata_items"]
    if 0 <= allowed < count:
        raise QuotaExceeded(f"Maximum number of metadata items exceeds {allowed}")


def put(tx: Tx, defaults: Quota, context: Context, server_id: str, items: Mapping[str, str], *, replace: bool) -> dict[str, str]:
    """Add or change items, or with `replace` make them all there are; the result. Raises NotFound, Conflict, QuotaExceeded."""
    server = servers.get(tx, context, server_id)
    _refuse(context, server, "update metadata")
    after = dict(items) if replace else {**server["metadata"], **items}
    check(tx, defaults, server["project_id"], len(after))
    servers.change(tx, context, server_id, metadata=after)
    return after


def remove(tx: Tx, context: Context, server_id: str, key: str) -> None:
    """Raises NotFound, Conflict."""
    server = servers.get(tx, context, server_id)
    if key not in server["metadata"]:
        raise NotFound("Metadata item was not found")
    _refuse(context, server, "delete metadata")
    servers.change(tx, context, server_id, metadata={k: v for k, v in server["metadata"].items() if k != key})


def _refuse(context: Context, server: Mapping[str, object], what: str) -> None:
    if server["locked"] and not context.is_admin:
        raise Conflict(f"Instance {server['id']} is locked")
    if server["vm_state"] not in CHANGEABLE:
        raise Conflict(f"Cannot '{what}' instance {server['id']} while it is in vm_state {server['vm_state']}")
