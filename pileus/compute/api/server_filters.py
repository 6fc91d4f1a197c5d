"""The query of a server list: who may filter by what since when, as one table, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, true

from pileus.compute.api import forms, patterns, server_sorts
from pileus.compute.lifecycle import PLAIN_STATUS, POWER_NUMBER, STATUS
from pileus.compute.service import Compute
from pileus.compute.tables import servers
from pileus.errors import BadRequest, Forbidden
from pileus.http.face import Call
from pileus.http.microversions import Version
from pileus.store.paging import Page

Condition = ColumnElement[bool]

NOVA_STATUSES = frozenset(
    {
        *("ACTIVE", "BUILD", "DELETED", "ERROR", "HARD_REBOOT", "MIGRATING", "PASSWORD", "PAUSED", "REBOOT", "REBUILD", "RESCUE", "RESIZE"),
        *("REVERT_RESIZE", "SHELVED", "SHELVED_OFFLOADED", "SHUTOFF", "SOFT_DELETED", "SUSPENDED", "UNKNOWN", "VERIFY_RESIZE"),
    }
)
PAGING = ("limit", "marker", "sort_key", "sort_dir")
FORBIDDEN_FIELDS = frozenset(
    {"block_device_mapping", "services", "metadata", "system_metadata", "info_cache", "security_groups", "pci_devices"}
)
MOST_BY_ADDRESS = 10_000
NEVER: Version = (99, 0)
_YES = frozenset({"true", "1", "on", "yes", "t", "y"})


@dataclass(frozen=True)
class Filter:
    """`known`: since when Nova knows the key; `everyone`: since when callers without the admin role may use it, ignored before."""

    condition: Callable[[str, str], Condition]
    known: Version = (2, 1)
    everyone: Version = NEVER


def _equal(column: ColumnElement[Any]) -> Callable[[str, str], Condition]:
    return lambda text, where: column == text


def _like(column: ColumnElement[Any]) -> Callable[[str, str], Condition]:
    return lambda text, where: patterns.condition(column, text, where)


def _flag(column: ColumnElement[Any]) -> Callable[[str, str], Condition]:
    return lambda text, where: column.is_(_words(text, where))


def _words(text: str, where: str) -> bool:
    return bool(text) and forms.flag(text, where)  # config_drive= (empty) means without


def _second(column: ColumnElement[Any]) -> Callable[[str, str], Condition]:
    """A time is met to the second."""

    def condition(text: str, where: str) -> Condition:
        at = int(forms.moment(text, where))
        return and_(column >= at, column < at + 1)

    return condition


def _constant(value: str) -> Callable[[str, str], Condition]:
    """A field that is the same for every server."""
    return lambda text, where: true() if text == value else false()


def _power(text: str, where: str) -> Condition:
    number = forms.whole(text, where)
    return servers.c.power.in_([word for word, known in POWER_NUMBER.items() if known == number])


FILTERS: dict[str, Filter] = {
    "name": Filter(_like(servers.c.name), everyone=(2, 1)),
    "display_name": Filter(_like(servers.c.name)),
    "description": Filter(_like(func.coalesce(servers.c.description, ""))),
    "display_description": Filter(_like(func.coalesce(servers.c.description, ""))),
    "uuid": Filter(_equal(servers.c.id)),
    "image": Filter(_equal(servers.c.image_id), everyone=(2, 1)),
    "image_ref": Filter(_equal(servers.c.image_id)),
    "flavor": Filter(_equal(servers.c.flavor["id"].as_string()), everyone=(2, 1)),
    "reservation_id": Filter(_equal(servers.c.reservation_id), everyone=(2, 1)),
    "host": Filter(_equal(servers.c.host)),
    "node": Filter(_like(func.coalesce(servers.c.host, ""))),
    "hostname": Filter(_like(servers.c.hostname), everyone=(2, 90)),
    "key_name": Filter(_like(func.coalesce(servers.c.key_name, "")), everyone=(2, 83)),
    "availability_zone": Filter(_like(func.coalesce(servers.c.zone, "")), everyone=(2, 83)),
    "config_drive": Filter(_flag(servers.c.config_drive), everyone=(2, 83)),
    "power_state": Filter(_power, everyone=(2, 83)),
    "vm_state": Filter(_equal(servers.c.vm_state), everyone=(2, 83)),
    "task_state": Filter(_equal(servers.c.task_state), everyone=(2, 83)),
    "user_id": Filter(_equal(servers.c.user_id), everyone=(2, 83)),
    "created_at": Filter(_second(servers.c.created_at), everyone=(2, 83)),
    "launched_at": Filter(_second(servers.c.launched_at), everyone=(2, 83)),
    "terminated_at": Filter(_second(servers.c.deleted_at), everyone=(2, 83)),
    "progress": Filter(_constant("0"), everyone=(2, 83)),
    "locked": Filter(_flag(servers.c.locked), known=(2, 73), everyone=(2, 73)),
    "locked_by": Filter(_like(func.coalesce(servers.c.locked_by, ""))),
    "access_ip_v4": Filter(_like(func.coalesce(servers.c.access_ip_v4, ""))),
    "access_ip_v6": Filter(_like(func.coalesce(servers.c.access_ip_v6, ""))),
    "auto_disk_config": Filter(_flag(servers.c.auto_disk_config)),
    "launch_index": Filter(lambda text, where: servers.c.launch_index == forms.whole(text, where)),
    "kernel_id": Filter(_equal(servers.c.boot[("kernel", "id")].as_string())),
    "ramdisk_id": Filter(_equal(servers.c.boot[("ramdisk", "id")].as_string())),
    "root_device_name": Filter(_constant("/dev/vda")),
    "soft_deleted": Filter(lambda text, where: false() if _words(text, where) else true()),
    "tags": Filter(lambda text, where: false(), known=(2, 26), everyone=(2, 26)),
    "tags-any": Filter(lambda text, where: false(), known=(2, 26), everyone=(2, 26)),
    "not-tags": Filter(lambda text, where: true(), known=(2, 26), everyone=(2, 26)),
    "not-tags-any": Filter(lambda text, where: true(), known=(2, 26), everyone=(2, 26)),
}
"""Plain filters. No server has tags, so asking for some finds nothing and asking for their absence everything."""

SPECIAL: dict[str, tuple[Version, Version]] = {
    "status": ((2, 1), (2, 1)),
    "ip": ((2, 1), (2, 1)),
    "ip6": ((2, 1), (2, 5)),
    "changes-since": ((2, 1), (2, 1)),
    "changes-before": ((2, 66), (2, 66)),
    "all_tenants": ((2, 1), (2, 1)),
    "project_id": ((2, 1), NEVER),
    "tenant_id": ((2, 1), NEVER),
    "deleted": ((2, 1), NEVER),
}
"""Filters that are more than a condition on one column: known since, for everyone since."""


@dataclass(frozen=True)
class Wanted:
    """What a list asks for."""

    where: list[Condition]
    page: Page
    deleted: bool
    """Are deleted servers looked at?"""


async def parse(compute: Compute, call: Call) -> Wanted:
    """The query of a server list. Raises BadRequest, Forbidden."""
    for key in call.http.query_params:
        if key in FORBIDDEN_FIELDS or key.startswith("_"):
            raise BadRequest(f"Invalid filter field: {key}.")
    known = {**{key: each.known for key, each in FILTERS.items()}, **{key: since for key, (since, _) in SPECIAL.items()}}
    forms.known_query(call, [*PAGING, *[key for key, since in known.items() if call.version >= since]])
    given = _permitted(call)
    where = [FILTERS[key].condition(text, key) for key, text in given.items() if key in FILTERS]
    where += [_scope(call, given), *_changes(given)]
    deleted = "changes-since" in given or "changes-before" in given
    if "status" in given:
        words = {word.upper() for word in call.http.query_params.getlist("status")}
        where.append(_status(call, words))
        deleted = deleted or words == {"DELETED"}
    if given.get("deleted", "").lower() in _YES:
        where.append(servers.c.deleted_at.is_not(None))
        deleted = True
    for key, version in (("ip", 4), ("ip6", 6)):
        if key in given:
            where.append(await _at_address(compute, key, given[key], version))
    return Wanted(where, server_sorts.parse(call), deleted)


async def _at_address(compute: Compute, key: str, pattern: str, version: int) -> Condition:
    found = await compute.network.servers_at(pattern, version)
    if len(found) > MOST_BY_ADDRESS:
        raise BadRequest(f"{key}={pattern} is true of {len(found)} servers; give more of the address")
    return servers.c.id.in_(found)


def _permitted(call: Call) -> dict[str, str]:
    """The filters that this caller may use, the last value of each; others are ignored, as in Nova."""
    found: dict[str, str] = {}
    for key, text in call.http.query_params.items():
        if key in FILTERS:
            since, everyone = FILTERS[key].known, FILTERS[key].everyone
        elif key in SPECIAL:
            since, everyone = SPECIAL[key]
        else:
            continue
        if call.version >= (since if call.context.is_admin else everyone):
            found[key] = text
    return found


def _scope(call: Call, given: Mapping[str, str]) -> Condition:
    """The caller's project; admins may ask for all, or for one."""
    text = given.get("all_tenants")
    if text is None or not (text == "" or forms.flag(text, "all_tenants")):
        return servers.c.project_id == call.context.project_id
    if not call.context.is_admin:
        raise Forbidden("Policy doesn't allow all_tenants: it needs the admin role.")
    project = given.get("project_id") or given.get("tenant_id")
    return servers.c.project_id == project if project else true()


