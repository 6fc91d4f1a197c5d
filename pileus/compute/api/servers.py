"""/servers: create, list, show, update, delete."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from pileus.compute import quotas, servers
from pileus.compute.api import forms, server_filters, server_request, server_view
from pileus.compute.api.server_request import CreateServer, DiskConfig
from pileus.compute.api.shape import VERSION_PATH, add_next, links
from pileus.compute.creation import NewServer, Wish
from pileus.compute.service import Compute
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, QuotaExceeded
from pileus.http.face import Call, Reply, Route
from pileus.store import Tx
from pileus.store.sql import Row


class ServerChanges(forms.Body):
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    hostname: str | UnsetType = UNSET
    disk_config: DiskConfig | UnsetType = msgspec.field(default=UNSET, name="OS-DCF:diskConfig")
    access_ip_v4: str | UnsetType = msgspec.field(default=UNSET, name="accessIPv4")
    access_ip_v6: str | UnsetType = msgspec.field(default=UNSET, name="accessIPv6")


class UpdateServer(forms.Body):
    server: ServerChanges


async def create_server(compute: Compute, call: Call) -> Reply:
    body = await call.json(CreateServer)
    given = body.server
    server_request.check_keys(call, given)
    server_request.refuse_unoffered(body)
    least, most = server_request.counts(given)
    wanted_networks = server_request.networks(call, given)
    values = _values(call, given)
    if most > 1 and values["hostname"] is not None:
        raise BadRequest("Unable to allocate a single hostname to multiple instances")
    try:
        flavor, keys = await compute.look_up(call.context, _wish(given.flavor_ref, values))
        wanted = NewServer(flavor=flavor, nics=[], public_keys=keys, **values)
        count = most if least == most else await compute.store.read(_affordable, compute, call.context, flavor, least, most)
        groups = [group.name for group in given.security_groups if group.name]
        made = await compute.create(call.context, wanted, wanted_networks, count=count, security_groups=groups)
    except NotFound as error:
        raise BadRequest(error.message) from None
    except Conflict as error:
        if error.kind == "IpAddressAlreadyAllocated":  # Nova: the request is wrong; a port in use is a conflict
            raise BadRequest(error.message) from None
        raise
    if forms.flag(given.return_reservation_id, "return_reservation_id"):
        return Reply(202, {"reservation_id": made[0]["reservation_id"]})
    server_id = made[0]["id"]
    server = {
        "id": server_id,
        "links": links(call.base, "servers", server_id),
        "OS-DCF:diskConfig": given.disk_config,
        "security_groups": [{"name": name} for name in dict.fromkeys(groups)] or [{"name": "default"}],
    }
    return Reply(202, {"server": server}, {"Location": f"{call.base}{VERSION_PATH}/servers/{server_id}"})


async def list_servers(compute: Compute, call: Call) -> Reply:
    wanted = await server_filters.parse(compute, call)
    found = await compute.store.read(servers.page, wanted.where, wanted.page, columns=server_view.BRIEF_COLUMNS, deleted=wanted.deleted)
    body = {"servers": [server_view.brief(call, row) for row in found]}
    return Reply(body=add_next(body, call, found, wanted.page, "/servers", "servers_links"))


async def list_details(compute: Compute, call: Call) -> Reply:
    wanted = await server_filters.parse(compute, call)
    columns = server_view.ADMIN_COLUMNS if call.context.is_admin else server_view.COLUMNS
    find = partial(servers.page, where=wanted.where, wanted=wanted.page, columns=columns, deleted=wanted.deleted)
    found, near = await compute.store.read(server_view.with_hosts, find)
    around = await server_view.surroundings(compute, found, near)
    body = {"servers": [server_view.full(compute, call, row, around, single=False) for row in found]}
    return Reply(body=add_next(body, call, found, wanted.page, "/servers/detail", "servers_links"))


async def show_server(compute: Compute, call: Call) -> Reply:
    find = partial(_one, context=call.context, server_id=call.path["id"])
    [row], near = await compute.store.read(server_view.with_hosts, find)
    around = await server_view.surroundings(compute, [row], near)
    return Reply(body={"server": server_view.full(compute, call, row, around)})


def _one(tx: Tx, context: Context, server_id: str) -> list[Row]:
    return [servers.get(tx, context, server_id)]


async def update_server(compute: Compute, call: Call) -> Reply:
    given = (await call.json(UpdateServer)).server
    server_request.check_keys(call, given)
    await compute.store.write(servers.change, call.context, call.path["id"], **_changes(call, given))
    find = partial(_one, context=call.context, server_id=call.path["id"])
    [row], near = await compute.store.read(server_view.with_hosts, find)
    around = await server_view.surroundings(compute, [row], near)
    if call.since(2, 75):
        return Reply(body={"server": server_view.full(compute, call, row, around)})
    return Reply(body={"server": server_view.short(call, row, around.addresses.get(row["id"], ()))})


async def delete_server(compute: Compute, call: Call) -> Reply:
    await compute.act(call.context, call.path["id"], "delete")
    return Reply(204)


def _values(call: Call, given: server_request.NewServer) -> dict[str, Any]:
    """The request's own values, checked."""
    zone, host = server_request.zone_and_host(call, given)
    if host is not None and not call.context.is_admin:
        raise Forbidden("Policy doesn't allow a host to be asked for: it needs the admin role.")
    name = forms.name(given.name)
    return {
        "name": name,
        "image_id": forms.uid(given.image_ref, "imageRef") if given.image_ref else None,
        "description": forms.text(given.description, "description") if given.description is not UNSET else _old_description(call, name),
        "hostname": None if given.hostname is UNSET else forms.hostname(given.hostname, "hostname", fqdn=call.since(2, 94)),
        "metadata": forms.metadata(given.metadata),
        "key_name": given.key_name,
        "user_data": server_request.user_data(given),
        "config_drive": given.config_drive is not None and _flag_or_empty(given.config_drive, "config_drive"),
        "zone": zone,
        "forced_host": host,
        "access_ip_v4": _address(given.access_ip_v4, "accessIPv4", 4),
        "access_ip_v6": _address(given.access_ip_v6, "accessIPv6", 6),
        "auto_disk_config": given.disk_config == "AUTO",
    }


