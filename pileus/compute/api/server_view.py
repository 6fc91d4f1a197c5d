"""A server as the API shows it, by microversion. What a page has in common is looked up and built once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement

from pileus.clients.network import SecurityGroup, ServerAddress
from pileus.compute import hosts, info_cache
from pileus.compute.api.shape import bookmark, host_id, links, micro, moment
from pileus.compute.lifecycle import POWER_NUMBER, status
from pileus.compute.service import Compute
from pileus.compute.tables import servers
from pileus.http.face import Call
from pileus.store import Tx
from pileus.store.sql import Row

ROOT_DEVICE = "/dev/vda"
_PROGRESS = frozenset({"ACTIVE", "BUILD"})
_FAULTY = frozenset({"ERROR", "DELETED"})
_CACHE = frozenset({"addresses_asked", "addresses_known", "refresh_at", "heal_at"})
_HIDDEN = frozenset({"nics", "public_keys", "generation", "lease_until", "forced_host", *_CACHE})

COLUMNS: tuple[ColumnElement[Any], ...] = tuple(column for column in servers.c if column.name not in _HIDDEN | {"user_data", "boot"})
ADMIN_COLUMNS: tuple[ColumnElement[Any], ...] = (*COLUMNS, servers.c.user_data, servers.c.boot)
BRIEF_COLUMNS: tuple[ColumnElement[Any], ...] = (servers.c.id, servers.c.name)


@dataclass(frozen=True)
class Surroundings:
    """What a view needs besides the server: its addresses, its security groups and its host, looked up for a whole page."""

    addresses: Mapping[str, Sequence[ServerAddress]]
    security_groups: Mapping[str, Sequence[SecurityGroup]]
    hosts: Mapping[str, Row]


async def surroundings(compute: Compute, found: Sequence[Row], near: Mapping[str, Row]) -> Surroundings:
    """`near`: the hosts of these servers, as `with_hosts` read them."""
    shown = [row for row in found if row["vm_state"] != "building" and row["deleted_at"] is None]
    groups = compute.network.security_groups([row["id"] for row in shown])
    return Surroundings(*await asyncio.gather(addresses_of(compute, shown), groups), near)


async def addresses_of(compute: Compute, found: Sequence[Row]) -> Mapping[str, Sequence[ServerAddress]]:
    """Addresses of these servers as they are written down; only of those of which nothing is, the network service is asked."""
    known = {row["id"]: info_cache.of(row) for row in found}
    unknown = [server_id for server_id, addresses in known.items() if addresses is None]
    asked = await compute.network.addresses(unknown) if unknown else {}
    return {server_id: asked.get(server_id, ()) if addresses is None else addresses for server_id, addresses in known.items()}


def with_hosts(tx: Tx, find: Callable[[Tx], list[Row]]) -> tuple[list[Row], dict[str, Row]]:
    """Servers and the hosts they are on, in one transaction."""
    found = find(tx)
    return found, hosts.by_names(tx, {row["host"] for row in found if row["host"] is not None})


def brief(call: Call, row: Row) -> dict[str, Any]:
    return {"id": row["id"], "name": row["name"], "links": links(call.base, "servers", row["id"])}


def full(compute: Compute, call: Call, row: Row, around: Surroundings, *, single: bool = True) -> dict[str, Any]:
    """All of a server. `single`: not in a list, where some keys are left out."""
    view = core(call, row, around.addresses.get(row["id"], ()), extended=True)
    host = around.hosts.get(row["host"] or "")
    view["OS-EXT-AZ:availability_zone"] = host["zone"] if host else row["zone"] or ""
    groups = around.security_groups.get(row["id"])
    if groups:
        view["security_groups"] = [{"name": group.name or group.id} for group in groups]
    view["config_drive"] = "True" if row["config_drive"] else ""
    view["key_name"] = row["key_name"]
    view["OS-SRV-USG:launched_at"] = micro(row["launched_at"])
    view["OS-SRV-USG:terminated_at"] = micro(row["deleted_at"])
    view["OS-EXT-STS:task_state"] = row["task_state"]
    view["OS-EXT-STS:vm_state"] = row["vm_state"]
    view["OS-EXT-STS:power_state"] = POWER_NUMBER[row["power"]]
    view["os-extended-volumes:volumes_attached"] = []
    if call.context.is_admin:
        _for_admins(compute, call, row, host, view)
    _by_version(call, row, view, single=single)
    if call.since(2, 90):
        view["OS-EXT-SRV-ATTR:hostname"] = row["hostname"]
    if call.since(2, 96):
        view["pinned_availability_zone"] = row["zone"]
    return view


def short(call: Call, row: Row, addresses: Sequence[ServerAddress]) -> dict[str, Any]:
    """What an update answered before 2.75."""
    view = core(call, row, addresses, extended=False)
    _by_version(call, row, view, single=True)
    return view


def core(call: Call, row: Row, addresses: Sequence[ServerAddress], *, extended: bool) -> dict[str, Any]:
    """What every view of a server has, in every version."""
    word = status(row["vm_state"], row["task_state"])
    view: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "status": word,
        "tenant_id": row["project_id"],
        "user_id": row["user_id"],
        "metadata": row["metadata"],
        "hostId": host_id(row["host"], row["project_id"]),
        "image": {"id": row["image_id"], "links": [bookmark(call.base, "images", row["image_id"])]} if row["image_id"] else "",
        "flavor": _flavor(call, row["flavor"]),
        "created": moment(row["created_at"]),
        "updated": moment(row["updated_at"]),
        "addresses": {} if row["vm_state"] == "building" else addresses_by_network(addresses, extended=extended),
        "accessIPv4": row["access_ip_v4"] or "",
        "accessIPv6": row["access_ip_v6"] or "",
        "links": links(call.base, "servers", row["id"]),
        "OS-DCF:diskConfig": "AUTO" if row["auto_disk_config"] else "MANUAL",
    }
    if word in _PROGRESS:
        view["progress"] = 0
    if word in _FAULTY and row["fault"]:
        view["fault"] = _fault(call, row["fault"])
    return view


def addresses_by_network(found: Sequence[ServerAddress], *, extended: bool) -> dict[str, list[dict[str, Any]]]:
    """Addresses under their network's name; `extended` adds type and MAC."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        view: dict[str, Any] = {"version": one.ip_version, "addr": one.address}
        if extended:
            view |= {"OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": one.mac}
        by_network.setdefault(one.network_name, []).append(view)
    return by_network