def _status(call: Call, words: set[str]) -> Condition:
    """One or more of the API's status words. One that no server here has finds nothing; one that is none is refused since 2.38."""
    if not words & NOVA_STATUSES:
        if call.since(2, 38):
            raise BadRequest("Invalid status value")
        return false()
    if words == {"DELETED"} and not call.context.is_admin:
        raise Forbidden("Only administrators may list deleted instances")
    return or_(*[status_condition(word) for word in sorted(words)])


def status_condition(word: str) -> Condition:
    """Servers whose status is this word, by the table that the view is made from."""
    special = [and_(servers.c.vm_state == vm, servers.c.task_state == task) for (vm, task), shown in STATUS.items() if shown == word]
    plain = [
        and_(servers.c.vm_state == vm, *[not_(func.coalesce(servers.c.task_state, "") == task) for v, task in STATUS if v == vm])
        for vm, shown in PLAIN_STATUS.items()
        if shown == word
    ]
    return or_(false(), *special, *plain)


def _changes(given: Mapping[str, str]) -> list[Condition]:
    """Servers that changed in a time; deleted ones are among them."""
    since = forms.moment(given["changes-since"], "changes-since") if "changes-since" in given else None
    before = forms.moment(given["changes-before"], "changes-before") if "changes-before" in given else None
    if since is not None and before is not None and before < since:
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    found: list[Condition] = []
    if since is not None:
        found.append(servers.c.updated_at >= since)
    if before is not None:
        found.append(servers.c.updated_at < before + 1)  # times are shown to the second
    return found
