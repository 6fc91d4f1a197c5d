"""openstacksdk as its users use it, and what other projects' people can and cannot do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from openstack.exceptions import ConflictException, ForbiddenException, HttpException, NotFoundException, ResourceFailure

from pileus.settings import Settings
from tests.blackbox.cloud import Cloud, Person, fresh

DATA = os.urandom((2 << 20) + 17)


def connect(cloud: Cloud, person: Person | None = None) -> Any:
    """As clouds.yaml says; as somebody else, with their user and project in its place."""
    region = OpenStackConfig(config_files=[str(cloud.clouds_yaml)], load_envvars=False)
    other = {} if person is None else {"username": person.name, "password": person.password, "project_name": person.project}
    auth = {"auth_url": f"{cloud.url}/identity", "user_domain_id": "default", "project_domain_id": "default", **other}
    return Connection(config=region.get_one("pileus") if person is None else region.get_one("pileus", auth=auth))


@pytest.fixture(scope="module")
def sdk(cloud: Cloud) -> Iterator[Any]:
    with connect(cloud) as connection:
        yield connection


@pytest.fixture(scope="module")
def mine(cloud: Cloud, member: Person) -> Iterator[Any]:
    """A member's connection."""
    with connect(cloud, member) as connection:
        yield connection


def wait(connection: Any, server: Any, status: str = "ACTIVE") -> Any:
    return connection.compute.wait_for_server(server, status=status, interval=0.02, wait=60)


def wait_gone(connection: Any, *servers: Any) -> None:
    for server in servers:
        connection.compute.delete_server(server.id, ignore_missing=False)
    for server in servers:
        connection.compute.wait_for_delete(server, interval=0.02, wait=60)


