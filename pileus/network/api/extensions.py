"""/v2.0/extensions: exactly what is offered. Each alias is held by a test that uses it."""

from __future__ import annotations

from typing import Any

from pileus.errors import NotFound
from pileus.http.face import Call, Reply, Route
from pileus.network.api.lists import pick
from pileus.network.service import Network

OFFERED = {
    "address-group": ("Address group", "Support address group"),
    "agent": ("agent", "The agent management extension."),
    "allowed-address-pairs": ("Allowed Address Pairs", "Provides allowed address pairs"),
    "availability_zone": ("Availability Zone", "Lists the zones of agents."),
    "binding": ("Port Binding", "Expose port bindings of a virtual port to external application"),
    "empty-string-filtering": ("Empty String Filtering Extension", "Allow filtering by attributes with empty string value"),
    "filter-validation": ("Filter parameters validation", "Provides validation on filter parameters."),
    "ip-substring-filtering": ("IP address substring filtering", "Provides IP address substring filtering when listing ports"),
    "net-mtu": ("Network MTU", "Provides MTU attribute for a network resource."),
    "net-mtu-writable": ("Network MTU (writable)", "Provides a writable MTU attribute for a network resource."),
    "pagination": ("Pagination support", "Extension that indicates that pagination is enabled."),
    "port-security": ("Port Security", "Provides port security"),
    "port-security-groups-filtering": ("Port filtering on security groups", "Provides security groups filtering when listing ports"),
    "project-id": ("project_id field enabled", "Extension that indicates that project_id field is enabled."),
    "provider": ("Provider Network", "Expose mapping of virtual networks to physical networks"),
    "quota-check-limit": ("Quota engine limit check", "Support for checking the resource usage before applying a new quota limit"),
    "quota_details": ("Quota details management support", "Expose functions for quotas usage statistics per project"),
    "quotas": ("Quota management support", "Expose functions for quotas management per project"),
    "security-group": ("security-group", "The security groups extension."),
    "security-groups-normalized-cidr": (
        "Normalized CIDR field for security group rules",
        "Add new field with normalized remote_ip_prefix cidr in SG rule",
    ),
    "security-groups-remote-address-group": (
        "Remote address group id field for security group rules",
        "Add new field of remote address group id in SG rules",
    ),
    "security-groups-rules-belongs-to-default-sg": (
        "Security group rule belongs to the project's default security group",
        "Flag to determine if the security group rule belongs to the project's default security group",
    ),
    "security-groups-shared-filtering": (
        "Security group filtering on the shared field",
        "Support filtering security groups on the shared field",
    ),
    "sort-key-validation": ("Sort Key Validation", "Validate sort keys."),
    "sorting": ("Sorting support", "Extension that indicates that sorting is enabled."),
    "standard-attr-description": ("standard-attr-description", "Extension to add descriptions to standard attributes"),
    "standard-attr-revisions": ("Resource revision numbers", "This extension will display the revision number of resources."),
    "standard-attr-timestamp": ("Resource timestamps", "Adds created_at and updated_at fields to all resources."),
    "stateful-security-group": ("Stateful security group", "Indicates if the security group is stateful or not"),
}
UPDATED = "2026-11-01T00:00:00-00:00"


async def index(network: Network, call: Call) -> Reply:
    fields = call.http.query_params.getlist("fields")
    return Reply(200, {"extensions": [pick(_shape(alias), fields) for alias in OFFERED]})


async def show(network: Network, call: Call) -> Reply:
    if call.path["alias"] not in OFFERED:
        raise NotFound("Extension not found.", kind="HTTPNotFound")
    return Reply(200, {"extension": _shape(call.path["alias"])})


def _shape(alias: str) -> dict[str, Any]:
    name, description = OFFERED[alias]
    return {"alias": alias, "name": name, "description": description, "updated": UPDATED, "links": []}


ROUTES = [
    Route("GET", "/v2.0/extensions", index, "user"),
    Route("GET", "/v2.0/extensions/{alias}", show, "user"),
]
