"""What a port may be, and who may have it so: what is found good before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden
from pileus.store.sql import Row

DHCP = "network:dhcp"
VNIC_TYPE = "normal"
MAX_PAIRS = 10


def check_vnic_type(vnic_type: str) -> None:
    """Raises BadRequest."""
    if vnic_type != VNIC_TYPE:
        raise BadRequest(f"binding:vnic_type {vnic_type!r} is not offered: only {VNIC_TYPE!r} is", kind="InvalidInput")


def check_wishes(context: Context, network: Row, wished: Collection[str], device_owner: str) -> None:
    """On another project's network nobody chooses an address or goes without its guards; a network's own ports are made by us."""
    if device_owner == DHCP:
        raise BadRequest(f"Invalid input for operation: device_owner {DHCP} is for the network's own DHCP port.", kind="InvalidInput")
    if context.sees(network["project_id"]):
        return
    if wished or device_owner.startswith("network:"):
        what = ", ".join(sorted(wished)) or f"device_owner {device_owner}"
        raise Forbidden(f"{what}: on another project's network only that project or an admin may set this.", kind="PolicyNotAuthorized")


def check_change(context: Context, port: Row, values: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    if "vnic_type" in values:
        check_vnic_type(values["vnic_type"])
    if port["device_owner"] == DHCP and not changes.keys() <= {"name", "description"}:
        raise Conflict(
            f"Port {port['id']} is the network's DHCP port: only its name and description can be changed.", kind="ServicePortInUse"
        )
    held = values.keys() & {"device_id", "device_owner", "host", "mac"}
    if port["server_id"] and values.get("server_id", port["server_id"]) not in (None, port["server_id"]):
        raise Conflict(f"Port {port['id']} is still in use.", kind="PortInUse")
    if port["server_id"] and held and not is_compute(context):
        raise Conflict(f"Port {port['id']} is in use by server {port['server_id']}: {', '.join(sorted(held))} stay.", kind="PortInUse")
    if port["host"] and "mac" in values:
        raise Conflict(f"Port {port['id']} is bound to a host: unbind it to change its MAC address.", kind="PortBound")


def check_groups(port: Row, after: Row, values: Mapping[str, Any]) -> None:
    """Groups filter nothing where port security is off. Raises BadRequest, Conflict."""
    if after["port_security"] or not after["security_groups"]:
        return
    if "security_groups" in values:
        raise no_security()
    raise Conflict(
        "Port has security group associated. Cannot disable port security or IP address until security group is removed.",
        kind="PortSecurityPortHasSecurityGroup",
    )


def checked_pairs(pairs: Sequence[Mapping[str, str | None]], mac: str, secure: bool) -> list[dict[str, str]]:
    """Address pairs with the port's MAC where none is given. Raises BadRequest, Conflict."""
    if not pairs:
        return []
    if not secure:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port.", kind="AddressPairAndPortSecurityRequired"
        )
    if len(pairs) > MAX_PAIRS:
        raise BadRequest(f"The number of allowed address pairs exceeds the maximum {MAX_PAIRS}.", kind="AllowedAddressPairExhausted")
    checked = [{"ip": str(pair["ip"]), "mac": pair.get("mac") or mac} for pair in pairs]
    if len({(pair["ip"], pair["mac"]) for pair in checked}) < len(checked):
        raise BadRequest("Request contains duplicate address pair.", kind="DuplicateAddressPairInRequest")
    return checked


def is_compute(context: Context) -> bool:
    """The service that has a server's ports over HTTP: for others they stay as they are while the server lives."""
    return "service" in context.roles


def no_security() -> BadRequest:
    return BadRequest(
        "Port security must be enabled and port must have an IP address in order to use security groups.",
        kind="PortSecurityAndIPRequiredForSecurityGroups",
    )


def mac_in_use(network_id: str, mac: str) -> Conflict:
    return Conflict(f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.", kind="MacAddressInUse")
