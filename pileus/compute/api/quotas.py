"""/limits and /os-quota-sets: what a project may use. Only what is enforced can be set; the rest of Nova's names are fixed."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from pileus.compute import quotas
from pileus.compute.api import forms
from pileus.compute.service import Compute
from pileus.errors import BadRequest, Forbidden
from pileus.http.face import Call, Reply, Route
from pileus.http.microversions import Version
from pileus.store import Tx

ALWAYS: Version = (9, 0)
FIXED: dict[str, tuple[int, Version]] = {
    "fixed_ips": (-1, (2, 35)),
    "floating_ips": (0, (2, 35)),
    "security_groups": (0, (2, 35)),
    "security_group_rules": (0, (2, 35)),
    "injected_files": (0, (2, 56)),
    "injected_file_content_bytes": (0, (2, 56)),
    "injected_file_path_bytes": (0, (2, 56)),
    "server_groups": (0, ALWAYS),
    "server_group_members": (0, ALWAYS),
}
"""Names that clients look for, of things that compute does not do: value, and the last version that has them."""

LIMIT_NAMES: dict[str, tuple[str, Version]] = {
    "maxTotalInstances": ("instances", ALWAYS),
    "maxTotalCores": ("cores", ALWAYS),
    "maxTotalRAMSize": ("ram", ALWAYS),
    "maxTotalKeypairs": ("key_pairs", ALWAYS),
    "maxServerMeta": ("metadata_items", ALWAYS),
    "maxImageMeta": ("metadata_items", (2, 38)),
    "maxPersonality": ("injected_files", (2, 56)),
    "maxPersonalitySize": ("injected_file_content_bytes", (2, 56)),
    "maxServerGroups": ("server_groups", ALWAYS),
    "maxServerGroupMembers": ("server_group_members", ALWAYS),
    "maxTotalFloatingIps": ("floating_ips", (2, 35)),
    "maxSecurityGroups": ("security_groups", (2, 35)),
    "maxSecurityGroupRules": ("security_group_rules", (2, 35)),
}
USED_NAMES: dict[str, tuple[str, Version]] = {
    "totalInstancesUsed": ("instances", ALWAYS),
    "totalCoresUsed": ("cores", ALWAYS),
    "totalRAMUsed": ("ram", ALWAYS),
    "totalServerGroupsUsed": ("server_groups", ALWAYS),
    "totalFloatingIpsUsed": ("floating_ips", (2, 35)),
    "totalSecurityGroupsUsed": ("security_groups", (2, 35)),
}


class QuotaSet(forms.Body):
    instances: forms.Whole | UnsetType | None = UNSET
    cores: forms.Whole | UnsetType | None = UNSET
    ram: forms.Whole | UnsetType | None = UNSET
    key_pairs: forms.Whole | UnsetType | None = UNSET
    metadata_items: forms.Whole | UnsetType | None = UNSET
    force: forms.Flag = False


class UpdateQuotas(forms.Body):
    quota_set: dict[str, Any]


async def show_limits(compute: Compute, call: Call) -> Reply:
    forms.known_query(call, ("reserved", "tenant_id"))
    project = call.query("tenant_id") or call.context.project
    if project != call.context.project and not call.context.is_admin:
        raise Forbidden("Policy doesn't allow another project's limits: it needs the admin role.")
    allowed, used = await compute.store.read(_both, compute, project)
    absolute = {name: allowed[key] for name, (key, until) in LIMIT_NAMES.items() if call.version <= until}
    absolute |= {name: used.get(key, 0) for name, (key, until) in USED_NAMES.items() if call.version <= until}
    return Reply(body={"limits": {"rate": [], "absolute": absolute}})


async def show_quotas(compute: Compute, call: Call) -> Reply:
    project = _project(call)
    allowed, _ = await compute.store.read(_both, compute, project)
    return Reply(body={"quota_set": {"id": project, **_shown(call, allowed)}})


async def show_details(compute: Compute, call: Call) -> Reply:
    project = _project(call)
    allowed, used = await compute.store.read(_both, compute, project)
    details = {key: {"limit": limit, "in_use": used.get(key, 0), "reserved": 0} for key, limit in _shown(call, allowed).items()}
    return Reply(body={"quota_set": {"id": project, **details}})


async def show_defaults(compute: Compute, call: Call) -> Reply:
    project = _project(call)
    allowed = {name: getattr(compute.settings.quota, name) for name in quotas.RESOURCES}
    return Reply(body={"quota_set": {"id": project, **_shown(call, allowed | _fixed())}})


async def update_quotas(compute: Compute, call: Call) -> Reply:
    project = _project(call)
    given = (await call.json(UpdateQuotas)).quota_set
    for key in given:
        if key in FIXED and call.version <= FIXED[key][1]:
            raise BadRequest(f"{key}: this quota cannot be set, there is nothing here that it limits")
    try:
        wanted = msgspec.convert(given, QuotaSet)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for field/attribute quota_set: {error}") from None
    values = {name: forms.whole(value, name, -1) for name in quotas.RESOURCES if (value := getattr(wanted, name)) not in (UNSET, None)}
    force = forms.flag(wanted.force, "force")
    allowed = await compute.store.write(_set, compute, project, values, force)
    return Reply(body={"quota_set": _shown(call, allowed)})


async def delete_quotas(compute: Compute, call: Call) -> Reply:
    await compute.store.write(quotas.reset_limits, _project(call))
    return Reply(202)


def _project(call: Call) -> str:
    """The path's project: the caller's own, or any for an admin. There are no quotas of single users."""
    project = call.path["project"]
    forms.known_query(call, ("user_id",))
    if call.query("user_id") is not None:
        raise BadRequest("user_id: quotas of a single user are not offered; a project's apply to all its users")
    if project != call.context.project and not call.context.is_admin:
        raise Forbidden("Policy doesn't allow another project's quotas: it needs the admin role.")
    return project


def _both(tx: Tx, compute: Compute, project: str) -> tuple[dict[str, int], dict[str, int]]:
    return quotas.limits(tx, compute.settings.quota, project) | _fixed(), quotas.used(tx, project)


def _set(tx: Tx, compute: Compute, project: str, values: dict[str, int], force: bool) -> dict[str, int]:
    if not force:
        quotas.check_limits(tx, project, values)
    quotas.set_limits(tx, project, values)
    return quotas.limits(tx, compute.settings.quota, project) | _fixed()


def _fixed() -> dict[str, int]:
    return {name: value for name, (value, _) in FIXED.items()}


def _shown(call: Call, allowed: dict[str, int]) -> dict[str, int]:
    return {name: limit for name, limit in allowed.items() if call.version <= FIXED.get(name, (0, ALWAYS))[1]}


ROUTES = [
    Route("GET", "/v2.1/limits", show_limits, "reader"),
    Route("GET", "/v2.1/os-quota-sets/{project}", show_quotas, "reader"),
    Route("GET", "/v2.1/os-quota-sets/{project}/detail", show_details, "reader"),
    Route("GET", "/v2.1/os-quota-sets/{project}/defaults", show_defaults, "reader"),
    Route("PUT", "/v2.1/os-quota-sets/{project}", update_quotas, "admin"),
    Route("DELETE", "/v2.1/os-quota-sets/{project}", delete_quotas, "admin"),
]