def _wish(flavor_ref: str | int, values: Mapping[str, Any]) -> Wish:
    flavor_id = str(flavor_ref).rsplit("/", 1)[-1]
    return Wish(flavor_id, values["key_name"], values["zone"], values["forced_host"], len(values["metadata"]))


def _affordable(tx: Tx, compute: Compute, context: Context, flavor: Mapping[str, Any], least: int, most: int) -> int:
    """As many of these as the quota leaves room for, within what was asked for. Raises QuotaExceeded."""
    count = min(most, quotas.room(tx, compute.settings.quota, context.project, flavor))
    if count < least:
        raise QuotaExceeded(f"Quota exceeded: room for {count} more of these servers, {least} were asked for")
    return count


def _changes(call: Call, given: ServerChanges) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given.name is not UNSET:
        found["name"] = forms.name(given.name)
    if given.description is not UNSET:
        found["description"] = forms.text(given.description, "description")
    if given.hostname is not UNSET:
        found["hostname"] = forms.hostname(given.hostname, "hostname", fqdn=call.since(2, 94))
    if given.disk_config is not UNSET:
        found["auto_disk_config"] = given.disk_config == "AUTO"
    if given.access_ip_v4 is not UNSET:
        found["access_ip_v4"] = _address(given.access_ip_v4, "accessIPv4", 4)
    if given.access_ip_v6 is not UNSET:
        found["access_ip_v6"] = _address(given.access_ip_v6, "accessIPv6", 6)
    return found


def _old_description(call: Call, name: str) -> str | None:
    """Before 2.19 a server's description was its name."""
    return None if call.since(2, 19) else name


def _flag_or_empty(value: forms.Flag, where: str) -> bool:
    return value != "" and forms.flag(value, where)


def _address(value: str | UnsetType, where: str, version: int) -> str | None:
    """An address, or none where it is empty."""
    return None if value is UNSET or value == "" else forms.address(value, where, version)


ROUTES = [
    Route("POST", "/v2.1/servers", create_server, "member"),
    Route("GET", "/v2.1/servers", list_servers, "reader"),
    Route("GET", "/v2.1/servers/detail", list_details, "reader"),
    Route("GET", "/v2.1/servers/{id}", show_server, "reader"),
    Route("PUT", "/v2.1/servers/{id}", update_server, "member"),
    Route("DELETE", "/v2.1/servers/{id}", delete_server, "member"),
]
