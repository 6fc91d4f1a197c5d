"""The real `openstack` command through everything that is offered, as somebody would type it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.cloud import Cloud, Person, fresh
from tests.blackbox.openstackclient import OpenStack

DATA = os.urandom(300_000)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJVFnfj8fU7oh6gBC/xmRlKRzeawjsmyILraFIEEdihO somebody@somewhere"


@pytest.fixture(scope="module")
def openstack(cloud: Cloud) -> OpenStack:
    return OpenStack(cloud.clouds_yaml)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "image.raw"
    path.write_bytes(DATA)
    return path


@pytest.fixture(scope="module")
def image(openstack: OpenStack, data: Path) -> Iterator[str]:
    name = fresh("image")
    openstack("image", "create", "--disk-format", "raw", "--container-format", "bare", "--file", data, name)
    yield name
    openstack("image", "delete", name)


@pytest.fixture(scope="module")
def network(openstack: OpenStack) -> Iterator[str]:
    name = fresh("net")
    openstack("network", "create", name)
    openstack("subnet", "create", "--network", name, "--subnet-range", "10.40.0.0/24", name)
    yield name
    for port in openstack.json("port", "list", "--network", name, "--device-owner", ""):
        openstack("port", "delete", port["ID"])
    openstack("network", "delete", name)


@pytest.fixture(params=[None, "2.96"], ids=["default", "2.96"])
def either(request: pytest.FixtureRequest, openstack: OpenStack) -> OpenStack:
    """The command without a compute microversion, and with the latest."""
    return openstack if request.param is None else openstack.at(request.param)


def names(listed: list[dict[str, Any]], column: str = "Name") -> list[str]:
    return sorted(row[column] or "" for row in listed)  # images need no name, and other tests' are in the same cloud


def test_as_a_process_of_its_own(openstack: OpenStack) -> None:
    issued = openstack.process("token", "issue", "-f", "value", "-c", "id")
    assert issued.returncode == 0, issued.stderr
    assert len(issued.stdout.strip()) > 100
    refused = openstack.process("server", "show", "nothing")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "No Server found for nothing" in refused.stderr


def test_tokens_and_catalogue(openstack: OpenStack, cloud: Cloud) -> None:
    token = openstack.json("token", "issue")
    assert openstack("token", "revoke", token["id"]) == ""
    services = {row["Type"]: row["Endpoints"] for row in openstack.json("catalog", "list")}
    assert set(services) == {"identity", "image", "placement", "compute", "network"}
    assert {endpoint["url"] for endpoint in services["compute"]} == {f"{cloud.url}/compute/v2.1"}
    assert names(openstack.json("service", "list")) == ["glance", "keystone", "neutron", "nova", "placement"]
    assert len(openstack.json("endpoint", "list")) == 15
    versions = {row["Service Type"]: row for row in openstack.json("versions", "show") if row["Status"] == "CURRENT"}
    assert (versions["compute"]["Min Microversion"], versions["compute"]["Max Microversion"]) == ("2.1", "2.96")
    assert versions["placement"]["Max Microversion"] == "1.39"
    assert "not present in the service catalog" in openstack.refused("volume", "list")


@pytest.mark.parametrize("command", ["server group list", "usage list", "router list"])
def test_what_is_not_offered_is_not_found(openstack: OpenStack, command: str) -> None:
    assert "404" in openstack.refused(*command.split())


def test_projects_users_and_roles(openstack: OpenStack) -> None:
    project, user, role = fresh("project"), fresh("user"), fresh("role")
    made = openstack.json("project", "create", "--description", "of a test", "--property", "colour=red", project)
    assert (made["description"], made["domain_id"], made["colour"]) == ("of a test", "default", "red")
    openstack("user", "create", "--password", "secret", "--project", project, "--email", "u@x", user)
    assert openstack.json("user", "show", user)["email"] == "u@x"
    openstack("role", "create", role)
    openstack("role", "add", "--user", user, "--project", project, "member")
    openstack("role", "add", "--user", user, "--project", project, role)
    assigned = openstack.json("role", "assignment", "list", "--user", user, "--names")
    assert names(assigned, "Role") == sorted(["member", role])
    assert {row["Project"] for row in assigned} == {f"{project}@Default"}
    openstack("role", "remove", "--user", user, "--project", project, role)
    assert names(openstack.json("role", "assignment", "list", "--user", user, "--names"), "Role") == ["member"]
    openstack("user", "set", "--disable", user)
    assert openstack.json("user", "show", user)["enabled"] is False
    openstack("project", "set", "--name", f"{project}-2", project)
    assert f"{project}-2" in names(openstack.json("project", "list"))
    openstack("user", "delete", user)
    openstack("project", "delete", f"{project}-2")
    openstack("role", "delete", role)
    assert user in openstack.refused("user", "show", user)


def test_images(openstack: OpenStack, data: Path, tmp_path: Path) -> None:
    name, kernel, ramdisk = fresh("image"), fresh("kernel"), fresh("ramdisk")
    common = ("image", "create", "--file", data)
    openstack(*common, "--disk-format", "aki", "--container-format", "aki", kernel)
    openstack(*common, "--disk-format", "ari", "--container-format", "ari", ramdisk)
    ids = [openstack.json("image", "show", part)["id"] for part in (kernel, ramdisk)]
    whole = (*common, "--disk-format", "ami", "--container-format", "ami", "--property", "hw_x=1", "--tag", "first")
    openstack(*whole, "--property", f"kernel_id={ids[0]}", "--property", f"ramdisk_id={ids[1]}", "--min-ram", "64", name)
    shown = openstack.json("image", "show", name)
    assert (shown["status"], shown["size"], shown["min_ram"]) == ("active", len(DATA), 64)
    assert (shown["checksum"], shown["visibility"], shown["tags"]) == (hashlib.md5(DATA).hexdigest(), "shared", ["first"])
    assert shown["properties"]["hw_x"] == "1" and shown["properties"]["kernel_id"] == ids[0]
    openstack("image", "set", "--property", "hw_y=2", "--name", f"{name}-2", "--tag", "second", "--protected", name)
    openstack("image", "unset", "--property", "hw_x", "--tag", "first", f"{name}-2")
    shown = openstack.json("image", "show", f"{name}-2")
    assert (shown["tags"], shown["protected"], shown["properties"]["hw_y"]) == (["second"], True, "2")
    assert "hw_x" not in shown["properties"]
    assert [row["ID"] for row in openstack.json("image", "list", "--tag", "second", "--name", f"{name}-2")] == [shown["id"]]
    assert openstack.json("image", "list", "--long", "--property", "hw_y=2")[0]["Size"] == len(DATA)
    openstack("image", "save", "--file", tmp_path / "copy", f"{name}-2")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert "protected" in openstack.refused("image", "delete", f"{name}-2")
    openstack("image", "set", "--unprotected", f"{name}-2")
    openstack("image", "delete", f"{name}-2", kernel, ramdisk)
    assert not {f"{name}-2", kernel, ramdisk} & set(names(openstack.json("image", "list")))


def test_flavors(either: OpenStack) -> None:
    name = fresh("flavor")
    described = ["--description", "of a test"] if len(either.options) > 2 else []
    size = ["--ram", "256", "--disk", "1", "--vcpus", "2"]
    made = either.json("flavor", "create", *size, "--property", "hw:a=1", *described, name)
    assert (made["ram"], made["disk"], made["vcpus"], made["properties"]) == (256, 1, 2, {"hw:a": "1"})
    either("flavor", "set", "--property", "hw:b=2", name)
    either("flavor", "unset", "--property", "hw:a", name)
    shown = either.json("flavor", "show", name)
    assert shown["properties"] == {"hw:b": "2"}
    assert shown["description"] == ("of a test" if described else None)
    assert name in names(either.json("flavor", "list"))
    assert [row["Name"] for row in either.json("flavor", "list", "--min-ram", "4096")] == ["m1.medium", "m1.large"]
    either("flavor", "delete", name)
    assert name not in names(either.json("flavor", "list", "--all"))


def test_keypairs(openstack: OpenStack, either: OpenStack, tmp_path: Path) -> None:
    made, imported = fresh("key"), fresh("key")
    (tmp_path / "key.pub").write_text(KEY + "\n")
    assert "PRIVATE KEY" in openstack("keypair", "create", made)  # as of 2.92 the client makes the pair itself
    either("keypair", "create", "--public-key", tmp_path / "key.pub", imported)
    assert either("keypair", "show", "--public-key", imported).strip() == KEY
    assert either.json("keypair", "show", imported)["fingerprint"] == "65:50:b6:fe:2e:0a:c3:15:ac:df:39:d5:23:e7:ca:88"
    assert {made, imported} <= set(names(either.json("keypair", "list")))
    either("keypair", "delete", made, imported)
    assert not {made, imported} & set(names(either.json("keypair", "list")))


def test_networks_and_subnets(openstack: OpenStack) -> None:
    name = fresh("net")
    provider = ("--provider-network-type", "vlan", "--provider-physical-network", "simulated", "--provider-segment", "77")
    made = openstack.json("network", "create", *provider, "--mtu", "1400", "--description", "of a test", name)
    assert (made["provider:network_type"], made["provider:physical_network"], made["provider:segmentation_id"]) == ("vlan", "simulated", 77)
    assert (made["mtu"], made["status"], made["router:external"]) == (1400, "ACTIVE", False)
    assert "409" in openstack.refused("network", "create", *provider, fresh("net"))
    pool = ("--allocation-pool", "start=10.41.0.10,end=10.41.0.20", "--allocation-pool", "start=10.41.0.40,end=10.41.0.50")
    wanted = (*pool, "--gateway", "none", "--dns-nameserver", "9.9.9.9", "--host-route", "destination=10.8.0.0/16,gateway=10.41.0.5")
    subnet = openstack.json("subnet", "create", "--network", name, "--subnet-range", "10.41.0.0/24", *wanted, name)
    assert subnet["allocation_pools"] == [{"start": "10.41.0.10", "end": "10.41.0.20"}, {"start": "10.41.0.40", "end": "10.41.0.50"}]
    assert (subnet["gateway_ip"], subnet["dns_nameservers"]) == (None, ["9.9.9.9"])
    assert subnet["host_routes"] == [{"destination": "10.8.0.0/16", "nexthop": "10.41.0.5"}]
    openstack("subnet", "set", "--name", f"{name}-2", "--no-host-route", "--dns-nameserver", "1.1.1.1", "--gateway", "10.41.0.1", name)
    shown = openstack.json("subnet", "show", f"{name}-2")
    assert (shown["host_routes"], sorted(shown["dns_nameservers"]), shown["gateway_ip"]) == ([], ["1.1.1.1", "9.9.9.9"], "10.41.0.1")
    six = openstack.json(
        "subnet", "create", "--network", name, "--ip-version", "6", "--no-dhcp", "--subnet-range", "fd00:41::/64", f"{name}-6"
    )
    assert (six["ip_version"], six["gateway_ip"], six["enable_dhcp"]) == (6, "fd00:41::1", False)
    assert names(openstack.json("subnet", "list", "--network", name)) == [f"{name}-2", f"{name}-6"]
    openstack("network", "set", "--name", f"{name}-2", "--disable", "--share", name)
    shown = openstack.json("network", "show", f"{name}-2")
    assert (shown["admin_state_up"], shown["shared"], len(shown["subnets"])) == (False, True, 2)
    assert names(openstack.json("network", "list", "--name", f"{name}-2")) == [f"{name}-2"]
    assert openstack.json("network", "list", "--external") == []
    openstack("subnet", "delete", f"{name}-6")
    openstack("network", "delete", f"{name}-2")
    assert openstack.json("subnet", "list", "--name", f"{name}-2") == []


def test_ports(openstack: OpenStack, network: str) -> None:
    name = fresh("port")
    wanted = ("--fixed-ip", "ip-address=10.40.0.50", "--allowed-address", "ip-address=10.40.0.60", "--mac-address", "02:00:00:00:40:50")
    made = openstack.json("port", "create", "--network", network, *wanted, name)
    assert [fixed["ip_address"] for fixed in made["fixed_ips"]] == ["10.40.0.50"]
    assert made["allowed_address_pairs"] == [{"ip_address": "10.40.0.60", "mac_address": "02:00:00:00:40:50"}]
    assert (made["mac_address"], made["status"], made["binding_vif_type"]) == ("02:00:00:00:40:50", "DOWN", "unbound")
    open_port = openstack.json("port", "create", "--network", network, "--disable-port-security", f"{name}-open")
    assert open_port["port_security_enabled"] is False
    assert "409" in openstack.refused("port", "create", "--network", network, *wanted, fresh("port"))
    openstack("port", "set", "--name", f"{name}-2", "--description", "moved", "--no-allowed-address", "--disable", name)
    shown = openstack.json("port", "show", f"{name}-2")
    assert (shown["description"], shown["allowed_address_pairs"], shown["admin_state_up"]) == ("moved", [], False)
    found = openstack.json("port", "list", "--network", network, "--fixed-ip", "ip-address=10.40.0.50")
    assert [row["ID"] for row in found] == [made["id"]]
    openstack("port", "unset", "--fixed-ip", f"subnet={network},ip-address=10.40.0.50", f"{name}-2")
    assert openstack.json("port", "show", f"{name}-2")["fixed_ips"] == []
    openstack("port", "delete", f"{name}-2", f"{name}-open")
    assert openstack.json("port", "list", "--name", f"{name}-2") == []


def test_agents_and_extensions(openstack: OpenStack) -> None:
    agents = openstack.json("network", "agent", "list")
    assert len(agents) == 6 and all(agent["Alive"] for agent in agents)
    shown = openstack.json("network", "agent", "show", agents[0]["ID"])
    assert (shown["agent_type"], shown["host"]) == (agents[0]["Agent Type"], agents[0]["Host"])
    aliases = {row["Alias"] for row in openstack.json("extension", "list")}
    assert {"binding", "provider", "port-security", "quotas", "os-server-external-events"} <= aliases
    assert not {"router", "rbac-security-groups", "os-volumes", "os-server-groups"} & aliases


def test_quotas_and_limits(openstack: OpenStack, people: dict[str, Person]) -> None:
    project = people["member"].project
    openstack("quota", "set", "--instances", "7", "--cores", "8", "--ram", "9000", "--key-pairs", "5", "--properties", "6", project)
    openstack("quota", "set", "--networks", "3", "--subnets", "4", "--ports", "5", project)
    shown = {row["Resource"]: row["Limit"] for row in openstack.json("quota", "show", project)}
    wanted = {"instances": 7, "cores": 8, "ram": 9000, "key-pairs": 5, "properties": 6, "networks": 3, "subnets": 4, "ports": 5}
    assert {name: shown[name] for name in wanted} == wanted
    defaults = {row["Resource"]: row["Limit"] for row in openstack.json("quota", "show", "--default", project)}
    assert (defaults["instances"], defaults["networks"]) == (100, 100)
    usage = {row["Resource"]: row for row in openstack.json("quota", "show", "--usage", project)}
    assert (usage["instances"]["Limit"], usage["instances"]["In Use"]) == (7, 0)
    limits = {row["Name"]: row["Value"] for row in openstack.json("limits", "show", "--absolute", "--project", project)}
    assert (limits["max_total_instances"], limits["max_total_cores"], limits["instances_used"]) == (7, 8, 0)
    assert project in {row["Project ID"] for row in openstack.json("quota", "list", "--network")} | {project}
    openstack("quota", "delete", "--all", project)
    assert {row["Resource"]: row["Limit"] for row in openstack.json("quota", "show", project)}["instances"] == 100


def test_hosts(either: OpenStack) -> None:
    hosts = names(either.json("hypervisor", "list"), "Hypervisor Hostname")
    assert len(hosts) == 3
    shown = either.json("hypervisor", "show", hosts[0])
    assert (shown["hypervisor_type"], shown["state"], shown["status"], shown["aggregates"]) == ("simulated", "up", "enabled", [])
    stats = either.json("hypervisor", "stats", "show")
    assert (stats["count"], stats["vcpus"]) == (3, 192)
    assert "nova" in names(either.json("availability", "zone", "list", "--compute"), "Zone Name")


def test_services_can_be_disabled(either: OpenStack, image: str) -> None:
    listed = [row for row in either.json("compute", "service", "list") if row["Binary"] == "nova-compute"]
    assert [(row["Status"], row["State"], row["Zone"]) for row in listed] == [("enabled", "up", "nova")] * 3
    off, on = [row["Host"] for row in listed[:2]], listed[2]["Host"]
    for host in off:
        either("compute", "service", "set", "--disable", "--disable-reason", "a test", host, "nova-compute")
    try:
        shown = {row["Host"]: row for row in either.json("compute", "service", "list", "--service", "nova-compute", "--long")}
        assert [(shown[host]["Status"], shown[host]["Disabled Reason"]) for host in off] == [("disabled", "a test")] * 2
        many = fresh("server")
        counted = ("--nic", "none", "--min", "4", "--max", "4", "--wait")
        either("server", "create", "--flavor", "m1.nano", "--image", image, *counted, many)
        servers = either.json("server", "list", "--name", many, "--long")
        assert {row["Host"] for row in servers} == {on} and len(servers) == 4
        either("server", "delete", "--wait", *[row["ID"] for row in servers])
    finally:
        for host in off:
            either("compute", "service", "set", "--enable", host, "nova-compute")


@pytest.fixture
def boot(either: OpenStack, image: str) -> Iterator[Any]:
    """Makes servers and removes them: `boot(name, *options)` waits, and gives what `server show` shows."""
    made: list[str] = []

    def make(name: str, *options: str) -> dict[str, Any]:
        created = either.json("server", "create", "--image", image, "--flavor", "m1.nano", "--wait", *options, name)
        made.append(created["id"])
        shown: dict[str, Any] = either.json("server", "show", created["id"])
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
        return shown

    yield make
    left = {row["ID"] for row in either.json("server", "list")} & set(made)
    if left:
        either("server", "delete", "--wait", *left)


@pytest.mark.parametrize(("version", "becomes"), [("2.29", "ACTIVE"), ("2.96", "SHUTOFF")])
def test_what_a_host_ran_that_is_declared_dead_goes_to_another(
    openstack: OpenStack, admin: Person, image: str, version: str, becomes: str
) -> None:
    either = openstack.at(version)
    network, name = fresh("net"), fresh("server")
    either("network", "create", network)
    either("subnet", "create", "--network", network, "--subnet-range", "10.41.0.0/24", network)
    made = either.json("server", "create", "--image", image, "--flavor", "m1.nano", "--network", network, "--wait", name)
    lost = made["OS-EXT-SRV-ATTR:host"]
    (port,) = either.json("port", "list", "--server", made["id"])
    assert "still in use" in either.refused("server", "evacuate", name), "its host lives"
    try:
        either("compute", "service", "set", "--down", lost, "nova-compute")
        states = {row["Host"]: row["State"] for row in either.json("compute", "service", "list", "--service", "nova-compute")}
        assert sorted(states.values()) == ["down", "up", "up"]
        assert states[lost] == "down"
        either("server", "evacuate", name)
        admin.settled(made["id"])  # the command's --wait knows no server that is left stopped
        shown = either.json("server", "show", name)
        assert (shown["id"], shown["status"], shown["addresses"]) == (made["id"], becomes, made["addresses"])
        assert states[shown["OS-EXT-SRV-ATTR:host"]] == "up"
        moved = either.json("port", "show", port["ID"])
        assert (moved["binding_host_id"], moved["mac_address"]) == (shown["OS-EXT-SRV-ATTR:host"], port["MAC Address"])
    finally:
        either("compute", "service", "set", "--up", lost, "nova-compute")
        either("server", "delete", "--wait", name)
        either("network", "delete", network)
    assert {row["State"] for row in either.json("compute", "service", "list", "--service", "nova-compute")} == {"up"}


def test_servers_by_every_kind_of_network(either: OpenStack, boot: Any, network: str) -> None:
    shown = boot(fresh("server"), "--network", network)
    (address,) = shown["addresses"][network]
    (port,) = either.json("port", "list", "--server", shown["id"], "--long")
    assert (port["Fixed IP Addresses"][0]["ip_address"], port["Status"], port["Device Owner"]) == (address, "ACTIVE", "compute:nova")
    own = fresh("port")
    either("port", "create", "--network", network, "--fixed-ip", "ip-address=10.40.0.77", own)
    held = boot(fresh("server"), "--port", own)
    assert held["addresses"] == {network: ["10.40.0.77"]}
    fixed = boot(fresh("server"), "--nic", f"net-id={network},v4-fixed-ip=10.40.0.88")
    assert fixed["addresses"] == {network: ["10.40.0.88"]}
    if len(either.options) > 2:
        assert boot(fresh("server"), "--nic", "none")["addresses"] == {}
    either("server", "delete", "--wait", held["id"])
    either("port", "delete", own)


def test_a_server_whose_port_is_its_users_keeps_it(openstack: OpenStack, network: str, image: str) -> None:
    server, port = fresh("server"), fresh("port")
    openstack("port", "create", "--network", network, port)
    openstack("server", "create", "--image", image, "--flavor", "m1.nano", "--port", port, "--wait", server)
    assert openstack.json("port", "show", port)["status"] == "ACTIVE"
    openstack("server", "delete", "--wait", server)
    shown = openstack.json("port", "show", port)
    assert (shown["status"], shown["device_id"], shown["binding_host_id"]) == ("DOWN", "", "")
    openstack("port", "delete", port)


def test_network_auto(cloud: Cloud, people: dict[str, Person], tmp_path: Path, openstack: OpenStack) -> None:
    """A project that sees one network needs to name none."""
    as_member = OpenStack.of(cloud, people["member"], tmp_path)
    name, image = fresh("server"), fresh("image")
    boot = ("--image", image, "--flavor", "m1.nano")
    (tmp_path / "data").write_bytes(DATA)
    as_member("image", "create", "--disk-format", "raw", "--container-format", "bare", "--file", tmp_path / "data", image)
    for version, nic in (("2.1", ()), ("2.96", ("--nic", "auto")), ("2.96", ())):
        as_member.at(version)("server", "create", *boot, *nic, "--wait", name)
        assert list(as_member.json("server", "show", name)["addresses"]) == ["private"]
        as_member("server", "delete", "--wait", name)
    as_member("image", "delete", image)


def test_servers_with_everything(either: OpenStack, image: str, network: str, tmp_path: Path) -> None:
    key, many = fresh("key"), fresh("many")
    (tmp_path / "key.pub").write_text(KEY)
    (tmp_path / "user-data").write_text("#!/bin/sh\ntrue\n")
    either("keypair", "create", "--public-key", tmp_path / "key.pub", key)
    given = ("--key-name", key, "--user-data", str(tmp_path / "user-data"), "--property", "a=b", "--config-drive", "true")
    placed = ("--network", network, "--availability-zone", "nova", "--min", "2", "--max", "3", "--wait")
    either("server", "create", "--image", image, "--flavor", "m1.tiny", *given, *placed, many)
    servers = either.json("server", "list", "--name", many, "--long", "--sort-column", "Name", "--sort-ascending")
    assert [row["Name"] for row in servers] == [f"{many}-{index}" for index in (1, 2, 3)]
    assert {(row["Status"], row["Availability Zone"], row["Flavor"], row["Image Name"]) for row in servers} == {
        ("ACTIVE", "nova", "m1.tiny", image)
    }
    shown = either.json("server", "show", f"{many}-2")
    assert (shown["key_name"], shown["properties"], shown["config_drive"]) == (key, {"a": "b"}, "True")
    assert len(either.json("server", "list", "--name", many, "--limit", "2")) == 2
    assert either.json("server", "list", "--name", many, "--status", "SHUTOFF") == []
    assert len(either.json("server", "list", "--name", many, "--status", "ACTIVE", "--flavor", "m1.tiny", "--image", image)) == 3
    (only,) = shown["addresses"][network]
    by_address = either.json("server", "list", "--ip", f"^{only}$".replace(".", "\\."))
    assert [row["Name"] for row in by_address] == [f"{many}-2"]
    either("server", "delete", "--wait", *[row["ID"] for row in servers])
    either("keypair", "delete", key)
    assert either.json("server", "list", "--name", many) == []


def test_a_servers_life(either: OpenStack, boot: Any, network: str) -> None:
    name = fresh("server")
    server = boot(name, "--network", network)["id"]
    either("server", "set", "--name", f"{name}-2", "--property", "k=v", "--property", "l=w", server)
    either("server", "unset", "--property", "k", server)
    shown = either.json("server", "show", server)
    assert (shown["name"], shown["properties"]) == (f"{name}-2", {"l": "w"})
    either("server", "stop", server)
    becomes(either, server, "SHUTOFF")
    assert "vm_state stopped" in either.refused("server", "pause", server)
    either("server", "start", server)
    becomes(either, server, "ACTIVE")
    either("server", "reboot", "--wait", server)
    either("server", "reboot", "--hard", "--wait", server)
    either("server", "pause", server)
    becomes(either, server, "PAUSED")
    either("server", "unpause", server)
    becomes(either, server, "ACTIVE")
    either("server", "lock", server)
    either("server", "unlock", server)
    assert f"{name} login:" in either("console", "log", "show", server)
    assert len(either("console", "log", "show", "--lines", "2", server).splitlines()) <= 3
    events = either.json("server", "event", "list", server)
    assert [event["Action"] for event in reversed(events)] == [
        "create", "stop", "start", "reboot", "reboot", "pause", "unpause", "lock", "unlock",
    ][: len(events)]  # fmt: skip
    assert len(events) >= 7
    create = either.json("server", "event", "show", server, events[-1]["Request ID"])
    assert (create["action"], create["message"]) == ("create", None)
    assert {event["result"] for event in create["events"]} == {"Success"}
    assert {"accepted", "claimed", "addressed", "sent", "plugged", "wired", "resumed"} <= {event["event"] for event in create["events"]}


def becomes(openstack: OpenStack, server: str, status: str) -> None:
    seen = ""
    for _ in range(200):
        seen = openstack("server", "show", "-f", "value", "-c", "status", server).strip()
        if seen == status:
            return
    raise AssertionError(f"{server} is {seen}, not {status}")


def test_what_the_latest_microversion_adds(openstack: OpenStack, image: str, network: str) -> None:
    newest = openstack.at("2.96")
    host, name = newest.json("hypervisor", "list")[1]["Hypervisor Hostname"], fresh("server")
    given = ("--description", "of a test", "--hostname", "called-so", "--host", host, "--network", network, "--wait")
    newest("server", "create", "--flavor", "m1.nano", "--image", image, *given, name)
    shown = newest.json("server", "show", name)
    assert (shown["description"], shown["OS-EXT-SRV-ATTR:hostname"], shown["OS-EXT-SRV-ATTR:host"]) == ("of a test", "called-so", host)
    assert newest.json("server", "list", "--name", name, "--long")[0]["Pinned Availability Zone"] is None
    newest("server", "set", "--description", "another", name)
    assert newest.json("server", "show", name)["description"] == "another"
    newest("server", "lock", "--reason", "because", name)
    assert newest.json("server", "show", name)["locked_reason"] == "because"
    newest("server", "unlock", name)
    newest("server", "delete", "--wait", name)
    assert "not offered" in newest.refused(
        "server", "create", "--flavor", "m1.nano", "--image", image, "--network", network, "--tag", "x", "y"
    )


def test_a_server_that_no_host_can_hold_says_so(openstack: OpenStack, image: str) -> None:
    flavor, name = fresh("flavor"), fresh("server")
    openstack("flavor", "create", "--ram", "500000", "--disk", "1", "--vcpus", "1", flavor)
    complaint = openstack.refused("server", "create", "--flavor", flavor, "--image", image, "--nic", "none", "--wait", name)
    assert "Error creating server" in complaint
    shown = openstack.json("server", "show", name)
    assert shown["status"] == "ERROR" and "No valid host" in shown["fault"]["message"]
    openstack("server", "delete", "--wait", name)
    openstack("flavor", "delete", flavor)
