"""The order of a server list: which sort keys there are, which mean nothing, which are an admin's."""

from __future__ import annotations

from dataclasses import replace

from pileus.errors import BadRequest, Forbidden
from pileus.http import paging
from pileus.http.face import Call
from pileus.store.paging import Page

ADMIN_SORTS = frozenset({"host", "node"})
SORTS = frozenset(
    {
        *("access_ip_v4", "access_ip_v6", "auto_disk_config", "availability_zone", "config_drive", "created_at", "display_description"),
        *("display_name", "host", "hostname", "image_ref", "instance_type_id", "key_name", "launch_index", "launched_at", "locked_by"),
        *("node", "power_state", "project_id", "task_state", "terminated_at", "updated_at", "user_id", "uuid", "vm_state"),
    }
)
CONSTANT_SORTS = frozenset({"kernel_id", "progress", "ramdisk_id", "root_device_name"})
"""Sort keys that order nothing here."""
IGNORED_SORTS = frozenset(
    {
        *("architecture", "cell_name", "cleaned", "default_ephemeral_device", "default_swap_device", "deleted", "deleted_at"),
        *("disable_terminate", "ephemeral_gb", "ephemeral_key_uuid", "id", "key_data", "launched_on", "locked", "memory_mb", "os_type"),
        *("reservation_id", "root_gb", "shutdown_terminate", "user_data", "vcpus", "vm_mode"),
    }
)
"""Keys that Nova takes before 2.75 and does not sort by."""


def parse(call: Call) -> Page:
    """Sort keys as Nova checks them: some only admins may use, some order nothing, some are no keys any more since 2.75."""
    page = paging.parse(call)
    valid = SORTS | {"locked"} if call.since(2, 73) else SORTS
    ignored = CONSTANT_SORTS if call.since(2, 75) else CONSTANT_SORTS | IGNORED_SORTS
    for key, _ in page.sorts:
        if key not in valid | ignored:
            raise BadRequest(f"Invalid input for query parameters sort_key. Value: {key}. It is not one of {', '.join(sorted(valid))}")
        if key in ADMIN_SORTS and not call.context.is_admin:
            raise Forbidden(f"Only administrators can sort servers by {key}")
    sorts = tuple((key, way) for key, way in page.sorts if key in valid)
    return replace(page, sorts=sorts or (("created_at", "desc"),))
