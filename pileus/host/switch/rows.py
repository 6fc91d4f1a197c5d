"""What we write into the switch's database, and what we read back from it: transactions as data, our ports as records. Pure.

Everything about a port stands in `external_ids` of its Interface row, so that one row tells all, and whoever restarts reads it
there. Rows of other owners (another bridge, the machine's administrator) are left alone. Source: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pileus.host.switch.ovsdb import Row, as_map, as_set
from pileus.messages import PortWiring

COLUMNS = {
    "Open_vSwitch": ("next_cfg", "cur_cfg"),
    "Bridge": ("name", "external_ids"),
    "Port": ("name",),
    "Interface": ("name", "type", "ofport", "error", "external_ids"),
}

PROTOCOLS = ("OpenFlow10", "OpenFlow13", "OpenFlow14", "OpenFlow15")
"""We speak 1.5; the others are for people with `ovs-ofctl`."""

_FAIL_MODE = {False: "secure", True: "standalone"}
"""What a bridge does without a controller: what its flows say, or forward by itself."""

Operation = dict[str, Any]


@dataclass(frozen=True)
class Plugged:
    """An Interface row of ours: a guest's port, or (with a `namespace`) a network's DHCP device."""

    name: str
    uuid: str
    ofport: int
    """0: not applied yet; -1: the switch could not take it."""
    network_id: str
    tag: int
    mac: str
    port_id: str = ""
    generation: int = 0
    device_index: int = 0
    """The kernel's number of the device that was plugged. Open vSwitch does not take up another one of that name."""
    namespace: str = ""


def read_plugged(uuid: str, row: Row, bridge: str) -> Plugged | None:
    """None where the row is not ours, or somebody has spoilt it."""
    notes: Mapping[str, str] = row["external_ids"]
    if notes.get("pileus-bridge") != bridge:
        return None
    with contextlib.suppress(KeyError, ValueError):
        return _read_notes(uuid, row, notes)
    return None


def _read_notes(uuid: str, row: Row, notes: Mapping[str, str]) -> Plugged:
    return Plugged(
        name=row["name"],
        uuid=uuid,
        ofport=optional(row["ofport"], 0),
        network_id=notes["pileus-network"],
        tag=int(notes["pileus-tag"]),
        mac=notes["attached-mac"],
        port_id=notes.get("iface-id", ""),
        generation=int(notes.get("pileus-generation", 0)),
        device_index=int(notes.get("pileus-ifindex", 0)),
        namespace=notes.get("pileus-namespace", ""),
    )


def port_notes(port: PortWiring, device_index: int, bridge: str, tag: int) -> dict[str, str]:
    """The `external_ids` of a guest's port."""
    return {
        "iface-id": port.port_id,
        "attached-mac": port.mac,
        "pileus-bridge": bridge,
        "pileus-network": port.network_id,
        "pileus-tag": str(tag),
        "pileus-generation": str(port.generation),
        "pileus-ifindex": str(device_index),
    }


def dhcp_notes(network_id: str, mac: str, namespace: str, device_index: int, bridge: str, tag: int) -> dict[str, str]:
    """The `external_ids` of a network's DHCP device."""
    return {
        "attached-mac": mac,
        "pileus-bridge": bridge,
        "pileus-network": network_id,
        "pileus-tag": str(tag),
        "pileus-namespace": namespace,
        "pileus-ifindex": str(device_index),
    }


def insert_port(
    bridge_uuid: str, name: str, notes: Mapping[str, str], *, kind: str = "", number: int = 0, options: Mapping[str, str] = {}
) -> list[Operation]:
    """A port with its one interface, on a bridge. `number` tells several of one transaction apart."""
    return [
        {
            "op": "insert",
            "table": "Interface",
            "uuid-name": f"i{number}",
            "row": {"name": name, "type": kind, "external_ids": as_map(notes), "options": as_map(options)},
        },
        {
            "op": "insert",
            "table": "Port",
            "uuid-name": f"p{number}",
            "row": {"name": name, "interfaces": ["named-uuid", f"i{number}"]},
        },
        _change_ports(bridge_uuid, "insert", [["named-uuid", f"p{number}"]]),
    ]


def update_notes(uuid: str, notes: Mapping[str, str]) -> Operation:
    """New `external_ids` for an interface."""
    return {"op": "update", "table": "Interface", "where": _is(uuid), "row": {"external_ids": as_map(notes)}}


def delete_ports(bridge_uuid: str, port_uuids: Iterable[str]) -> list[Operation]:
    """Ports off a bridge; their rows go with that."""
    return [_change_ports(bridge_uuid, "delete", [["uuid", uuid] for uuid in port_uuids])]


def ask_applied(root_uuid: str) -> list[Operation]:
    """Two operations at the end of a transaction; the last one's result holds the `next_cfg` that the switch sets `cur_cfg` to
    once it has applied the transaction."""
    return [
        {"op": "mutate", "table": "Open_vSwitch", "where": _is(root_uuid), "mutations": [["next_cfg", "+=", 1]]},
        {"op": "select", "table": "Open_vSwitch", "where": _is(root_uuid), "columns": ["next_cfg"]},
    ]


def insert_root() -> Operation:
    """The row that a database has exactly one of."""
    return {"op": "insert", "table": "Open_vSwitch", "row": {}}


def insert_bridge(root_uuid: str, name: str, notes: Mapping[str, str], *, forwards: bool = False) -> list[Operation]:
    """A userspace bridge with its own internal port, that forwards by itself or not."""
    return [
        {
            "op": "insert",
            "table": "Interface",
            "uuid-name": "bi",
            "row": {"name": name, "type": "internal"},
        },
        {"op": "insert", "table": "Port", "uuid-name": "bp", "row": {"name": name, "interfaces": ["named-uuid", "bi"]}},
        {
            "op": "insert",
            "table": "Bridge",
            "uuid-name": "b",
            "row": {
                "name": name,
                "datapath_type": "netdev",
                "fail_mode": _FAIL_MODE[forwards],
                "protocols": as_set(PROTOCOLS),
                "external_ids": as_map(notes),
                "ports": ["named-uuid", "bp"],
            },
        },
        _change_bridges(root_uuid, "insert", ["named-uuid", "b"]),
    ]


def keep_bridge(bridge_uuid: str, *, forwards: bool = False) -> Operation:
    """What an existing bridge must be for us; its datapath stays what its maker chose."""
    row = {"fail_mode": _FAIL_MODE[forwards], "protocols": as_set(PROTOCOLS)}
    return {"op": "update", "table": "Bridge", "where": _is(bridge_uuid), "row": row}


def delete_bridge(root_uuid: str, bridge_uuid: str) -> Operation:
    return _change_bridges(root_uuid, "delete", ["uuid", bridge_uuid])


def optional(value: Any, default: Any) -> Any:
    """An optional column's value: OVSDB writes an absent one as the empty set."""
    return default if value == [] else value


def _is(uuid: str) -> list[Any]:
    return [["_uuid", "==", ["uuid", uuid]]]


def _change_ports(bridge_uuid: str, how: str, ports: list[Any]) -> Operation:
    return {"op": "mutate", "table": "Bridge", "where": _is(bridge_uuid), "mutations": [["ports", how, ["set", ports]]]}


def _change_bridges(root_uuid: str, how: str, bridge: list[Any]) -> Operation:
    return {
        "op": "mutate",
        "table": "Open_vSwitch",
        "where": _is(root_uuid),
        "mutations": [["bridges", how, ["set", [bridge]]]],
    }
