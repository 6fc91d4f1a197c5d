"""/servers/{id}/os-interface: a server's ports. Attaching and detaching are not offered."""

from __future__ import annotations

from typing import Any

from pileus.clients.network import ServerPort
from pileus.compute import servers
from pileus.compute.service import Compute
from pileus.errors import NotFound
from pileus.http.face import Call, Reply, Route
from pileus.store.sql import Row


async def list_interfaces(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    found = await compute.network.ports(row["id"])
    return Reply(body={"interfaceAttachments": [_view(call, row, port) for port in found]})


async def show_interface(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    for port in await compute.network.ports(row["id"]):
        if port.port_id == call.path["port"]:
            return Reply(body={"interfaceAttachment": _view(call, row, port)})
    raise NotFound(f"Instance {row['id']} does not have a port with id {call.path['port']}")


def _view(call: Call, row: Row, port: ServerPort) -> dict[str, Any]:
    view: dict[str, Any] = {
        "net_id": port.network_id,
        "port_id": port.port_id,
        "mac_addr": port.mac,
        "port_state": port.status,
        "fixed_ips": [{"subnet_id": subnet, "ip_address": address} for subnet, address in port.fixed_ips],
    }
    if call.since(2, 70):
        nics = row["nics"]
        view["tag"] = nics[port.index]["tag"] if port.index < len(nics) else None
    return view


ROUTES = [
    Route("GET", "/v2.1/servers/{id}/os-interface", list_interfaces, "reader"),
    Route("GET", "/v2.1/servers/{id}/os-interface/{port}", show_interface, "reader"),
]
