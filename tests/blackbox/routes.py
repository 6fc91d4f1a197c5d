"""Every route of the five faces, with a body that each writing one takes, and the form that each service's refusals have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from pileus.compute.api.face import ROUTES as COMPUTE
from pileus.http.face import Route
from pileus.http.microversions import Version
from pileus.identity.api.face import ROUTES as IDENTITY
from pileus.image.api.face import ROUTES as IMAGE
from pileus.network.api.face import ROUTES as NETWORK
from pileus.placement.api.face import ROUTES as PLACEMENT

ROUTES: dict[str, list[Route[Any]]] = {
    "identity": [*IDENTITY],
    "image": [*IMAGE],
    "placement": [*PLACEMENT],
    "compute": [*COMPUTE],
    "network": [*NETWORK],
}
EVERY: list[tuple[str, Route[Any]]] = [(service, route) for service, routes in ROUTES.items() for route in routes]
LATEST: dict[str, Version] = {"compute": (2, 96), "placement": (1, 39)}
PATCH = "application/openstack-images-v2.1-json-patch"
DATA = "application/octet-stream"

X = "00000000-0000-4000-8000-000000000001"
_USER = {"name": "u", "domain_id": "default", "password": "p", "enabled": True, "default_project_id": "d", "description": "", "email": "e"}
_PROJECT = {"name": "p", "domain_id": "default", "parent_id": "default", "enabled": True, "description": "", "tags": [], "options": {}}
_INVENTORY = {
    "total": 10,
    "reserved": 1,
    "min_unit": 1,
    "max_unit": 5,
    "step_size": 1,
    "allocation_ratio": 1.5,
    "resource_provider_generation": 0,
}
_ALLOCATION = {
    "allocations": {X: {"resources": {"VCPU": 1}}},
    "project_id": "p",
    "user_id": "u",
    "consumer_generation": None,
    "consumer_type": "INSTANCE",
}
_SERVER = {
    "name": "s",
    "flavorRef": "1",
    "imageRef": "",
    "networks": [{"uuid": X, "tag": "t"}],
    "min_count": 1,
    "max_count": 1,
    "metadata": {"k": "v"},
    "user_data": "QQ==",
    "availability_zone": "nova",
    "config_drive": True,
    "key_name": "k",
    "description": "d",
    "hostname": "h",
    "OS-DCF:diskConfig": "AUTO",
    "accessIPv4": "1.2.3.4",
    "accessIPv6": "::1",
    "security_groups": [{"name": "default"}],
}
_DISK = {"boot_index": 0, "uuid": X, "source_type": "image", "destination_type": "local"}
_NETWORK = {
    "name": "n",
    "admin_state_up": True,
    "shared": False,
    "mtu": 1400,
    "description": "",
    "port_security_enabled": True,
    "provider:network_type": "vlan",
    "provider:physical_network": "simulated",
    "provider:segmentation_id": 99,
    "router:external": False,
    "project_id": "p",
}
_SUBNET = {
    "name": "s",
    "network_id": X,
    "cidr": "10.12.0.0/24",
    "ip_version": 4,
    "gateway_ip": "10.12.0.1",
    "enable_dhcp": True,
    "allocation_pools": [{"start": "10.12.0.5", "end": "10.12.0.9"}],
    "dns_nameservers": ["9.9.9.9"],
    "host_routes": [{"destination": "10.8.0.0/16", "nexthop": "10.12.0.4"}],
}
_PORT = {
    "name": "p",
    "network_id": X,
    "admin_state_up": True,
    "mac_address": "02:00:00:00:00:01",
    "fixed_ips": [{"ip_address": "10.9.0.6", "subnet_id": X}],
    "allowed_address_pairs": [{"ip_address": "10.9.0.7", "mac_address": "02:00:00:00:00:02"}],
    "port_security_enabled": True,
    "device_id": "",
    "device_owner": "",
    "binding:host_id": "",
    "binding:profile": {},
    "binding:vnic_type": "normal",
    "security_groups": [],
}
_GROUP = {"name": "g", "description": "", "stateful": True}
_RULE = {
    "security_group_id": X,
    "direction": "ingress",
    "ethertype": "IPv4",
    "protocol": "tcp",
    "port_range_min": 1,
    "port_range_max": 9,
    "remote_ip_prefix": "10.0.0.0/8",
    "remote_group_id": None,
    "remote_address_group_id": None,
    "description": "",
}
_FLAVOR = {
    "name": "f",
    "id": "auto",
    "ram": 64,
    "vcpus": 1,
    "disk": 1,
    "swap": 0,
    "OS-FLV-EXT-DATA:ephemeral": 0,
    "rxtx_factor": 1.0,
    "os-flavor-access:is_public": True,
    "description": "d",
}
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJVFnfj8fU7oh6gBC/xmRlKRzeawjsmyILraFIEEdihO x"

NOTHING = object()
"""A writing route that takes no body."""

BODIES: Mapping[tuple[str, str, str], Any] = {
    ("identity", "POST", "/v3/auth/tokens"): {
        "auth": {
            "identity": {
                "methods": ["password", "token"],
                "password": {"user": {"name": "n", "id": "i", "domain": {"id": "default", "name": "Default"}, "password": "p"}},
                "token": {"id": "t"},
            },
            "scope": {"project": {"id": "i", "name": "admin", "domain": {"id": "default"}}},
        }
    },
    ("identity", "POST", "/v3/projects"): {"project": _PROJECT},
    ("identity", "PATCH", "/v3/projects/{project}"): {"project": _PROJECT},
    ("identity", "POST", "/v3/users"): {"user": _USER},
    ("identity", "PATCH", "/v3/users/{user}"): {"user": _USER},
    ("identity", "POST", "/v3/users/{user}/password"): {"user": {"original_password": "p", "password": "q"}},
    ("identity", "POST", "/v3/domains"): {"domain": {"name": "d", "enabled": True, "description": "", "options": {}}},
    ("identity", "PATCH", "/v3/domains/{domain}"): {"domain": {"name": "d", "enabled": True, "description": ""}},
    ("identity", "POST", "/v3/roles"): {"role": {"name": "r", "description": "", "domain_id": None, "options": {}}},
    ("identity", "PATCH", "/v3/roles/{role}"): {"role": {"name": "r", "description": ""}},
    ("identity", "PUT", "/v3/projects/{project}/users/{user}/roles/{role}"): NOTHING,
    ("identity", "PUT", "/v3/domains/{domain}/users/{user}/roles/{role}"): NOTHING,
    ("image", "POST", "/v2/images"): {
        "name": "i",
        "id": X,
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "private",
        "min_ram": 1,
        "min_disk": 1,
        "protected": False,
        "os_hidden": False,
        "tags": ["t"],
        "owner": "o",
        "hw_x": "y",
    },
    ("image", "PATCH", "/v2/images/{id}"): [
        {"op": "replace", "path": "/name", "value": "n"},
        {"op": "add", "path": "/hw_x", "value": "y"},
        {"op": "replace", "path": "/min_ram", "value": 2},
        {"op": "remove", "path": "/hw_x"},
    ],
    ("image", "POST", "/v2/images/{id}/actions/deactivate"): NOTHING,
    ("image", "POST", "/v2/images/{id}/actions/reactivate"): NOTHING,
    ("image", "PUT", "/v2/images/{id}/file"): "data",
    ("image", "PUT", "/v2/images/{id}/tags/{tag}"): NOTHING,
    ("image", "POST", "/v2/images/{id}/members"): {"member": "p"},
    ("image", "PUT", "/v2/images/{id}/members/{member}"): {"status": "accepted"},
    ("placement", "POST", "/resource_providers"): {"name": "rp", "uuid": X, "parent_provider_uuid": None},
    ("placement", "PUT", "/resource_providers/{uuid}"): {"name": "rp", "parent_provider_uuid": None},
    ("placement", "PUT", "/resource_providers/{uuid}/inventories"): {
        "resource_provider_generation": 0,
        "inventories": {"VCPU": {key: value for key, value in _INVENTORY.items() if key != "resource_provider_generation"}},
    },
    ("placement", "POST", "/resource_providers/{uuid}/inventories"): {"resource_class": "VCPU", **_INVENTORY},
    ("placement", "PUT", "/resource_providers/{uuid}/inventories/{name}"): _INVENTORY,
    ("placement", "PUT", "/allocations/{consumer}"): _ALLOCATION,
    ("placement", "POST", "/allocations"): {X: _ALLOCATION},
    ("placement", "POST", "/resource_classes"): {"name": "CUSTOM_X"},
    ("placement", "PUT", "/resource_classes/{name}"): {"name": "CUSTOM_Y"},
    ("compute", "POST", "/v2.1/flavors"): {"flavor": _FLAVOR},
    ("compute", "PUT", "/v2.1/flavors/{id}"): {"flavor": {"description": "d"}},
    ("compute", "POST", "/v2.1/flavors/{id}/action"): {"addTenantAccess": {"tenant": "p"}},
    ("compute", "POST", "/v2.1/flavors/{id}/os-extra_specs"): {"extra_specs": {"a:b": "c"}},
    ("compute", "PUT", "/v2.1/flavors/{id}/os-extra_specs/{key}"): {"x": "y"},
    ("compute", "POST", "/v2.1/os-keypairs"): {"keypair": {"name": "k", "type": "ssh", "public_key": _KEY, "user_id": "u"}},
    ("compute", "POST", "/v2.1/servers"): {"server": _SERVER, "os:scheduler_hints": {}},
    ("compute", "PUT", "/v2.1/servers/{id}"): {
        "server": {"name": "n", "description": "d", "hostname": "h", "OS-DCF:diskConfig": "AUTO", "accessIPv4": "1.2.3.4"}
    },
    ("compute", "POST", "/v2.1/servers/{id}/action"): {"reboot": {"type": "SOFT"}},
    ("compute", "POST", "/v2.1/servers/{id}/metadata"): {"metadata": {"k": "v"}},
    ("compute", "PUT", "/v2.1/servers/{id}/metadata"): {"metadata": {"k": "v"}},
    ("compute", "PUT", "/v2.1/servers/{id}/metadata/{key}"): {"meta": {"x": "v"}},
    ("compute", "POST", "/v2.1/os-server-external-events"): {
        "events": [{"name": "network-changed", "server_uuid": X, "status": "completed", "tag": "t"}]
    },
    ("compute", "PUT", "/v2.1/os-services/{id}"): {"status": "enabled", "forced_down": False},
    ("compute", "PUT", "/v2.1/os-quota-sets/{project}"): {"quota_set": {"instances": 5, "cores": -1, "ram": 1, "force": True}},
    ("network", "POST", "/v2.0/networks"): {"network": _NETWORK},
    ("network", "PUT", "/v2.0/networks/{id}"): {"network": {key: _NETWORK[key] for key in ("name", "shared", "mtu", "admin_state_up")}},
    ("network", "POST", "/v2.0/subnets"): {"subnet": _SUBNET},
    ("network", "PUT", "/v2.0/subnets/{id}"): {
        "subnet": {key: value for key, value in _SUBNET.items() if key not in ("network_id", "cidr", "ip_version")}
    },
    ("network", "POST", "/v2.0/ports"): {"port": _PORT},
    ("network", "PUT", "/v2.0/ports/{id}"): {"port": {key: value for key, value in _PORT.items() if key != "network_id"}},
    ("network", "POST", "/v2.0/security-groups"): {"security_group": _GROUP},
    ("network", "PUT", "/v2.0/security-groups/{id}"): {"security_group": _GROUP},
    ("network", "POST", "/v2.0/security-group-rules"): {"security_group_rule": _RULE},
    ("network", "PUT", "/v2.0/security-group-rules/{id}"): {"security_group_rule": {"description": "d"}},
    ("network", "POST", "/v2.0/address-groups"): {"address_group": {"name": "a", "description": "", "addresses": ["10.0.0.0/8"]}},
    ("network", "PUT", "/v2.0/address-groups/{id}"): {"address_group": {"name": "a", "description": ""}},
    ("network", "PUT", "/v2.0/address-groups/{id}/add_addresses"): {"addresses": ["10.0.0.0/8"]},
    ("network", "PUT", "/v2.0/address-groups/{id}/remove_addresses"): {"addresses": ["10.0.0.0/8"]},
    ("network", "PUT", "/v2.0/quotas/{project_id}"): {"quota": {"network": 5, "subnet": -1, "port": 1, "security_group": 9}},
}

MORE: Mapping[tuple[str, str, str], list[Any]] = {
    ("compute", "POST", "/v2.1/servers"): [
        {"server": {"name": "s", "flavorRef": "1", "networks": [{"uuid": X, "fixed_ip": "10.9.0.20"}]}},
        {"server": {"name": "s", "flavorRef": "1", "networks": [{"port": X}]}},
        {"server": {"name": "s", "flavorRef": "1", "networks": "none", "min_count": 1, "max_count": 3, "return_reservation_id": True}},
        {"server": {"name": "s", "flavorRef": "1", "networks": "auto", "imageRef": X, "block_device_mapping_v2": [_DISK]}},
        {"server": {"name": "s", "flavorRef": "1", "networks": "none", "host": "h", "hypervisor_hostname": "h", "tags": ["t"]}},
    ],
    ("compute", "POST", "/v2.1/servers/{id}/action"): [
        {"os-start": None},
        {"os-stop": None},
        {"pause": None},
        {"unpause": None},
        {"lock": {"locked_reason": "r"}},
        {"unlock": None},
        {"reboot": {"type": "HARD"}},
        {"os-getConsoleOutput": {"length": 5}},
        {"addSecurityGroup": {"name": "default"}},
        {"removeSecurityGroup": {"name": "default"}},
        {"os-resetState": {"state": "active"}},
        {"resize": {"flavorRef": "2"}},
    ],
    ("compute", "PUT", "/v2.1/os-services/{id}"): [
        {"status": "disabled", "disabled_reason": "r"},
        {"host": "h", "binary": "nova-compute", "disabled_reason": "r", "forced_down": True},
    ],
    ("compute", "POST", "/v2.1/flavors/{id}/action"): [{"removeTenantAccess": {"tenant": "p"}}],
    ("network", "POST", "/v2.0/networks"): [{"network": {"name": "n"}}, {"networks": [{"name": "a"}, {"name": "b"}]}],
    ("network", "POST", "/v2.0/subnets"): [{"subnets": [_SUBNET, {"network_id": X, "cidr": "fd00::/64", "ip_version": 6}]}],
    ("network", "POST", "/v2.0/ports"): [{"port": {"network_id": X}}, {"ports": [{"network_id": X}, {"network_id": X, "name": "p"}]}],
    ("network", "POST", "/v2.0/security-groups"): [{"security_groups": [{"name": "a"}, {"name": "b", "stateful": False}]}],
    ("network", "POST", "/v2.0/security-group-rules"): [
        {"security_group_rules": [{"security_group_id": X, "direction": "egress"}, {**_RULE, "protocol": "icmp", "ethertype": "IPv6"}]}
    ],
    ("network", "PUT", "/v2.0/ports/{id}"): [{"port": {"name": "q", "fixed_ips": [{"ip_address": "10.9.0.30"}]}}],
    ("network", "PUT", "/v2.0/subnets/{id}"): [{"subnet": {"name": "q", "dns_nameservers": ["9.9.9.9"], "gateway_ip": "10.9.0.1"}}],
    ("placement", "PUT", "/resource_providers/{uuid}"): [{"name": "other"}],
    ("placement", "PUT", "/resource_providers/{uuid}/inventories"): [
        {"resource_provider_generation": generation, "inventories": {"VCPU": {"total": 64}, "MEMORY_MB": {"total": 262144}}}
        for generation in range(6)
    ],
    ("placement", "PUT", "/resource_providers/{uuid}/inventories/{name}"): [
        {"total": 4096, "resource_provider_generation": generation} for generation in range(6)
    ],
    ("placement", "POST", "/resource_providers/{uuid}/inventories"): [{"resource_class": "PCPU", "total": 3}],
    ("image", "PATCH", "/v2/images/{id}"): [
        [{"op": "add", "path": "/tags", "value": ["a"]}],
        [{"op": "replace", "path": "/visibility", "value": "shared"}],
        [{"op": "replace", "path": "/owner", "value": "o"}],
    ],
    ("placement", "PUT", "/allocations/{consumer}"): [
        {"allocations": [{"resource_provider": {"uuid": X}, "resources": {"VCPU": 1}}], "project_id": "p", "user_id": "u"},
        {"allocations": {}, "project_id": "p", "user_id": "u", "consumer_generation": None, "consumer_type": "T"},
    ],
}
"""Other good bodies of a route."""


def body_of(service: str, route: Route[Any]) -> Any:
    """A body the route takes; NOTHING where it takes none."""
    if route.path == "/resource_classes/{name}" and route.since >= (1, 7):
        return NOTHING
    return BODIES.get((service, route.method, route.path), NOTHING)


def media_of(service: str, route: Route[Any]) -> str:
    """The content type that the route takes."""
    if service == "image" and route.method == "PATCH":
        return PATCH
    return DATA if service == "image" and route.path.endswith("/file") else "application/json"


def version_of(service: str, route: Route[Any]) -> dict[str, str]:
    """The header of the latest microversion that has the route."""
    if service not in LATEST:
        return {}
    major, minor = min(route.until, LATEST[service])
    return {"OpenStack-API-Version": f"{service} {major}.{minor}"}


def check_fault(service: str, answer: httpx.Response) -> None:
    """A refusal is in the service's own form, with a sentence, and has a request id."""
    what = (answer.request.method, str(answer.request.url), answer.status_code, answer.text)
    assert answer.headers["x-openstack-request-id"].startswith("req-"), what
    if service == "image" and "json" not in answer.request.headers.get("accept", ""):
        assert answer.headers["content-type"].startswith("text/html"), what
        assert f"<h1>{answer.status_code} " in answer.text, what
        return
    assert answer.headers["content-type"] == "application/json", what
    body = answer.json()
    if service == "identity":
        assert body["error"].keys() == {"code", "message", "title"} and body["error"]["code"] == answer.status_code, what
        said = body["error"]["message"]
    elif service == "compute":
        (inner,) = body.values()
        assert inner.keys() == {"code", "message"} and inner["code"] == answer.status_code, what
        said = inner["message"]
    elif service == "network":
        assert body["NeutronError"].keys() == {"type", "message", "detail"} and body["NeutronError"]["type"], what
        said = body["NeutronError"]["message"]
    elif service == "placement":
        (inner,) = body["errors"]
        assert inner.keys() == {"status", "title", "detail", "code", "request_id"} and inner["status"] == answer.status_code, what
        said = inner["detail"]
    else:
        assert body.keys() == {"message", "code", "title"} and body["code"].startswith(str(answer.status_code)), what
        said = body["message"]
    assert said, what