def test_images(mine: Any, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(DATA)
    name = fresh("image")
    image = mine.create_image(name, filename=str(source), disk_format="raw", container_format="bare", wait=True, hw_x="y")
    image = mine.image.get_image(image.id)
    assert (image.status, image.size, image.properties["hw_x"]) == ("active", len(DATA), "y")
    assert (image.checksum, image.hash_value) == (hashlib.md5(DATA).hexdigest(), hashlib.sha512(DATA).hexdigest())
    mine.image.download_image(image, output=str(copy), stream=True)
    assert copy.read_bytes() == DATA
    assert mine.image.update_image(image, name=f"{name}-2", hw_x="z").properties["hw_x"] == "z"
    assert [found.id for found in mine.image.images(name=f"{name}-2")] == [image.id]
    mine.image.delete_image(image.id, ignore_missing=False)
    assert mine.image.find_image(f"{name}-2") is None


def test_networks_subnets_ports(mine: Any) -> None:
    network = mine.network.create_network(name=fresh("net"))
    subnet = mine.network.create_subnet(network_id=network.id, cidr="10.50.0.0/24", ip_version=4, gateway_ip=None)
    assert (subnet.gateway_ip, subnet.allocation_pools) == (None, [{"start": "10.50.0.1", "end": "10.50.0.254"}])
    ports = list(mine.network.create_ports([{"network_id": network.id, "name": f"p{index}"} for index in range(7)]))
    listed = [port.name for port in mine.network.ports(network_id=network.id, limit=3, device_owner="")]
    assert sorted(listed) == [f"p{index}" for index in range(7)]
    changed = mine.network.update_port(ports[0], name="other", allowed_address_pairs=[{"ip_address": "10.50.0.200"}])
    assert (changed.name, changed.allowed_address_pairs[0]["ip_address"]) == ("other", "10.50.0.200")
    with pytest.raises(ConflictException):
        mine.network.delete_network(network, ignore_missing=False)
    for port in ports:
        mine.network.delete_port(port, ignore_missing=False)
    mine.network.delete_network(network, ignore_missing=False)
    assert mine.network.find_subnet(subnet.id) is None


def test_a_server(mine: Any) -> None:
    name = fresh("server")
    network = mine.network.create_network(name=fresh("net"))
    mine.network.create_subnet(network_id=network.id, cidr="10.51.0.0/24", ip_version=4)
    flavor = mine.compute.find_flavor("m1.nano")
    server = mine.compute.create_server(name=name, flavor_id=flavor.id, networks=[{"uuid": network.id}], metadata={"a": "b"})
    server = wait(mine, server)
    ((address,),) = server.addresses.values()
    assert address["addr"].startswith("10.51.0.") and address["OS-EXT-IPS:type"] == "fixed"
    assert [port.id for port in mine.network.ports(device_id=server.id, status="ACTIVE")] != []
    assert next(mine.compute.server_interfaces(server)).fixed_ips[0]["ip_address"] == address["addr"]
    assert next(mine.compute.server_ips(server)).address == address["addr"]

    mine.compute.set_server_metadata(server, c="d")
    mine.compute.delete_server_metadata(mine.compute.get_server(server.id), ["a"])
    assert mine.compute.get_server_metadata(server).metadata == {"c": "d"}
    assert mine.compute.update_server(server, name=f"{name}-2").name == f"{name}-2"
    for action, status in (
        (mine.compute.stop_server, "SHUTOFF"),
        (mine.compute.start_server, "ACTIVE"),
        (mine.compute.pause_server, "PAUSED"),
        (mine.compute.unpause_server, "ACTIVE"),
    ):
        action(server)
        wait(mine, server, status)
    mine.compute.reboot_server(server, "HARD")
    wait(mine, server)
    assert name in mine.compute.get_server_console_output(server)["output"]
    actions = [action.action for action in mine.compute.server_actions(server)]
    assert actions == ["reboot", "unpause", "pause", "start", "stop", "create"]
    created = mine.compute.get_server_action(list(mine.compute.server_actions(server))[-1].request_id, server)
    assert {event["result"] for event in created.events} == {"Success"}
    wait_gone(mine, server)
    assert mine.compute.find_server(f"{name}-2") is None
    assert [port for port in mine.network.ports(network_id=network.id) if port.device_owner != "network:dhcp"] == []
    mine.network.delete_network(network, ignore_missing=False)


def test_lists_are_paged_to_their_end(mine: Any, sdk: Any, member: Person) -> None:
    batch = fresh("batch")
    flavor = mine.compute.find_flavor("m1.nano")
    for index in range(0, 25, 5):
        wanted = {"name": f"{batch}-{index}", "flavor_id": flavor.id, "networks": "none"}
        mine.compute.create_server(min_count=5, max_count=5, **wanted)
    every = list(mine.compute.servers(name=batch, limit=7))
    assert len(every) == len({server.id for server in every}) == 25
    for server in every:
        wait(mine, server)
    brief = list(mine.compute.servers(details=False, limit=10))
    assert len(brief) == 25
    ids = [server.id for server in mine.compute.servers(limit=4, sort_key="display_name", sort_dir="asc")]
    assert ids == [server.id for server in sorted(every, key=lambda server: server.name)]
    first = member.get("compute", "/v2.1/servers", params={"limit": 10, "sort_key": "created_at", "sort_dir": "asc"})
    second = member.get(
        "compute", "/v2.1/servers", params={"limit": 10, "marker": first["servers"][-1]["id"], "sort_dir": "asc", "sort_key": "created_at"}
    )
    assert not {row["id"] for row in first["servers"]} & {row["id"] for row in second["servers"]}
    assert len(second["servers"]) == 10 and first["servers_links"][0]["rel"] == "next"
    assert member.call("GET", "compute", "/v2.1/servers", params={"marker": "nothing"}).status_code == 400

    mine.compute.stop_server(every[0])
    wait(mine, every[0], "SHUTOFF")
    assert [server.id for server in mine.compute.servers(status="SHUTOFF")] == [every[0].id]
    assert len(list(mine.compute.servers(status="ACTIVE", limit=5))) == 24
    assert [server.id for server in mine.compute.servers(name=f"^{batch}-0-3$")] == [every_named(every, f"{batch}-0-3")]
    hosts = {server.id: server.compute_host for server in sdk.compute.servers(all_projects=True, project_id=member.project_id)}
    assert len(hosts) == 25
    host = next(iter(hosts.values()))
    on_host = {server.id for server in sdk.compute.servers(all_projects=True, compute_host=host, project_id=member.project_id)}
    assert on_host == {server_id for server_id, on in hosts.items() if on == host}
    assert list(mine.compute.servers(flavor="2")) == []
    wait_gone(mine, *every)
    assert list(mine.compute.servers()) == []


def every_named(servers: list[Any], name: str) -> str:
    return next(str(server.id) for server in servers if server.name == name)


def test_placement_follows_servers(sdk: Any, admin: Person) -> None:
    providers = {provider.name: provider.id for provider in sdk.placement.resource_providers()}
    assert len(providers) == 3
    inventories = {found.resource_class: found for found in sdk.placement.resource_provider_inventories(next(iter(providers.values())))}
    assert set(inventories) == {"VCPU", "MEMORY_MB", "DISK_GB"}
    assert (inventories["VCPU"].total, inventories["VCPU"].allocation_ratio) == (64, Settings().compute.cpu_allocation_ratio)
    server = admin.server(flavorRef="2")
    provider_id = providers[server["OS-EXT-SRV-ATTR:host"]]
    held = admin.get("placement", f"/allocations/{server['id']}", version="1.39")
    assert held["allocations"][provider_id]["resources"] == {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}
    assert held["consumer_type"] == "INSTANCE"
    asked = {"resources": "VCPU:1,MEMORY_MB:512"}
    candidates = admin.get("placement", "/allocation_candidates", params=asked, version="1.39")
    assert len(candidates["allocation_requests"]) == 3
    admin.gone(server["id"])
    assert admin.get("placement", f"/allocations/{server['id']}", version="1.39")["allocations"] == {}


def test_identity(sdk: Any, cloud: Cloud) -> None:
    project = sdk.identity.create_project(name=fresh("project"), description="d")
    user = sdk.identity.create_user(name=fresh("user"), password="p", default_project_id=project.id)
    role = sdk.identity.find_role("reader")
    sdk.identity.assign_project_role_to_user(project, user, role)
    assert sdk.identity.validate_user_has_project_role(project, user, role)
    assert [assigned.role["id"] for assigned in sdk.identity.role_assignments(user_id=user.id)] == [role.id]
    assert [found.id for found in sdk.identity.user_projects(user)] == [project.id]
    assert cloud.login(user.name, "p", project.name).get("compute", "/v2.1/servers") == {"servers": []}
    sdk.identity.unassign_project_role_from_user(project, user, role)
    sdk.identity.delete_user(user, ignore_missing=False)
    sdk.identity.delete_project(project, ignore_missing=False)
    assert sdk.identity.find_project(project.name) is None


def test_a_failed_server_is_an_error_with_a_reason(sdk: Any) -> None:
    flavor = sdk.compute.create_flavor(name=fresh("flavor"), ram=400_000, vcpus=1, disk=1)
    server = sdk.compute.create_server(name=fresh("server"), flavor_id=flavor.id, networks="none")
    with pytest.raises(ResourceFailure):
        wait(sdk, server)
    assert "No valid host" in sdk.compute.get_server(server.id).fault["message"]
    wait_gone(sdk, server)
    sdk.compute.delete_flavor(flavor, ignore_missing=False)


@pytest.fixture(scope="module")
def belongings(member: Person, mine: Any) -> Iterator[dict[str, str]]:
    """What a project has, by (service, collection): its id."""
    network = member.network("10.52.0.0/24")
    port = member.post("network", "/v2.0/ports", {"port": {"network_id": network["id"]}})["port"]
    server = member.server(networks=[{"uuid": network["id"]}])
    found = {
        "network /v2.0/networks": network["id"],
        "network /v2.0/subnets": member.get("network", f"/v2.0/networks/{network['id']}")["network"]["subnets"][0],
        "network /v2.0/ports": port["id"],
        "image /v2/images": member.image(),
        "compute /v2.1/servers": server["id"],
    }
    yield found
    member.gone(server["id"])
    member.delete("network", f"/v2.0/ports/{port['id']}")
    member.delete("network", f"/v2.0/networks/{network['id']}")
    member.delete("image", f"/v2/images/{found['image /v2/images']}")


def test_another_projects_things_are_not_there(stranger: Person, belongings: dict[str, str]) -> None:
    server = belongings["compute /v2.1/servers"]
    for where, one in belongings.items():
        service, path = where.split()
        shown = stranger.call("GET", service, f"{path}/{one}")
        assert shown.status_code == 404, (where, shown.text)
        for method, body in (("PUT", {path.rsplit("/", 1)[1][:-1]: {"name": "x"}}), ("DELETE", None)):
            if (service, method) != ("image", "PUT"):
                assert stranger.call(method, service, f"{path}/{one}", body).status_code == 404, (method, where)
        for listing in (path, f"{path}?name=", f"{path}?id={one}", f"{path}?project_id={one}"):
            found = stranger.get(service, listing)[path.rsplit("/", 1)[1]]
            assert one not in {row["id"] for row in found}, (where, listing)
    for path in ("/servers", "/servers/detail", "/servers/detail?all_tenants=0", f"/servers?ip=10.52&uuid={server}"):
        assert server not in stranger.call("GET", "compute", f"/v2.1{path}").text
    assert stranger.call("GET", "compute", "/v2.1/servers?all_tenants=1").status_code == 403
    for path in ("metadata", "ips", "os-interface", "os-instance-actions"):
        assert stranger.call("GET", "compute", f"/v2.1/servers/{server}/{path}").status_code == 404, path
    actions: list[dict[str, Any]] = [
        {"os-stop": None},
        {"reboot": {"type": "HARD"}},
        {"pause": None},
        {"lock": None},
        {"os-getConsoleOutput": {}},
    ]
    for action in actions:
        assert stranger.call("POST", "compute", f"/v2.1/servers/{server}/action", action).status_code == 404, action
    assert stranger.call("POST", "compute", f"/v2.1/servers/{server}/metadata", {"metadata": {"a": "b"}}).status_code == 404
    image = belongings["image /v2/images"]
    assert stranger.call("GET", "image", f"/v2/images/{image}/file").status_code == 404
    assert stranger.call("PUT", "image", f"/v2/images/{image}/tags/t").status_code == 404


def test_another_projects_things_cannot_be_used(stranger: Person, belongings: dict[str, str]) -> None:
    network, port = belongings["network /v2.0/networks"], belongings["network /v2.0/ports"]
    server = {"name": "s", "flavorRef": "1"}
    for body in (
        server | {"networks": [{"uuid": network}]},
        server | {"networks": [{"port": port}]},
        server | {"networks": "none", "imageRef": belongings["image /v2/images"]},
    ):
        answer = stranger.call("POST", "compute", "/v2.1/servers", {"server": body}, version="2.37")
        assert answer.status_code == 400, answer.text
        assert "could not be found" in answer.text or "No image found" in answer.text
    assert stranger.call("POST", "network", "/v2.0/ports", {"port": {"network_id": network}}).status_code == 404
    subnet = {"network_id": network, "cidr": "10.53.0.0/24", "ip_version": 4}
    assert stranger.call("POST", "network", "/v2.0/subnets", {"subnet": subnet}).status_code == 404


def test_a_reader_sees_and_does_not_touch(cloud: Cloud, reader: Person, belongings: dict[str, str]) -> None:
    with connect(cloud, reader) as sdk:
        assert [server.id for server in sdk.compute.servers()] == [belongings["compute /v2.1/servers"]]
        assert sdk.compute.get_server(belongings["compute /v2.1/servers"]).status == "ACTIVE"
        assert sdk.network.get_port(belongings["network /v2.0/ports"]).id == belongings["network /v2.0/ports"]
        assert sdk.image.get_image(belongings["image /v2/images"]).status == "active"
        for refused in (
            lambda: sdk.compute.stop_server(belongings["compute /v2.1/servers"]),
            lambda: sdk.compute.delete_server(belongings["compute /v2.1/servers"]),
            lambda: sdk.compute.create_server(name="x", flavor_id="1", networks="none"),
            lambda: sdk.network.create_network(name="x"),
            lambda: sdk.network.delete_port(belongings["network /v2.0/ports"]),
            lambda: sdk.image.create_image("x", disk_format="raw", container_format="bare"),
            lambda: sdk.image.delete_image(belongings["image /v2/images"]),
            lambda: list(sdk.identity.users()),
            lambda: list(sdk.compute.hypervisors()),
            lambda: list(sdk.network.agents()),
            lambda: list(sdk.placement.resource_providers()),
        ):
            with pytest.raises(ForbiddenException):
                refused()
        for missing in (lambda: sdk.compute.get_server("nothing"), lambda: sdk.network.get_network("nothing")):
            with pytest.raises(NotFoundException):
                missing()  # type: ignore[no-untyped-call]
        with pytest.raises(HttpException):
            list(sdk.compute.servers(all_projects=True))


def test_nothing_is_left_behind(admin: Person, member: Person, belongings: dict[str, str]) -> None:
    """A project's servers hold what its usages say, to the byte: this module's other servers are gone from them."""
    held = admin.get("placement", "/usages", params={"project_id": member.project_id}, version="1.9")["usages"]
    assert held == {"VCPU": 1, "MEMORY_MB": 128}
    limits = member.get("compute", "/v2.1/limits")["limits"]["absolute"]
    assert (limits["totalInstancesUsed"], limits["totalCoresUsed"], limits["totalRAMUsed"]) == (1, 1, 128)
    used = member.get("network", f"/v2.0/quotas/{member.project_id}/details")["quota"]
    assert {name: used[name]["used"] for name in ("network", "subnet", "port")} == {"network": 1, "subnet": 1, "port": 3}
