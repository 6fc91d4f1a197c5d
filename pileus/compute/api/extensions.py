"""/extensions: the names under which Nova listed what is offered here, for clients that still ask."""

from __future__ import annotations

from typing import Any

from pileus.compute.service import Compute
from pileus.errors import NotFound
from pileus.http.face import Call, Reply, Route

OFFERED = {
    "os-availability-zone": "AvailabilityZone",
    "os-config-drive": "ConfigDrive",
    "os-console-output": "ConsoleOutput",
    "os-extended-server-attributes": "ExtendedServerAttributes",
    "os-extended-status": "ExtendedStatus",
    "os-flavor-access": "FlavorAccess",
    "os-flavor-extra-specs": "FlavorExtraSpecs",
    "os-flavor-manage": "FlavorManage",
    "os-hypervisors": "Hypervisors",
    "os-instance-actions": "InstanceActions",
    "os-keypairs": "Keypairs",
    "os-lock-server": "LockServer",
    "os-pause-server": "PauseServer",
    "os-quota-sets": "Quotas",
    "os-server-external-events": "ServerExternalEvents",
    "os-services": "Services",
}


async def list_extensions(compute: Compute, call: Call) -> Reply:
    return Reply(body={"extensions": [_view(alias) for alias in OFFERED]})


async def show_extension(compute: Compute, call: Call) -> Reply:
    alias = call.path["alias"]
    if alias not in OFFERED:
        raise NotFound("The resource could not be found.")
    return Reply(body={"extension": _view(alias)})


def _view(alias: str) -> dict[str, Any]:
    name = OFFERED[alias]
    empty = {"namespace": "http://docs.openstack.org/compute/ext/fake_xml", "updated": "2014-12-03T00:00:00Z", "links": []}
    return {"alias": alias, "name": name, "description": f"{name}.", **empty}


ROUTES = [
    Route("GET", "/v2.1/extensions", list_extensions, "reader"),
    Route("GET", "/v2.1/extensions/{alias}", show_extension, "reader"),
]