def _flavor(call: Call, flavor: Mapping[str, Any]) -> dict[str, Any]:
    if not call.since(2, 47):
        return {"id": flavor["id"], "links": [bookmark(call.base, "flavors", flavor["id"])]}
    view = {key: flavor[key] for key in ("vcpus", "ram", "disk", "ephemeral", "swap", "extra_specs")}
    view["original_name"] = flavor["name"]
    return view


def _fault(call: Call, fault: Mapping[str, Any]) -> dict[str, Any]:
    view = {"code": fault["code"], "message": fault["message"], "created": moment(fault["created"])}
    if fault.get("details") and (call.context.is_admin or fault["code"] != 500):
        view["details"] = fault["details"]
    return view


def _for_admins(compute: Compute, call: Call, row: Row, host: Row | None, view: dict[str, Any]) -> None:
    view["OS-EXT-SRV-ATTR:host"] = row["host"]
    view["OS-EXT-SRV-ATTR:instance_name"] = row["id"]
    view["OS-EXT-SRV-ATTR:hypervisor_hostname"] = row["host"]
    if call.since(2, 3):
        view["OS-EXT-SRV-ATTR:hostname"] = row["hostname"]
        view["OS-EXT-SRV-ATTR:reservation_id"] = row["reservation_id"]
        view["OS-EXT-SRV-ATTR:launch_index"] = row["launch_index"]
        boot = row["boot"] or {}
        view["OS-EXT-SRV-ATTR:kernel_id"] = (boot.get("kernel") or {}).get("id", "")
        view["OS-EXT-SRV-ATTR:ramdisk_id"] = (boot.get("ramdisk") or {}).get("id", "")
        view["OS-EXT-SRV-ATTR:root_device_name"] = ROOT_DEVICE
        view["OS-EXT-SRV-ATTR:user_data"] = row["user_data"]
    if call.since(2, 16):
        view["host_status"] = _host_status(compute, host)


def _host_status(compute: Compute, host: Row | None) -> str:
    if host is None:
        return ""
    if host["forced_down"]:
        return "DOWN"
    if not hosts.is_up(host, compute.settings.compute, time.time()):
        return "UNKNOWN"
    return "MAINTENANCE" if host["disabled"] else "UP"


def _by_version(call: Call, row: Row, view: dict[str, Any], *, single: bool) -> None:
    if call.since(2, 9):
        view["locked"] = row["locked"]
    if call.since(2, 19):
        view["description"] = row["description"]
    if call.since(2, 26):
        view["tags"] = []
    if call.since(2, 63):
        view["trusted_image_certificates"] = None
    if single and call.since(2, 71):
        view["server_groups"] = []
    if call.since(2, 73):
        view["locked_reason"] = row["locked_reason"]
