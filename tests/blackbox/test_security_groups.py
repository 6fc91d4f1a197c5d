"""The real `openstack` command on security groups, their rules, address groups, and the groups of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.cloud import Cloud, fresh
from tests.blackbox.openstackclient import OpenStack


@pytest.fixture(scope="module")
def openstack(cloud: Cloud) -> OpenStack:
    return OpenStack(cloud.clouds_yaml)


@pytest.fixture(scope="module")
def network(openstack: OpenStack) -> Iterator[str]:
    name = fresh("net")
    openstack("network", "create", name)
    openstack("subnet", "create", "--network", name, "--subnet-range", "10.41.0.0/24", name)
    yield name
    openstack("network", "delete", name)


def test_groups_and_rules(openstack: OpenStack) -> None:
    web, db, offices = fresh("web"), fresh("db"), fresh("offices")
    made = openstack.json("security", "group", "create", "--description", "of a test", "--stateless", web)
    assert (made["name"], made["description"], made["stateful"], len(made["rules"])) == (web, "of a test", False, 2)
    openstack("security", "group", "set", "--stateful", "--description", "other", web)
    assert openstack.json("security", "group", "show", web)["stateful"] is True
    openstack("security", "group", "create", db)
    openstack("address", "group", "create", "--address", "192.0.2.0/24", offices)
    openstack("address", "group", "set", "--address", "198.51.100.7", offices)
    openstack("address", "group", "unset", "--address", "192.0.2.0/24", offices)
    assert openstack.json("address", "group", "show", offices)["addresses"] == ["198.51.100.7/32"]
    rules = [
        ("--protocol", "tcp", "--dst-port", "80:81", "--remote-ip", "10.0.0.0/8"),
        ("--protocol", "icmp", "--icmp-type", "8"),
        ("--protocol", "tcp", "--dst-port", "5432", "--remote-group", web),
        ("--protocol", "udp", "--remote-address-group", offices),
        ("--egress", "--ethertype", "IPv6", "--protocol", "ipv6-icmp"),
        ("--ingress", "--protocol", "any"),
    ]
    ids = [openstack.json("security", "group", "rule", "create", *rule, db)["id"] for rule in rules]
    shown = openstack.json("security", "group", "rule", "show", ids[0])
    assert (shown["protocol"], shown["port_range_min"], shown["port_range_max"]) == ("tcp", 80, 81)
    assert shown["normalized_cidr"] == "10.0.0.0/8"
    listed = openstack.json("security", "group", "rule", "list", "--long", db)
    assert {row["ID"] for row in listed} >= set(ids)
    assert len(openstack.json("security", "group", "rule", "list", "--protocol", "icmp", db)) == 1
    assert "already exists" in openstack.refused("security", "group", "rule", "create", *rules[0], db)
    assert "in use" in openstack.refused("address", "group", "delete", offices)
    openstack("security", "group", "rule", "delete", *ids)
    openstack("address", "group", "delete", offices)
    assert {web, db, "default"} <= {row["Name"] for row in openstack.json("security", "group", "list")}
    openstack("security", "group", "delete", web, db)
    assert "default security group" in openstack.refused("security", "group", "create", "default").lower()


def test_a_servers_groups(openstack: OpenStack, network: str, tmp_path: Path) -> None:
    web, name, image = fresh("web"), fresh("server"), fresh("image")
    (tmp_path / "data").write_bytes(b"x" * 4096)
    openstack("image", "create", "--disk-format", "raw", "--container-format", "bare", "--file", tmp_path / "data", image)
    openstack("security", "group", "create", web)
    boot = ("server", "create", "--image", image, "--flavor", "m1.nano", "--network", network, "--wait")
    assert "SecurityGroup" in openstack.refused(*boot, "--security-group", fresh("nothing"), name)
    openstack(*boot, "--security-group", web, name)

    def groups() -> list[str]:
        return [group["name"] for group in openstack.json("server", "show", name)["security_groups"]]

    assert groups() == [web]
    (port,) = openstack.json("port", "list", "--server", name)
    group_id = openstack.json("security", "group", "show", web)["id"]
    assert openstack.json("port", "show", port["ID"])["security_group_ids"] == [group_id]
    openstack("server", "add", "security", "group", name, "default")
    assert sorted(groups()) == sorted(["default", web])
    openstack("server", "remove", "security", "group", name, web)
    assert groups() == ["default"]
    openstack("security", "group", "delete", web)
    openstack("port", "set", "--no-security-group", port["ID"])
    assert openstack.json("server", "show", name).get("security_groups") in (None, [])
    openstack("server", "delete", "--wait", name)
    openstack("image", "delete", image)
