"""A server's security groups: asked for, shown, changed. Which there are is the network service's to say."""

from __future__ import annotations

from pileus.clients.network import IngressRule, SecurityGroup
from pileus.compute.service import Compute
from tests.compute import parts
from tests.compute.api.conftest import Api

WEB = SecurityGroup(
    "g-web",
    "web",
    "p1",
    "of the web",
    (
        IngressRule("r1", 4, "tcp", 80, 81, remote_cidr="10.0.0.0/8"),
        IngressRule("r2", 6, "udp", None, None),
        IngressRule("r3", 4, "icmp", None, None, remote_group=("db", "p1")),
        IngressRule("r4", 4, None, None, None),
    ),
)
BARE = SecurityGroup("g-bare", "", "p1")


def networks(compute: Compute) -> parts.Networks:
    assert isinstance(compute.network, parts.Networks)
    return compute.network


async def test_groups_asked_for_go_to_the_network_service(api: Api, compute: Compute) -> None:
    body = {"server": {"name": "one", "flavorRef": "1", "networks": "none", "security_groups": [{"name": "web"}, {"name": "web"}]}}
    answer = await api.call("POST", "/servers", body=body)
    assert answer.json()["server"]["security_groups"] == [{"name": "web"}]
    assert networks(compute).wanted_groups == [["web", "web"]]
    await api.make()
    assert networks(compute).wanted_groups[-1] == []
    body["server"]["security_groups"] = [{"name": "gone"}]
    assert "Security group gone not found" in await api.refused(400, "POST", "/servers", body)


async def test_groups_are_shown_by_name(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    networks(compute).groups[server_id] = [WEB, BARE]
    assert "security_groups" not in (await api.get(f"/servers/{server_id}"))["server"]  # it is being built
    await parts.run(compute, server_id)
    expected = [{"name": "web"}, {"name": "g-bare"}]
    assert (await api.get(f"/servers/{server_id}"))["server"]["security_groups"] == expected
    assert (await api.get("/servers/detail"))["servers"][0]["security_groups"] == expected
    networks(compute).groups.clear()
    assert "security_groups" not in (await api.get(f"/servers/{server_id}"))["server"]


async def test_groups_with_their_rules_as_nova_had_them(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    networks(compute).groups[server_id] = [WEB, BARE]
    bare, web = (await api.get(f"/servers/{server_id}/os-security-groups"))["security_groups"]
    assert bare == {"id": "g-bare", "name": "", "description": "", "tenant_id": "p1", "rules": []}
    assert [(rule["ip_protocol"], rule["from_port"], rule["to_port"], rule["group"], rule["ip_range"]) for rule in web["rules"]] == [
        ("tcp", 80, 81, {}, {"cidr": "10.0.0.0/8"}),
        ("udp", 1, 65535, {}, {"cidr": "::/0"}),
        ("icmp", -1, -1, {"name": "db", "tenant_id": "p1"}, {}),
        (None, None, None, {}, {"cidr": "0.0.0.0/0"}),
    ]
    assert {rule["parent_group_id"] for rule in web["rules"]} == {"g-web"}
    await api.refused(404, "GET", "/servers/nowhere/os-security-groups")


async def test_a_group_is_added_and_removed(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    path = f"/servers/{server_id}/action"
    for action in ("addSecurityGroup", "removeSecurityGroup"):
        assert (await api.call("POST", path, body={action: {"name": "web"}})).status_code == 202
        for bad in (None, {}, {"name": ""}, {"name": " "}, {"name": 1}, {"name": "x" * 256}):
            await api.refused(400, "POST", path, {action: bad})
        await api.refused(404, "POST", "/servers/nowhere/action", {action: {"name": "web"}})
    assert networks(compute).changed_groups == [("add", server_id, "web"), ("remove", server_id, "web")]
    assert "gone not found" in await api.refused(404, "POST", path, {"addSecurityGroup": {"name": "gone"}})
