"""Version discovery, and what each microversion changes here. Source: Nova's REST API version history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pileus.compute.api.shape import VERSION_PATH
from pileus.compute.service import Compute
from pileus.http.face import Call, Reply, Route
from pileus.http.microversions import Version, show


@dataclass(frozen=True)
class Microversion:
    """`changes`: what it changes here. Empty: it concerns `feature` alone, and that is not offered here or is the same in all versions."""

    version: Version
    feature: str
    changes: str = ""


MICROVERSIONS = (
    Microversion((2, 1), "the API", "servers, flavors, keypairs, hypervisors, services, quotas as of the first version"),
    Microversion((2, 2), "keypairs", "type of a keypair; create answers 201, delete 204"),
    Microversion((2, 3), "server attributes", "hostname, reservation id, launch index, kernel, ramdisk, root device, user data for admins"),
    Microversion((2, 4), "os-fixed-ips"),
    Microversion((2, 5), "servers list", "filter ip6 for everyone"),
    Microversion((2, 6), "remote consoles"),
    Microversion((2, 7), "flavor access", "adding access to a public flavor is a conflict"),
    Microversion((2, 8), "remote consoles"),
    Microversion((2, 9), "servers", "locked"),
    Microversion((2, 10), "keypairs", "user_id: admins act for other users"),
    Microversion((2, 11), "services", "forced_down, shown and settable"),
    Microversion((2, 12), "os-virtual-interfaces"),
    Microversion((2, 13), "server groups"),
    Microversion((2, 14), "evacuate", "onSharedStorage is gone"),
    Microversion((2, 15), "server groups"),
    Microversion((2, 16), "servers", "host_status for admins"),
    Microversion((2, 17), "crash dump"),
    Microversion((2, 18), "project ids in paths"),
    Microversion((2, 19), "servers", "description"),
    Microversion((2, 20), "volumes"),
    Microversion((2, 21), "instance actions", "those of deleted servers too"),
    Microversion((2, 22), "live migration"),
    Microversion((2, 23), "migrations"),
    Microversion((2, 24), "live migration"),
    Microversion((2, 25), "live migration"),
    Microversion(
        (2, 26), "server tags", "an empty list of tags on each server, and the tag filters (server tags themselves are not offered)"
    ),
    Microversion((2, 27), "microversion header"),
    Microversion((2, 28), "hypervisors", "cpu_info as an object"),
    Microversion((2, 29), "evacuate", "force, with a host"),
    Microversion((2, 30), "live migration"),
    Microversion((2, 31), "console tokens"),
    Microversion((2, 32), "servers create", "tag of a network"),
    Microversion((2, 33), "hypervisors", "paging"),
    Microversion((2, 34), "live migration"),
    Microversion((2, 35), "keypairs", "paging"),
    Microversion((2, 36), "quotas and limits", "those of networks are gone"),
    Microversion((2, 37), "servers create", "networks is required: a list, auto or none; its tag is gone"),
    Microversion((2, 38), "servers list", "an unknown status is refused"),
    Microversion((2, 39), "limits", "maxImageMeta is gone"),
    Microversion((2, 40), "tenant usage"),
    Microversion((2, 41), "aggregates"),
    Microversion((2, 42), "servers create", "tag of a network is back"),
    Microversion((2, 43), "os-hosts"),
    Microversion((2, 44), "addresses as actions"),
    Microversion((2, 45), "snapshots"),
    Microversion((2, 46), "request id header"),
    Microversion((2, 47), "servers", "the flavor itself instead of a link to it"),
    Microversion((2, 48), "diagnostics"),
    Microversion((2, 49), "attaching with tags"),
    Microversion((2, 50), "quota classes"),
    Microversion((2, 51), "external events, instance actions", "event volume-extended; an action's events for everyone"),
    Microversion((2, 52), "servers create", "tags are a known key (refused: server tags are not offered)"),
    Microversion((2, 53), "services, hypervisors", "ids are UUIDs; one PUT for a service; searching and servers as query parameters"),
    Microversion((2, 54), "rebuild"),
    Microversion((2, 55), "flavors", "description, and PUT to change it"),
    Microversion((2, 56), "migrate"),
    Microversion((2, 57), "servers create, quotas, limits", "personality and what belongs to it are gone"),
    Microversion((2, 58), "instance actions", "paging, changes-since, updated_at"),
    Microversion((2, 59), "migrations"),
    Microversion((2, 60), "volumes"),
    Microversion((2, 61), "flavors", "extra_specs in the flavor"),
    Microversion((2, 62), "instance actions", "host (admins) and hostId of an event"),
    Microversion((2, 63), "servers", "trusted_image_certificates, always null (asking for some is refused)"),
    Microversion((2, 64), "server groups"),
    Microversion((2, 65), "live migration"),
    Microversion((2, 66), "servers list, instance actions", "changes-before"),
    Microversion((2, 67), "volumes"),
    Microversion((2, 68), "live migration, evacuate", "force is gone"),
    Microversion((2, 69), "cells that are down"),
    Microversion((2, 70), "server interfaces", "tag of an interface"),
    Microversion((2, 71), "servers", "server_groups, always empty"),
    Microversion((2, 72), "ports with resource requests"),
    Microversion((2, 73), "servers", "a reason for the lock; locked as filter and sort key"),
    Microversion((2, 74), "servers create", "host and hypervisor_hostname"),
    Microversion(
        (2, 75),
        "everywhere",
        "unknown query parameters are refused; update answers the whole server; swap is 0, not empty; servers of a hypervisor",
    ),
    Microversion((2, 76), "external events", "power-update"),
    Microversion((2, 77), "unshelve"),
    Microversion((2, 78), "server topology"),
    Microversion((2, 79), "volumes"),
    Microversion((2, 80), "migrations"),
    Microversion((2, 81), "image cache"),
    Microversion((2, 82), "external events", "accelerator-request-bound"),
    Microversion((2, 83), "servers list", "more filters for everyone"),
    Microversion((2, 84), "instance actions", "details of a failed event"),
    Microversion((2, 85), "volumes"),
    Microversion((2, 86), "checking of extra specs"),
    Microversion((2, 87), "rescue"),
    Microversion((2, 88), "hypervisors", "figures are gone, uptime is in the details, no statistics"),
    Microversion((2, 89), "volumes"),
    Microversion((2, 90), "servers", "hostname on create and update, shown to everyone"),
    Microversion((2, 91), "unshelve"),
    Microversion((2, 92), "keypairs", "none are generated; @ and . in names"),
    Microversion((2, 93), "external events", "volume-reimaged"),
    Microversion((2, 94), "servers", "hostname with dots"),
    Microversion((2, 95), "evacuate", "the server is left stopped"),
    Microversion((2, 96), "servers", "pinned_availability_zone"),
)

FIRST = MICROVERSIONS[0].version
LAST = MICROVERSIONS[-1].version


async def list_versions(compute: Compute, call: Call) -> Reply:
    version = _describe() | {"links": [_self(call)]}
    return Reply(body={"versions": [version]})


async def show_version(compute: Compute, call: Call) -> Reply:
    media = [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}]
    return Reply(body={"version": _describe() | {"links": [_self(call)], "media-types": media}})


def _describe() -> dict[str, Any]:
    return {"id": "v2.1", "status": "CURRENT", "version": show(LAST), "min_version": show(FIRST), "updated": "2013-07-23T11:33:21Z"}


def _self(call: Call) -> dict[str, str]:
    return {"rel": "self", "href": f"{call.base}{VERSION_PATH}/"}


ROUTES = [
    Route("GET", "/", list_versions, "anyone"),
    Route("GET", "/v2.1", show_version, "anyone"),
    Route("GET", "/v2.1/", show_version, "anyone"),
]
