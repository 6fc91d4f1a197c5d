"""POST /servers: the body, which keys it may have by microversion, and what is not offered. Source: Nova's api-ref, Create Server."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from pileus.clients.network import RequestedNic
from pileus.compute.api import forms
from pileus.errors import BadRequest
from pileus.http.face import Call
from pileus.http.microversions import Version

MOST_AT_ONCE = 1000
"""Servers of one request: they are written in one transaction, which others wait for."""
MOST_USER_DATA = 65535

DiskConfig = Literal["AUTO", "MANUAL"]


class NetworkEntry(forms.Body):
    uuid: str | None = None
    port: str | None = None
    fixed_ip: str | None = None
    tag: str | UnsetType = UNSET


class SecurityGroup(forms.Body):
    name: str


class NewServer(forms.Body):
    name: str
    flavor_ref: str | int = msgspec.field(name="flavorRef")
    image_ref: str = msgspec.field(default="", name="imageRef")
    networks: list[NetworkEntry] | Literal["auto", "none"] | UnsetType = UNSET
    key_name: str | None = None
    user_data: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    availability_zone: str | None = None
    config_drive: forms.Flag | None = None
    min_count: forms.Whole | UnsetType = UNSET
    max_count: forms.Whole | UnsetType = UNSET
    return_reservation_id: forms.Flag = False
    disk_config: DiskConfig = msgspec.field(default="MANUAL", name="OS-DCF:diskConfig")
    access_ip_v4: str | UnsetType = msgspec.field(default=UNSET, name="accessIPv4")
    access_ip_v6: str | UnsetType = msgspec.field(default=UNSET, name="accessIPv6")
    description: str | UnsetType | None = UNSET
    host: str | UnsetType = UNSET
    hypervisor_hostname: str | UnsetType = UNSET
    hostname: str | UnsetType = UNSET
    security_groups: list[SecurityGroup] = msgspec.field(default_factory=list)
    block_device_mapping: list[Any] = msgspec.field(default_factory=list)
    block_device_mapping_v2: list[dict[str, Any]] = msgspec.field(default_factory=list)
    admin_pass: str | UnsetType = msgspec.field(default=UNSET, name="adminPass")
    personality: list[Any] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    trusted_image_certificates: list[str] | UnsetType | None = UNSET


class CreateServer(forms.Body):
    server: NewServer
    hints: dict[str, Any] = msgspec.field(default_factory=dict, name="os:scheduler_hints")
    old_hints: dict[str, Any] = msgspec.field(default_factory=dict, name="OS-SCH-HNT:scheduler_hints")


SPANS: dict[str, tuple[Version, Version]] = {
    "description": ((2, 19), (9, 0)),
    "tags": ((2, 52), (9, 0)),
    "personality": ((2, 1), (2, 56)),
    "trusted_image_certificates": ((2, 63), (9, 0)),
    "host": ((2, 74), (9, 0)),
    "hypervisor_hostname": ((2, 74), (9, 0)),
    "hostname": ((2, 90), (9, 0)),
}
"""Keys of the body that are not in every microversion: first and last that has it."""


def check_keys(call: Call, given: msgspec.Struct, spans: dict[str, tuple[Version, Version]] = SPANS) -> None:
    """Refuse keys that this microversion does not have. Raises BadRequest."""
    for key, (since, until) in spans.items():
        if getattr(given, key, UNSET) is not UNSET and not since <= call.version <= until:
            raise unexpected(key)


def unexpected(key: str) -> BadRequest:
    return BadRequest(f"Additional properties are not allowed ({key!r} was unexpected)")


def refuse_unoffered(body: CreateServer) -> None:
    """What Nova takes and Pileus does not do is refused, never ignored. Raises BadRequest with a sentence."""
    given = body.server
    if given.admin_pass is not UNSET:
        raise BadRequest("adminPass: setting a guest's password is not offered; use key_name, or user_data")
    if given.personality is not UNSET and given.personality:
        raise BadRequest("personality: injecting files is not offered; use user_data")
    if given.tags is not UNSET and given.tags:
        raise BadRequest("tags: server tags are not offered; use metadata")
    if given.trusted_image_certificates is not UNSET and given.trusted_image_certificates:
        raise BadRequest("trusted_image_certificates: signed images are not offered; leave it out")
    if body.hints or body.old_hints:
        raise BadRequest("os:scheduler_hints: scheduler hints are not offered; use availability_zone or, as an admin, host")
    if given.block_device_mapping or not all(_is_plain_root(disk, given.image_ref) for disk in given.block_device_mapping_v2):
        raise BadRequest("block_device_mapping: volumes are not offered; boot from imageRef, or without it from a blank disk")


def _is_plain_root(disk: dict[str, Any], image: str) -> bool:
    """The root disk made from the image, which clients write down though it is what happens anyway."""
    plain = {"source_type": ("image",), "destination_type": ("local",), "boot_index": (0, "0"), "uuid": (image,)}
    free = {"delete_on_termination"}
    return bool(image) and "uuid" in disk and all(key in free or disk[key] in plain.get(key, ()) for key in disk)


def networks(call: Call, given: NewServer) -> list[RequestedNic] | Literal["auto", "none"]:
    """What the server is to be connected to. Left out means `auto` before 2.37; an empty list means the same. Raises BadRequest."""
    wanted = given.networks
    if wanted is UNSET:
        if call.since(2, 37):
            raise BadRequest("Invalid input for field/attribute server. 'networks' is a required property")
        return "auto"
    if isinstance(wanted, str):
        if not call.since(2, 37):
            raise forms.invalid("networks", wanted, "expected a list")
        return wanted
    if not wanted:
        return "auto"
    found = [_nic(call, entry, f"networks.{index}") for index, entry in enumerate(wanted)]
    ports = [nic.port_id for nic in found if nic.port_id]
    for port in set(ports):
        if ports.count(port) > 1:
            raise BadRequest(f"Port ID '{port}' was specified twice: you cannot attach a port multiple times.")
    return found


def _nic(call: Call, entry: NetworkEntry, where: str) -> RequestedNic:
    tag = None
    if entry.tag is not UNSET:
        if not ((2, 32) <= call.version <= (2, 36) or call.since(2, 42)):
            raise unexpected("tag")
        tag = entry.tag
        if not 1 <= len(tag) <= 60 or "," in tag or "/" in tag:
            raise forms.invalid(f"{where}.tag", tag, "expected 1 to 60 characters without , and /")
    address = None if entry.fixed_ip is None else forms.address(entry.fixed_ip, f"{where}.fixed_ip")
    if entry.port is not None:
        if address is not None:
            raise BadRequest(
                f"Specified Fixed IP '{address}' cannot be used with port '{entry.port}': the two cannot be specified together."
            )
        return RequestedNic(port_id=forms.uid(entry.port, f"{where}.port"), tag=tag)
    if entry.uuid is None:
        raise BadRequest("Bad network format: missing 'uuid'")
    return RequestedNic(network_id=forms.uid(entry.uuid, f"{where}.uuid"), fixed_ip=address, tag=tag)


def counts(given: NewServer) -> tuple[int, int]:
    """How many servers, at least and at most. Raises BadRequest."""
    least = 1 if given.min_count is UNSET else forms.whole(given.min_count, "min_count", 1)
    most = least if given.max_count is UNSET else forms.whole(given.max_count, "max_count", 1)
    if least > most:
        raise BadRequest("min_count must be <= max_count")
    if most > MOST_AT_ONCE:
        raise forms.invalid("max_count", most, f"expected at most {MOST_AT_ONCE} servers in one request")
    return least, most


def user_data(given: NewServer) -> str | None:
    """Raises BadRequest for what is not base64 or too long."""
    if given.user_data is None:
        return None
    if len(given.user_data) > MOST_USER_DATA:
        raise BadRequest(f"User data too large. User data must be no larger than {MOST_USER_DATA} bytes once base64 encoded.")
    try:
        base64.b64decode(given.user_data.replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise forms.invalid("user_data", given.user_data, "expected base64") from None
    return given.user_data


def zone_and_host(call: Call, given: NewServer) -> tuple[str | None, str | None]:
    """The zone and the host asked for: `zone`, `zone:host` (admins), or the keys of 2.74. Raises BadRequest."""
    zone, host = given.availability_zone or None, None
    if zone is not None and ":" in zone:
        parts = zone.split(":")
        if len(parts) > 3:
            raise BadRequest("Unable to parse availability_zone; expected zone, zone:host or zone:host:node")
        zone, hosts = parts[0] or None, [part for part in parts[1:] if part]
        if len(set(hosts)) > 1:
            raise BadRequest(f"Compute host {hosts[0]} has no node {hosts[1]}: a host's only node has its name")
        host = hosts[0] if hosts else None
    asked = {one for one in (given.host, given.hypervisor_hostname) if one is not UNSET}
    if asked and host is not None:
        raise BadRequest(
            "One mechanism with host and/or hypervisor_hostname and another mechanism with zone:host:node are mutually exclusive."
        )
    if len(asked) > 1:
        raise BadRequest("host and hypervisor_hostname differ: a host's only node has its name")
    return zone, host or next(iter(asked), None)
