"""Security groups, their rules and address groups on the wire, in Neutron's words."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from pileus.bus.inprocess import InProcessBus
from pileus.clients.network import RequestedNic
from pileus.messages import PortsChanged, SecurityRule, ports_subject
from pileus.network import security_rules
from pileus.network.api import extensions
from pileus.network.service import Network
from tests.network.conftest import ALICE, Client

GROUPS, RULES, ADDRESSES, PORTS = "/v2.0/security-groups", "/v2.0/security-group-rules", "/v2.0/address-groups", "/v2.0/ports"
NOBODY = str(uuid.uuid4())


async def group(client: Client, name: str = "web", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post(GROUPS, {"security_group": {"name": name, **more}}))["security_group"]
    return found


async def default(client: Client) -> dict[str, Any]:
    found: list[dict[str, Any]] = (await client.get(GROUPS, name="default"))["security_groups"]
    assert len(found) == 1
    return found[0]


async def rule(client: Client, of: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"security_group_rule": {"security_group_id": of["id"], "direction": "ingress", **more}}
    found: dict[str, Any] = (await client.post(RULES, body))["security_group_rule"]
    return found


async def test_a_project_has_a_default_group(client: Client) -> None:
    alice = client.as_("alice")
    mine = await default(alice)
    assert (mine["description"], mine["stateful"], mine["shared"]) == ("Default security group", True, False)
    found = {(one["direction"], one["ethertype"], one["remote_group_id"]) for one in mine["security_group_rules"]}
    assert found == {(way, f"IPv{n}", mine["id"] if way == "ingress" else None) for way in ("ingress", "egress") for n in (4, 6)}
    assert {one["belongs_to_default_sg"] for one in mine["security_group_rules"]} == {True}
    assert (await default(client.as_("bob")))["id"] != mine["id"]
    path = f"{GROUPS}/{mine['id']}"
    await alice.refused("PUT", path, {"security_group": {"name": "mine"}}, status=409, kind="SecurityGroupCannotUpdateDefault")
    assert (await alice.put(path, {"security_group": {"description": "d"}}))["security_group"]["description"] == "d"
    await alice.refused("DELETE", path, status=409, kind="SecurityGroupCannotRemoveDefault")
    await client.delete(path)
    assert (await default(alice))["id"] != mine["id"]


async def test_listing_rules_makes_the_default_group_too(client: Client) -> None:
    assert len((await client.as_("eve").get(RULES))["security_group_rules"]) == 4


async def test_a_groups_life(client: Client) -> None:
    alice = client.as_("alice")
    made = await group(alice, description="d", stateful="false")
    expected = {
        "id": made["id"],
        "name": "web",
        "description": "d",
        "tenant_id": "p-alice",
        "project_id": "p-alice",
        "stateful": False,
        "shared": False,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
        "revision_number": 1,
    }
    rules = made.pop("security_group_rules")
    assert made == expected
    assert [(one["direction"], one["ethertype"], one["protocol"], one["remote_group_id"]) for one in rules] == [
        ("egress", "IPv4", None, None),
        ("egress", "IPv6", None, None),
    ]
    path = f"{GROUPS}/{made['id']}"
    changed = (await alice.put(path, {"security_group": {"name": "w", "stateful": True}}))["security_group"]
    assert (changed["name"], changed["stateful"], changed["revision_number"]) == ("w", True, 2)
    await alice.delete(path)
    assert await alice.refused("GET", path, status=404, kind="SecurityGroupNotFound") == f"Security group {made['id']} does not exist"
    for method, body in (("PUT", {"security_group": {}}), ("DELETE", None)):
        await alice.refused(method, path, body, status=404, kind="SecurityGroupNotFound")
    for name in ("default", "Default"):
        await alice.refused("POST", GROUPS, {"security_group": {"name": name}}, status=409, kind="SecurityGroupDefaultAlreadyExists")
    for bad in ({"name": 1}, {"id": "x"}, {"shared": True}, {"stateful": "perhaps"}, {"project_id": "p-bob"}):
        await alice.refused("POST", GROUPS, {"security_group": bad}, status=400, kind="HTTPBadRequest")


async def test_lists_filters_pages_and_bulk(client: Client) -> None:
    made = (await client.post(GROUPS, {"security_groups": [{"name": "a"}, {"name": "b", "stateful": False}]}))["security_groups"]
    assert [one["name"] for one in made] == ["a", "b"]

    async def names(**query: Any) -> list[str]:
        return sorted(one["name"] for one in (await client.get(GROUPS, **query))["security_groups"])

    assert await names() == ["a", "b", "default"]
    assert await names(stateful="false") == ["b"]
    assert await names(shared="true") == []
    assert await names(project_id="p-alice") == []
    page = await client.get(GROUPS, limit=2, sort_key="name", sort_dir="desc")
    assert [one["name"] for one in page["security_groups"]] == ["default", "b"]
    link = page["security_groups_links"][0]["href"]
    assert link.startswith("http://pileus/network/v2.0/security-groups?")
    rest = await client.get(link.removeprefix("http://pileus/network"))
    assert [one["name"] for one in rest["security_groups"]] == ["a"]
    assert (await client.get(GROUPS, name="a", fields="id"))["security_groups"] == [{"id": made[0]["id"]}]
    await rule(client, made[0], protocol="tcp", port_range_min=1, port_range_max=2, remote_ip_prefix="10.0.0.1/24", description="d")
    for query in (
        {"protocol": "tcp"},
        {"security_group_id": made[0]["id"], "direction": "ingress"},
        {"port_range_min": 1, "port_range_max": 2},
        {"normalized_cidr": "10.0.0.0/24"},
        {"remote_ip_prefix": "10.0.0.1/24"},
        {"description": "d", "ethertype": "ipv4", "belongs_to_default_sg": "false"},
    ):
        assert len((await client.get(RULES, **query))["security_group_rules"]) == 1, query
    assert len((await client.get(RULES, belongs_to_default_sg="true"))["security_group_rules"]) == 4
    await client.refused("GET", RULES, status=400, kind="SecurityGroupRuleInvalidEtherType", ethertype="ipx")


TAKEN: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {"ethertype": "IPv4", "protocol": None}, {}),
    ({"protocol": "any", "direction": "egress"}, {"protocol": None}, {"direction": "egress"}),
    (
        {"protocol": "TCP", "port_range_min": "22", "port_range_max": 22},
        {"protocol": "tcp"},
        {"protocol": 6, "port_min": 22, "port_max": 22},
    ),
    ({"protocol": 17}, {"protocol": "17"}, {"protocol": 17}),
    ({"protocol": "udp", "port_range_min": 1, "port_range_max": 65535}, {"port_range_min": None}, {"protocol": 17}),
    ({"protocol": "icmp", "port_range_min": 8}, {"port_range_max": None}, {"protocol": 1, "port_min": 8}),
    (
        {"protocol": "icmp", "ethertype": "ipv6", "port_range_min": 128, "port_range_max": 0},
        {"protocol": "ipv6-icmp", "ethertype": "IPv6"},
        {"ip_version": 6, "protocol": 58, "port_min": 128, "port_max": 0},
    ),
    ({"protocol": "1", "ethertype": "IPv6"}, {"protocol": "58"}, {"ip_version": 6, "protocol": 58}),
    ({"protocol": "icmpv6", "ethertype": "IPv6"}, {"protocol": "ipv6-icmp"}, {"ip_version": 6, "protocol": 58}),
    ({"protocol": "ip"}, {"protocol": "ip"}, {}),
    ({"remote_ip_prefix": "0.0.0.0/0"}, {"remote_ip_prefix": "0.0.0.0/0", "normalized_cidr": "0.0.0.0/0"}, {}),
    (
        {"remote_ip_prefix": "10.0.0.9/24"},
        {"remote_ip_prefix": "10.0.0.9/24", "normalized_cidr": "10.0.0.0/24"},
        {"remote_cidr": "10.0.0.0/24"},
    ),
    ({"remote_ip_prefix": "10.0.0.9"}, {"remote_ip_prefix": "10.0.0.9/32"}, {"remote_cidr": "10.0.0.9/32"}),
    (
        {"remote_ip_prefix": "fd00::1", "ethertype": "IPv6"},
        {"normalized_cidr": "fd00::1/128"},
        {"ip_version": 6, "remote_cidr": "fd00::1/128"},
    ),
    ({"remote_ip_prefix": None, "remote_group_id": None}, {"remote_ip_prefix": None}, {}),
]


async def test_rules_that_are_taken(client: Client, network: Network) -> None:
    of = await group(client, "g")
    for one in of["security_group_rules"]:
        await client.delete(f"{RULES}/{one['id']}")
    for given, shown, told in TAKEN:
        made = await rule(client, of, **given)
        assert shown.items() <= made.items()
        assert (await client.get(f"{RULES}/{made['id']}"))["security_group_rule"] == made
        found = await network.store.read(security_rules.told, [of["id"]])
        expected: dict[str, Any] = {"direction": "ingress", "ip_version": 4, **told}
        assert found[of["id"]].rules == [SecurityRule(**expected)], given
        await client.delete(f"{RULES}/{made['id']}")


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"direction": "both"}, 400, "HTTPBadRequest", "'both' is not in"),
    ({"ethertype": "ARP"}, 400, "SecurityGroupRuleInvalidEtherType", "Allowed values are ['IPv4', 'IPv6']"),
    ({"ethertype": None}, 400, "SecurityGroupRuleInvalidEtherType", "None"),
    ({"protocol": "tcpp"}, 400, "SecurityGroupRuleInvalidProtocol", "tcpp not supported"),
    ({"protocol": 256}, 400, "SecurityGroupRuleInvalidProtocol", "256"),
    ({"protocol": -1}, 400, "SecurityGroupRuleInvalidProtocol", "-1"),
    ({"protocol": True}, 400, "SecurityGroupRuleInvalidProtocol", "True"),
    ({"protocol": ["tcp"]}, 400, "SecurityGroupRuleInvalidProtocol", "tcp"),
    ({"protocol": "ipv6-icmp"}, 400, "SecurityGroupEthertypeConflictWithProtocol", "Invalid ethertype IPv4 for protocol ipv6-icmp"),
    ({"protocol": "43"}, 400, "SecurityGroupEthertypeConflictWithProtocol", "43"),
    ({"port_range_min": 1, "port_range_max": 2}, 400, "SecurityGroupProtocolRequiredWithPorts", "specify protocol"),
    ({"protocol": "tcp", "port_range_min": 1}, 400, "SecurityGroupInvalidPortRange", "port_range_min must be <="),
    ({"protocol": "tcp", "port_range_min": 3, "port_range_max": 2}, 400, "SecurityGroupInvalidPortRange", "<="),
    ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 2}, 400, "SecurityGroupInvalidPortValue", "port 0"),
    ({"protocol": "tcp", "port_range_min": 65536}, 400, "SecurityGroupInvalidPortValue", "65536"),
    ({"protocol": "tcp", "port_range_min": "x"}, 400, "SecurityGroupInvalidPortValue", "x"),
    ({"protocol": "gre", "port_range_min": 1, "port_range_max": 1}, 400, "SecurityGroupInvalidProtocolForPort", "TCP, UDP"),
    ({"protocol": "icmp", "port_range_max": 0}, 400, "SecurityGroupMissingIcmpType", "ICMP code (port-range-max) 0"),
    ({"protocol": "icmp", "port_range_min": 256}, 400, "SecurityGroupInvalidIcmpValue", "ICMP type (port_range_min) 256"),
    ({"protocol": "icmp", "port_range_min": 1, "port_range_max": 999}, 400, "SecurityGroupInvalidIcmpValue", "code"),
    ({"remote_ip_prefix": "10.0.0.0/33"}, 400, "InvalidCIDR", "10.0.0.0/33"),
    ({"remote_ip_prefix": "fd00::/8"}, 400, "SecurityGroupRuleParameterConflict", "ethertype IPv4 for CIDR fd00::/8"),
    ({"remote_group_id": NOBODY}, 404, "SecurityGroupNotFound", NOBODY),
    ({"remote_address_group_id": NOBODY}, 404, "AddressGroupNotFound", NOBODY),
    ({"remote_group_id": NOBODY, "remote_ip_prefix": "10.0.0.0/8"}, 400, "SecurityGroupMultipleRemoteEntites", "Only one of"),
    ({"security_group_id": NOBODY}, 404, "SecurityGroupNotFound", NOBODY),
    ({"normalized_cidr": "10.0.0.0/8"}, 400, "HTTPBadRequest", "normalized_cidr"),
]


async def test_rules_that_are_refused(client: Client) -> None:
    of = await default(client)
    for given, status, kind, words in REFUSED:
        body = {"security_group_rule": {"security_group_id": of["id"], "direction": "ingress", **given}}
        assert words in await client.refused("POST", RULES, body, status=status, kind=kind), given


async def test_rules_alike_and_of_several_groups(client: Client) -> None:
    one, other = await group(client, "one"), await group(client, "other")
    http = {"protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
    made = await rule(client, one, **http, remote_ip_prefix="0.0.0.0/0")
    again = {"security_group_id": one["id"], "direction": "ingress", "description": "again", **http, "protocol": "6"}
    said = await client.refused("POST", RULES, {"security_group_rule": again}, status=409, kind="SecurityGroupRuleExists")
    assert said == f"Security group rule already exists. Rule id is {made['id']}."
    ssh = {"security_group_id": one["id"], "direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22}
    twice = {"security_group_rules": [ssh, ssh]}
    await client.refused("POST", RULES, twice, status=409, kind="DuplicateSecurityGroupRuleInPost")
    mixed = {"security_group_rules": [ssh, {**ssh, "security_group_id": other["id"]}]}
    await client.refused("POST", RULES, mixed, status=400, kind="SecurityGroupNotSingleGroupRules")
    bad = {"security_group_rules": [ssh, again]}
    await client.refused("POST", RULES, bad, status=409, kind="SecurityGroupRuleExists")
    assert len((await client.get(f"{GROUPS}/{one['id']}"))["security_group"]["security_group_rules"]) == 3
    both = (await client.post(RULES, {"security_group_rules": [ssh, {**ssh, "ethertype": "IPv6"}]}))["security_group_rules"]
    assert [found["ethertype"] for found in both] == ["IPv4", "IPv6"]
    path = f"{RULES}/{made['id']}"
    assert (await client.put(path, {"security_group_rule": {"description": "d"}}))["security_group_rule"]["description"] == "d"
    for name, value in (("direction", "egress"), ("protocol", "udp"), ("security_group_id", other["id"])):
        await client.refused("PUT", path, {"security_group_rule": {name: value}}, status=400, kind="HTTPBadRequest")
    await client.delete(path)
    for method, body in (("GET", None), ("DELETE", None), ("PUT", {"security_group_rule": {}})):
        await client.refused(method, path, body, status=404, kind="SecurityGroupRuleNotFound")


async def test_other_projects_groups_are_invisible(client: Client) -> None:
    alice, bob = client.as_("alice"), client.as_("bob")
    hers, addresses = await group(alice), (await alice.post(ADDRESSES, {"address_group": {"name": "a"}}))["address_group"]
    one = hers["security_group_rules"][0]
    for path, kind in ((f"{GROUPS}/{hers['id']}", "SecurityGroupNotFound"), (f"{RULES}/{one['id']}", "SecurityGroupRuleNotFound")):
        await bob.refused("GET", path, status=404, kind=kind)
        await bob.refused("DELETE", path, status=404, kind=kind)
    await bob.refused("GET", f"{ADDRESSES}/{addresses['id']}", status=404, kind="AddressGroupNotFound")
    assert hers["id"] not in {found["id"] for found in (await bob.get(GROUPS))["security_groups"]}
    assert {found["project_id"] for found in (await bob.get(RULES))["security_group_rules"]} == {"p-bob"}
    his = await default(bob)
    for given, kind in (
        ({"security_group_id": hers["id"]}, "SecurityGroupNotFound"),
        ({"security_group_id": his["id"], "remote_group_id": hers["id"]}, "SecurityGroupNotFound"),
        ({"security_group_id": his["id"], "remote_address_group_id": addresses["id"]}, "AddressGroupNotFound"),
    ):
        await bob.refused("POST", RULES, {"security_group_rule": {"direction": "ingress", **given}}, status=404, kind=kind)
    network, _ = await bob.network()
    port = {"port": {"network_id": network["id"], "security_groups": [hers["id"]]}}
    await bob.refused("POST", PORTS, port, status=404, kind="SecurityGroupNotFound")
    await client.as_("eve").refused("POST", GROUPS, {"security_group": {}}, status=403, kind="HTTPForbidden")
    # An admin may add to anybody's group: the rule is its owner's.
    assert (await rule(client, hers, protocol="tcp"))["project_id"] == "p-alice"


async def test_ports_have_groups(client: Client) -> None:
    alice = client.as_("alice")
    network, _ = await alice.network()
    mine, web, quick = await default(alice), await group(alice), await group(alice, "quick", stateful=False)
    plain = await alice.port(network)
    assert plain["security_groups"] == [mine["id"]]
    assert (await alice.port(network, security_groups=None))["security_groups"] == []
    both = await alice.port(network, security_groups=[web["id"], mine["id"]])
    assert both["security_groups"] == [web["id"], mine["id"]]
    (dhcp,) = (await client.get(PORTS, device_owner="network:dhcp"))["ports"]
    assert dhcp["security_groups"] == []
    assert (await alice.port(network, port_security_enabled=False))["security_groups"] == []
    assert [port["id"] for port in (await alice.get(PORTS, security_groups=web["id"]))["ports"]] == [both["id"]]
    path = f"{PORTS}/{plain['id']}"
    assert (await alice.put(path, {"port": {"security_groups": [web["id"]]}}))["port"]["security_groups"] == [web["id"]]
    assert (await alice.get(path))["port"]["security_groups"] == [web["id"]]
    for ids, status, kind in (
        ([NOBODY], 404, "SecurityGroupNotFound"),
        (["web"], 400, "HTTPBadRequest"),
        ([web["id"]] * 2, 400, "HTTPBadRequest"),
        ("web", 400, "HTTPBadRequest"),
        ([web["id"], quick["id"]], 409, "SecurityGroupConflict"),
    ):
        await alice.refused("PUT", path, {"port": {"security_groups": ids}}, status=status, kind=kind)
        await alice.refused("POST", PORTS, {"port": {"network_id": network["id"], "security_groups": ids}}, status=status, kind=kind)
    off = {"port": {"network_id": network["id"], "security_groups": [web["id"]], "port_security_enabled": False}}
    await alice.refused("POST", PORTS, off, status=400, kind="PortSecurityAndIPRequiredForSecurityGroups")
    await alice.refused("PUT", path, {"port": {"port_security_enabled": False}}, status=409, kind="PortSecurityPortHasSecurityGroup")
    for used in (mine, web):
        said = await client.refused("DELETE", f"{GROUPS}/{used['id']}", status=409, kind="SecurityGroupInUse")
        assert said == f"Security Group {used['id']} in use."
    await alice.refused("PUT", f"{GROUPS}/{web['id']}", {"security_group": {"stateful": False}}, status=409, kind="SecurityGroupInUse")
    await alice.put(f"{GROUPS}/{web['id']}", {"security_group": {"stateful": True}})
    freed = (await alice.put(path, {"port": {"port_security_enabled": False, "security_groups": []}}))["port"]
    assert (freed["security_groups"], freed["port_security_enabled"]) == ([], False)
    await alice.refused(
        "PUT", path, {"port": {"security_groups": [web["id"]]}}, status=400, kind="PortSecurityAndIPRequiredForSecurityGroups"
    )
    await alice.delete(f"{PORTS}/{both['id']}")
    await alice.delete(f"{GROUPS}/{web['id']}")


async def test_a_host_is_told_of_a_ports_groups(client: Client, network: Network, bus: InProcessBus) -> None:
    heard: list[PortsChanged] = []

    async def hear(message: PortsChanged) -> None:
        heard.append(message)

    bus.subscribe(ports_subject("h1"), PortsChanged, hear)
    alice = client.as_("alice")
    net, _ = await alice.network("red")
    web, mine = await group(alice), await default(alice)
    wired = await network.client.allocate(ALICE, "s1", [RequestedNic(network_id=net["id"])], host="h1", key="k", hostname="x", zone="nova")
    assert (wired[0].security_groups, wired[0].network_name) == ([mine["id"]], "red")
    path = f"{PORTS}/{wired[0].port_id}"
    await alice.put(path, {"port": {"security_groups": [web["id"]]}})
    await alice.put(path, {"port": {"name": "x"}})
    await network.client.add_security_group(ALICE, "s1", "default")
    async with asyncio.timeout(10):
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    assert [message.ports[0].security_groups for message in heard] == [[web["id"]], [web["id"], mine["id"]]]


async def test_a_deleted_group_takes_rules_that_name_it_along(client: Client) -> None:
    alice = client.as_("alice")
    web, db = await group(alice), await group(alice, "db")
    await rule(alice, db, remote_group_id=web["id"], protocol="tcp")
    before = (await alice.get(f"{GROUPS}/{db['id']}"))["security_group"]
    await alice.delete(f"{GROUPS}/{web['id']}")
    after = (await alice.get(f"{GROUPS}/{db['id']}"))["security_group"]
    assert [len(one["security_group_rules"]) for one in (before, after)] == [3, 2]
    used = (await alice.get("/v2.0/quotas/p-alice/details"))["quota"]
    assert [used[name]["used"] for name in ("security_group", "security_group_rule")] == [2, 6]


async def test_quotas_of_groups_and_rules(client: Client) -> None:
    alice = client.as_("alice")
    await client.put("/v2.0/quotas/p-alice", {"quota": {"security_group": 2, "security_group_rule": 7}})
    web = await group(alice)
    assert "security_group'" in await alice.refused("POST", GROUPS, {"security_group": {}}, status=409, kind="OverQuota")
    made = await rule(alice, web, protocol="tcp")
    new = {"security_group_rule": {"security_group_id": web["id"], "direction": "ingress", "protocol": "udp"}}
    assert "security_group_rule'" in await alice.refused("POST", RULES, new, status=409, kind="OverQuota")
    await alice.delete(f"{RULES}/{made['id']}")
    await alice.post(RULES, new)
    await alice.delete(f"{GROUPS}/{web['id']}")
    used = (await alice.get("/v2.0/quotas/p-alice/details"))["quota"]
    assert [used[name]["used"] for name in ("security_group", "security_group_rule")] == [1, 4]


async def test_no_quota_stands_in_a_boots_way(client: Client) -> None:
    """The default group is made though there is no room for it: it was not asked for."""
    await client.put("/v2.0/quotas/p-alice", {"quota": {"security_group": 0, "security_group_rule": 0}})
    network, _ = await client.as_("alice").network()
    assert len((await client.as_("alice").port(network))["security_groups"]) == 1


async def test_address_groups(client: Client) -> None:
    alice = client.as_("alice")
    body = {"name": "offices", "description": "d", "addresses": ["10.0.0.9/24", "fd00::/8", "10.0.0.0/24"]}
    made = (await alice.post(ADDRESSES, {"address_group": body}))["address_group"]
    assert (made["name"], made["description"], made["addresses"]) == ("offices", "d", ["10.0.0.0/24", "fd00::/8"])
    path = f"{ADDRESSES}/{made['id']}"
    assert (await alice.put(path, {"address_group": {"name": "o"}}))["address_group"]["name"] == "o"
    more = (await alice.put(f"{path}/add_addresses", {"addresses": ["192.0.2.1/32"]}))["address_group"]
    assert more["addresses"] == ["10.0.0.0/24", "192.0.2.1/32", "fd00::/8"]
    there = {"addresses": ["192.0.2.1/32", "192.0.2.2/32"]}
    await alice.refused("PUT", f"{path}/add_addresses", there, status=400, kind="AddressesAlreadyExist")
    await alice.refused("PUT", f"{path}/remove_addresses", there, status=404, kind="AddressesNotFound")
    fewer = (await alice.put(f"{path}/remove_addresses", {"addresses": ["192.0.2.1/32", "fd00::/8"]}))["address_group"]
    assert fewer["addresses"] == ["10.0.0.0/24"]
    for bad in (["10.0.0.1"], ["x/8"], "10.0.0.0/8", [1]):
        await alice.refused("PUT", f"{path}/add_addresses", {"addresses": bad}, status=400, kind="HTTPBadRequest")
        await alice.refused("POST", ADDRESSES, {"address_group": {"addresses": bad}}, status=400, kind="HTTPBadRequest")
    await alice.refused("PUT", f"{path}/add_addresses", {}, status=400, kind="HTTPBadRequest")
    many = [f"172.{n >> 8}.{n & 255}.0/24" for n in range(5001)]
    assert "at most 5000" in await alice.refused("PUT", f"{path}/add_addresses", {"addresses": many}, status=400, kind="InvalidInput")
    named = await rule(alice, await group(alice), remote_address_group_id=made["id"], protocol="tcp")
    assert named["remote_address_group_id"] == made["id"]
    await alice.refused("DELETE", path, status=409, kind="AddressGroupInUse")
    await alice.delete(f"{RULES}/{named['id']}")
    await alice.delete(path)
    assert (await alice.get(ADDRESSES))["address_groups"] == []


def test_the_extensions_of_it_are_offered() -> None:
    assert {
        "security-group",
        "stateful-security-group",
        "address-group",
        "security-groups-remote-address-group",
        "security-groups-normalized-cidr",
        "security-groups-shared-filtering",
        "security-groups-rules-belongs-to-default-sg",
        "port-security-groups-filtering",
    } <= extensions.OFFERED.keys()
