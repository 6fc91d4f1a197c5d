"""The mark that compute keeps at a server's port where it speaks to us over HTTP, in `binding:profile`: whose the port is, which of its
nics, by which attempt, and the host name. Here it is columns, which compute in process writes as well: so both find each other's ports.

What stands in it is `pileus.compute.neutron_facts.Mark`'s to say.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pileus.context import Context
from pileus.errors import BadRequest
from pileus.store.sql import Row

KEY = "pileus"


class Mark(msgspec.Struct, frozen=True):
    """`bindings` is told, and never taken: here the port's generation counts them."""

    server: Annotated[str, Meta(max_length=64)] = ""
    index: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    key: Annotated[str, Meta(max_length=255)] = ""
    bindings: int = 0
    hostname: Annotated[str, Meta(max_length=255)] = ""


def shown(port: Row) -> dict[str, Any]:
    """The port's `binding:profile`."""
    if not port["server_id"]:
        return dict(port["profile"])
    mark = Mark(port["server_id"], port["nic_index"], port["binding_key"], port["generation"], port["dns_name"])
    return {**port["profile"], KEY: msgspec.to_builtins(mark)}


def taken(context: Context, values: dict[str, Any]) -> dict[str, Any]:
    """A request's columns, with those that the mark in its profile stands for. A service writes it; who else sends it back changes
    nothing by it. Raises BadRequest."""
    profile = dict(values.get("profile", {}))
    found = profile.pop(KEY, None)
    if found is None:
        return values
    values = {**values, "profile": profile}
    if "service" not in context.roles:
        return values
    try:
        mark = msgspec.convert(found, Mark)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for binding:profile. Reason: {KEY}: {error}.", kind="InvalidInput") from None
    return values | {
        "server_id": mark.server or None,
        "nic_index": mark.index,
        "binding_key": mark.key,
        "dns_name": mark.hostname,
    }
