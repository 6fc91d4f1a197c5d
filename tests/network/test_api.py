"""Neutron's v2.0 on the wire: what is offered, to whom, and each refusal."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pileus.bus.inprocess import InProcessBus
from pileus.clients.network import RequestedNic
from pileus.messages import AgentFacts, PortsChanged, ports_subject
from pileus.network import agents
from pileus.network.api import extensions
from pileus.network.service import Network
from tests.network.conftest import ADMIN, Client

NETS, SUBNETS, PORTS = "/v2.0/networks", "/v2.0/subnets", "/v2.0/ports"


async def test_discovery_needs_no_token(client: Client) -> None:
    stranger = client.as_("nobody")
    versions = await stranger.get("/")
    assert versions["versions"][0]["id"] == "v2.0"
    assert versions["versions"][0]["links"] == [{"rel": "self", "href": "http://pileus/network/v2.0/"}]
    for path in ("/v2.0", "/v2.0/"):
        listed = (await stranger.get(path))["resources"]
        for item in listed:
            await client.get(item["links"][0]["href"].removeprefix("http://pileus/network"))
    await stranger.get(NETS, expect=401)


async def test_a_networks_life(client: Client) -> None:
    alice = client.as_("alice")
    made = (await alice.post(NETS, {"network": {"name": "red", "description": "d", "mtu": 1400}}))["network"]
    assert made == {
        "id": made["id"],
        "name": "red",
        "description": "d",
        "tenant_id": "p-alice",
        "project_id": "p-alice",
        "admin_state_up": True,
        "status": "ACTIVE",
        "shared": False,
        "mtu": 1400,
        "port_security_enabled": True,
        "router:external": False,
        "subnets": [],
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
        "revision_number": 1,
    }
    assert made["created_at"].endswith("Z")
    path = f"{NETS}/{made['id']}"
    assert (await alice.get(path))["network"] == made
    shown = (await client.get(path))["network"]
    assert (shown["provider:network_type"], shown["provider:physical_network"]) == ("geneve", None)
    assert 1 <= shown["provider:segmentation_id"] < 1 << 24
    changed = (await alice.put(path, {"network": {"name": "blue", "admin_state_up": "False", "mtu": 0}}))["network"]
    assert (changed["name"], changed["admin_state_up"], changed["mtu"], changed["revision_number"]) == ("blue", False, 1442, 2)
    await alice.delete(path)
    assert await alice.refused("GET", path, status=404, kind="NetworkNotFound")


async def test_a_subnets_life(client: Client) -> None:
    alice = client.as_("alice")
    network, made = await alice.network()
    expected = {
        "name": "",
        "description": "",
        "network_id": network["id"],
        "tenant_id": "p-alice",
        "project_id": "p-alice",
        "ip_version": 4,
        "cidr": "10.0.0.0/24",
        "gateway_ip": "10.0.0.1",
        "enable_dhcp": True,
        "allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.254"}],
        "dns_nameservers": [],
        "host_routes": [],
        "ipv6_ra_mode": None,
        "ipv6_address_mode": None,
        "subnetpool_id": None,
    }
    assert expected.items() <= made.items()
    assert (await alice.get(f"{NETS}/{network['id']}"))["network"]["subnets"] == [made["id"]]
    path = f"{SUBNETS}/{made['id']}"
    body = {
        "name": "s",
        "dns_nameservers": ["9.9.9.9", "2620:fe::fe"],
        "host_routes": [{"destination": "192.168.0.0/16", "nexthop": "10.0.0.9"}],
        "gateway_ip": "10.0.0.254",
        "allocation_pools": [{"start": "10.0.0.10", "end": "10.0.0.20"}],
    }
    changed = (await alice.put(path, {"subnet": body}))["subnet"]
    assert body.items() <= changed.items()
    assert (await alice.port(network))["fixed_ips"][0]["ip_address"] == "10.0.0.10"
    await alice.refused("DELETE", path, status=409, kind="SubnetInUse")
    await alice.put(path, {"subnet": {"gateway_ip": None}})
    assert (await alice.get(path))["subnet"]["gateway_ip"] is None


@pytest.mark.parametrize(
    ("more", "gateway", "pools"),
    [
        ({"cidr": "10.1.2.3/24"}, "10.1.2.1", [("10.1.2.2", "10.1.2.254")]),
        ({"cidr": "10.1.2.0/24", "gateway_ip": "10.1.2.9"}, "10.1.2.9", [("10.1.2.1", "10.1.2.8"), ("10.1.2.10", "10.1.2.254")]),
        ({"cidr": "10.1.2.0/24", "gateway_ip": None}, None, [("10.1.2.1", "10.1.2.254")]),
        ({"cidr": "10.1.2.0/31", "enable_dhcp": False}, "10.1.2.0", [("10.1.2.1", "10.1.2.1")]),
        ({"cidr": "10.1.2.7/32", "enable_dhcp": False}, None, [("10.1.2.7", "10.1.2.7")]),
        (
            {"cidr": "2001:db8::/64", "ip_version": 6, "enable_dhcp": False},
            "2001:db8::1",
            [("2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff")],
        ),
    ],
)
async def test_gateways_and_pools_by_default(client: Client, more: dict[str, Any], gateway: str, pools: list[tuple[str, str]]) -> None:
    network, _ = await client.network(cidr=None)
    made = (await client.post(SUBNETS, {"subnet": {"network_id": network["id"], "ip_version": 4, **more}}))["subnet"]
    assert made["gateway_ip"] == gateway
    assert [(pool["start"], pool["end"]) for pool in made["allocation_pools"]] == pools


async def test_a_ports_life(client: Client) -> None:
    alice = client.as_("alice")
    network, subnet = await alice.network()
    made = await alice.port(network, name="p")
    assert made == {
        "id": made["id"],
        "name": "p",
        "description": "",
        "network_id": network["id"],
        "tenant_id": "p-alice",
        "project_id": "p-alice",
        "mac_address": made["mac_address"],
        "admin_state_up": True,
        "status": "DOWN",
        "device_id": "",
        "device_owner": "",
        "fixed_ips": [{"subnet_id": subnet["id"], "ip_address": "10.0.0.3"}],
        "allowed_address_pairs": [],
        "port_security_enabled": True,
        "security_groups": made["security_groups"],
        "binding:vnic_type": "normal",
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
        "revision_number": 1,
    }
    assert made["mac_address"].startswith("fa:16:3e:")
    path = f"{PORTS}/{made['id']}"
    shown = (await client.get(path))["port"]
    assert (shown["binding:vif_type"], shown["binding:host_id"], shown["binding:vif_details"]) == ("unbound", "", {})
    pairs = [{"ip_address": "10.0.0.200"}, {"ip_address": "10.9.0.0/16", "mac_address": "FA-16-3E-00-00-01"}]
    ips = [{"ip_address": "10.0.0.77"}, {"subnet_id": subnet["id"]}]
    body = {"allowed_address_pairs": pairs, "fixed_ips": ips, "device_id": "mine", "mac_address": "02:00:00:00:00:01"}
    changed = (await alice.put(path, {"port": body}))["port"]
    assert [ip["ip_address"] for ip in changed["fixed_ips"]] == ["10.0.0.77", "10.0.0.3"]
    assert changed["allowed_address_pairs"] == [
        {"ip_address": "10.0.0.200", "mac_address": "02:00:00:00:00:01"},
        {"ip_address": "10.9.0.0/16", "mac_address": "fa:16:3e:00:00:01"},
    ]
    assert (await alice.get(path))["port"] == changed
    assert (await alice.put(path, {"port": {"fixed_ips": []}}))["port"]["fixed_ips"] == []
    await alice.delete(path)
    await alice.refused("GET", path, status=404, kind="PortNotFound")


async def test_the_dhcp_port_is_one_a_network(client: Client) -> None:
    network, subnet = await client.network()
    second = {"subnet": {"network_id": network["id"], "cidr": "10.0.1.0/24", "ip_version": 4}}
    other = (await client.post(SUBNETS, second))["subnet"]
    (port,) = (await client.get(PORTS, device_owner="network:dhcp"))["ports"]
    assert [ip["subnet_id"] for ip in port["fixed_ips"]] == [subnet["id"], other["id"]]
    assert port["status"] == "ACTIVE"
    await client.refused("DELETE", f"{PORTS}/{port['id']}", status=409, kind="ServicePortInUse")
    await client.refused("PUT", f"{PORTS}/{port['id']}", {"port": {"fixed_ips": []}}, status=409, kind="ServicePortInUse")
    await client.put(f"{SUBNETS}/{subnet['id']}", {"subnet": {"enable_dhcp": False}})
    (port,) = (await client.get(PORTS))["ports"]
    assert [ip["subnet_id"] for ip in port["fixed_ips"]] == [other["id"]]
    await client.delete(f"{SUBNETS}/{other['id']}")
    assert (await client.get(PORTS))["ports"] == []
    await client.put(f"{SUBNETS}/{subnet['id']}", {"subnet": {"enable_dhcp": True}})
    assert len((await client.get(PORTS))["ports"]) == 1
    await client.delete(f"{NETS}/{network['id']}")
    assert (await client.get("/v2.0/quotas/p-admin/details"))["quota"] == {
        "network": {"limit": 100, "used": 0, "reserved": 0},
        "subnet": {"limit": 100, "used": 0, "reserved": 0},
        "port": {"limit": 500, "used": 0, "reserved": 0},
        "security_group": {"limit": 10, "used": 0, "reserved": 0},
        "security_group_rule": {"limit": 100, "used": 0, "reserved": 0},
    }


async def test_bulk_is_all_or_nothing(client: Client) -> None:
    made = (await client.post(NETS, {"networks": [{"name": "a"}, {"name": "b"}]}))["networks"]
    assert [network["name"] for network in made] == ["a", "b"]
    new = [{"network_id": made[0]["id"], "cidr": f"10.{i}.0.0/24", "ip_version": 4} for i in range(2)]
    assert len((await client.post(SUBNETS, {"subnets": new}))["subnets"]) == 2
    clash = {"network_id": made[0]["id"], "fixed_ips": [{"ip_address": "10.0.0.9"}]}
    before = (await client.get(PORTS))["ports"]
    await client.refused("POST", PORTS, {"ports": [clash, clash]}, status=409, kind="IpAddressAlreadyAllocated")
    assert (await client.get(PORTS))["ports"] == before
    assert len((await client.post(PORTS, {"ports": [clash, {"network_id": made[1]["id"]}]}))["ports"]) == 2


async def test_bodies_that_are_refused(client: Client) -> None:
    network, subnet = await client.network()
    nid = network["id"]
    body: Any
    more: dict[str, Any]
    values: dict[str, Any]

    async def refused(path: str, body: Any, status: int, kind: str, method: str = "POST") -> str:
        return await client.refused(method, path, body, status=status, kind=kind)

    async def net(status: int, kind: str, **values: Any) -> str:
        return await refused(NETS, {"network": values}, status, kind)

    async def sub(status: int, kind: str, **values: Any) -> str:
        return await refused(SUBNETS, {"subnet": {"network_id": nid, "ip_version": 4, "cidr": "10.5.0.0/24", **values}}, status, kind)

    async def port(status: int, kind: str, **values: Any) -> str:
        return await refused(PORTS, {"port": {"network_id": nid, **values}}, status, kind)

    assert await net(400, "HTTPBadRequest", color="red") == "Unrecognized attribute(s) 'color'"
    for body in ({}, {"network": 1}, {"networks": []}, {"networks": [1]}, {"subnet": {}}):
        await refused(NETS, body, 400, "HTTPBadRequest")
    await refused(NETS, [], 400, "HTTPBadRequest")
    for values in (
        {"name": None},
        {"name": 5},
        {"name": "x" * 256},
        {"admin_state_up": "maybe"},
        {"mtu": "big"},
        {"id": "x"},
        {"tags": []},
    ):
        await net(400, "HTTPBadRequest", **values)
    await net(400, "HTTPBadRequest", project_id="p1", tenant_id="p2")
    await net(400, "InvalidInput", mtu=10)
    await net(400, "InvalidInput", **{"router:external": True})
    for more in (
        {"provider:network_type": "gre"},
        {"provider:network_type": "vxlan", "provider:physical_network": "physnet1"},
        {"provider:network_type": "geneve", "provider:segmentation_id": 1 << 24},
        {"provider:network_type": "geneve", "mtu": 1443},
        {"provider:network_type": "vxlan", "mtu": 1451},
        {"provider:segmentation_id": 5},
        {"provider:network_type": "local", "provider:segmentation_id": 5},
        {"provider:network_type": "vlan", "provider:physical_network": "nowhere"},
        {"provider:network_type": "vlan", "provider:segmentation_id": 5},
        {"provider:network_type": "vlan", "provider:physical_network": "physnet1", "provider:segmentation_id": 4095},
    ):
        await net(400, "InvalidInput", **more)
    await refused(f"{NETS}/{nid}", {"network": {"provider:network_type": "vlan"}}, 400, "HTTPBadRequest", "PUT")

    for more in (
        {"cidr": "10.0.0.128/25"},
        {"cidr": "0.0.0.0/0"},
        {"cidr": "224.0.0.0/24"},
        {"cidr": "127.0.0.0/24"},
        {"ip_version": 6},
        {"gateway_ip": "10.6.0.1"},
        {"gateway_ip": "10.5.0.255"},
        {"gateway_ip": "x"},
        {"dns_nameservers": ["x"]},
        {"dns_nameservers": ["9.9.9.9", "9.9.9.9"]},
        {"host_routes": [{"destination": "x", "nexthop": "10.5.0.1"}]},
        {"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "x"}]},
        {"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "::1"}]},
        {"cidr": "2001:db8::/64", "ip_version": 6},
        {"ipv6_ra_mode": "slaac"},
        {"subnetpool_id": "x"},
        {"allocation_pools": [{"start": "x", "end": "10.5.0.9"}]},
    ):
        await sub(400, "InvalidInput", **more)
    assert "config drive" in await sub(400, "InvalidInput", cidr="2001:db8::/64", ip_version=6)
    for more in (
        {"cidr": "x"},
        {"ip_version": 5},
        {"gateway_ip": ""},
        {"allocation_pools": [{"start": "10.5.0.2"}]},
        {"allocation_pools": 1},
        {"allocation_pools": [1]},
        {"dns_nameservers": 1},
        {"host_routes": [{"destination": "10.0.0.0/8"}]},
        {"network_id": ""},
    ):
        await sub(400, "HTTPBadRequest", **more)
    await sub(400, "DNSNameServersExhausted", dns_nameservers=[f"9.9.9.{i}" for i in range(6)])
    await sub(400, "HostRoutesExhausted", host_routes=[{"destination": f"10.{i}.0.0/16", "nexthop": "10.5.0.2"} for i in range(21)])
    await sub(400, "InvalidAllocationPool", allocation_pools=[{"start": "10.5.0.9", "end": "10.5.0.2"}])
    await sub(400, "OutOfBoundsAllocationPool", allocation_pools=[{"start": "10.5.0.9", "end": "10.6.0.2"}])
    twice = [{"start": "10.5.0.2", "end": "10.5.0.9"}, {"start": "10.5.0.9", "end": "10.5.0.20"}]
    await sub(409, "OverlappingAllocationPools", allocation_pools=twice)
    await sub(409, "GatewayConflictWithAllocationPools", gateway_ip="10.5.0.3", allocation_pools=twice[:1])
    await sub(404, "NetworkNotFound", network_id="nowhere")
    missing = {"subnet": {"network_id": nid, "ip_version": 4}}
    assert await refused(SUBNETS, missing, 400, "HTTPBadRequest") == "Failed to parse request. Required attribute 'cidr' not specified"
    small, _ = await client.network("small", cidr=None, mtu=1000)
    await sub(409, "NetworkMTUSubnetConflict", network_id=small["id"], cidr="2001:db8::/64", ip_version=6, enable_dhcp=False)

    await port(404, "NetworkNotFound", network_id="nowhere")
    for more in (
        {"mac_address": "x"},
        {"mac_address": "01:00:00:00:00:00"},
        {"mac_address": "00:00:00:00:00:00"},
        {"fixed_ips": 1},
        {"fixed_ips": [{"address": "10.0.0.9"}]},
        {"fixed_ips": ["10.0.0.9"]},
        {"allowed_address_pairs": [{"mac_address": "02:00:00:00:00:01"}]},
        {"allowed_address_pairs": [{"ip_address": "x"}]},
        {"binding:profile": []},
        {"security_groups": ["web"]},
    ):
        await port(400, "HTTPBadRequest", **more)
    for more in (
        {"fixed_ips": [{}]},
        {"fixed_ips": [{"ip_address": "x"}]},
        {"fixed_ips": [{"ip_address": "fe80::1%eth0"}]},
        {"fixed_ips": [{"subnet_id": "nowhere"}]},
        {"fixed_ips": [{"subnet_id": subnet["id"]}] * 4},
        {"binding:vnic_type": "direct"},
        {"device_owner": "network:dhcp"},
    ):
        await port(400, "InvalidInput", **more)
    await port(400, "InvalidIpForNetwork", fixed_ips=[{"ip_address": "10.9.9.9"}])
    await port(400, "InvalidIpForNetwork", fixed_ips=[{"ip_address": "10.0.0.0"}])
    await port(400, "InvalidIpForSubnet", fixed_ips=[{"subnet_id": subnet["id"], "ip_address": "10.0.0.255"}])
    await port(409, "IpAddressAlreadyAllocated", fixed_ips=[{"ip_address": "10.0.0.2"}])
    pair = {"ip_address": "10.0.0.9"}
    await port(409, "AddressPairAndPortSecurityRequired", port_security_enabled=False, allowed_address_pairs=[pair])
    await port(400, "DuplicateAddressPairInRequest", allowed_address_pairs=[pair, pair])
    await port(400, "AllowedAddressPairExhausted", allowed_address_pairs=[{"ip_address": f"10.0.0.{i}"} for i in range(11)])
    one = await client.port(network, mac_address="02:00:00:00:00:01", allowed_address_pairs=[pair])
    await port(409, "MacAddressInUse", mac_address="02:00:00:00:00:01")
    off = {"port": {"port_security_enabled": False}}
    await refused(f"{PORTS}/{one['id']}", off, 409, "AddressPairAndPortSecurityRequired", "PUT")
    await refused(f"{PORTS}/{one['id']}", {"port": {"network_id": nid}}, 400, "HTTPBadRequest", "PUT")
    await refused(f"{PORTS}/{one['id']}", {"port": {"fixed_ips": None}}, 400, "HTTPBadRequest", "PUT")
    await refused(f"{NETS}/{nid}", None, 409, "NetworkInUse", "DELETE")


async def test_an_exhausted_pool(client: Client) -> None:
    network, _ = await client.network(cidr="10.0.0.0/29")
    made = [await client.port(network) for _ in range(4)]
    await client.refused("POST", PORTS, {"port": {"network_id": network["id"]}}, status=409, kind="IpAddressGenerationFailure")
    subnet_id = made[0]["fixed_ips"][0]["subnet_id"]
    body = {"port": {"network_id": network["id"], "fixed_ips": [{"subnet_id": subnet_id}]}}
    await client.refused("POST", PORTS, body, status=409, kind="IpAddressGenerationFailureForSubnet")
    assert (await client.get("/v2.0/quotas/p-admin/details"))["quota"]["port"]["used"] == 5
    await client.delete(f"{PORTS}/{made[1]['id']}")
    assert (await client.port(network))["fixed_ips"] == made[1]["fixed_ips"]


async def test_vlans_come_from_the_ranges(client: Client) -> None:
    vlan = {"provider:network_type": "vlan"}
    made = [(await client.network(str(i), cidr=None, **vlan))[0] for i in range(3)]
    assert sorted(network["provider:segmentation_id"] for network in made) == [100, 101, 102]
    await client.refused("POST", NETS, {"network": vlan}, status=409, kind="NoNetworkAvailable")
    there = vlan | {"provider:physical_network": "physnet1", "provider:segmentation_id": 101}
    await client.refused("POST", NETS, {"network": there}, status=409, kind="VlanIdInUse")
    outside = vlan | {"provider:physical_network": "physnet2", "provider:segmentation_id": 101}
    assert (await client.post(NETS, {"network": outside}))["network"]["provider:physical_network"] == "physnet2"
    await client.delete(f"{NETS}/{made[0]['id']}")
    assert (await client.post(NETS, {"network": vlan}))["network"]["provider:segmentation_id"] == 100


async def test_another_projects_things_do_not_exist(client: Client) -> None:
    alice, bob = client.as_("alice"), client.as_("bob")
    network, subnet = await alice.network()
    port = await alice.port(network)
    for path, name, kind in (
        (f"{NETS}/{network['id']}", "network", "NetworkNotFound"),
        (f"{SUBNETS}/{subnet['id']}", "subnet", "SubnetNotFound"),
        (f"{PORTS}/{port['id']}", "port", "PortNotFound"),
    ):
        await bob.refused("GET", path, status=404, kind=kind)
        await bob.refused("PUT", path, {name: {"name": "x"}}, status=404, kind=kind)
        await bob.refused("DELETE", path, status=404, kind=kind)
        assert await bob.get(path.rpartition("/")[0]) == {f"{name}s": []}
        assert len((await client.get(path.rpartition("/")[0]))[f"{name}s"]) >= 1
    await bob.refused("POST", PORTS, {"port": {"network_id": network["id"]}}, status=404, kind="NetworkNotFound")


async def test_a_shared_network(client: Client) -> None:
    bob = client.as_("bob")
    network, subnet = await client.network(shared=True)
    assert [n["id"] for n in (await bob.get(NETS))["networks"]] == [network["id"]]
    assert [s["id"] for s in (await bob.get(SUBNETS, shared="true"))["subnets"]] == [subnet["id"]]
    assert (await bob.get(PORTS))["ports"] == []
    port = await bob.port(network)
    body = {"network_id": network["id"]}
    for more in ({"mac_address": "02:00:00:00:00:01"}, {"fixed_ips": [{"ip_address": "10.0.0.9"}]}, {"port_security_enabled": False}):
        await bob.refused("POST", PORTS, {"port": body | more}, status=403, kind="PolicyNotAuthorized")
        await bob.refused("PUT", f"{PORTS}/{port['id']}", {"port": more}, status=403, kind="PolicyNotAuthorized")
    await bob.refused("POST", PORTS, {"port": body | {"device_owner": "network:x"}}, status=403, kind="PolicyNotAuthorized")
    await bob.refused("PUT", f"{NETS}/{network['id']}", {"network": {"name": "x"}}, status=403, kind="HTTPForbidden")
    await bob.refused("DELETE", f"{NETS}/{network['id']}", status=403, kind="HTTPForbidden")
    await bob.refused("PUT", f"{SUBNETS}/{subnet['id']}", {"subnet": {"name": "x"}}, status=403, kind="HTTPForbidden")
    await bob.refused("DELETE", f"{SUBNETS}/{subnet['id']}", status=403, kind="HTTPForbidden")
    new = {"subnet": {"network_id": network["id"], "cidr": "10.7.0.0/24", "ip_version": 4}}
    await bob.refused("POST", SUBNETS, new, status=403, kind="HTTPForbidden")
    unshare = {"network": {"shared": False}}
    await client.refused("PUT", f"{NETS}/{network['id']}", unshare, status=409, kind="InvalidSharedSetting")
    await bob.delete(f"{PORTS}/{port['id']}")
    await client.put(f"{NETS}/{network['id']}", unshare)
    assert (await bob.get(NETS))["networks"] == []


async def test_a_networks_owner_sees_all_ports_on_it(client: Client) -> None:
    alice = client.as_("alice")
    network, _ = await alice.network()
    port = await client.port(network, project_id="p-bob")
    assert port["id"] in [found["id"] for found in (await alice.get(PORTS))["ports"]]
    await alice.refused("PUT", f"{PORTS}/{port['id']}", {"port": {"name": "x"}}, status=403, kind="HTTPForbidden")
    await alice.delete(f"{PORTS}/{port['id']}")


async def test_roles(client: Client) -> None:
    alice, eve = client.as_("alice"), client.as_("eve")
    network, _ = await alice.network()
    assert len((await eve.get(NETS))["networks"]) == 1
    await eve.refused("POST", NETS, {"network": {}}, status=403, kind="HTTPForbidden")
    await eve.refused("DELETE", f"{NETS}/{network['id']}", status=403, kind="HTTPForbidden")
    await alice.get("/v2.0/agents", expect=403)
    for body in ({"shared": True}, {"provider:network_type": "vlan"}):
        await alice.refused("POST", NETS, {"network": body}, status=403, kind="PolicyNotAuthorized")
    await alice.post(NETS, {"network": {"shared": False}})
    await alice.refused("POST", NETS, {"network": {"project_id": "p-bob"}}, status=400, kind="HTTPBadRequest")
    new = {"port": {"network_id": network["id"], "binding:host_id": "h1"}}
    await alice.refused("POST", PORTS, new, status=403, kind="PolicyNotAuthorized")
    await alice.refused("GET", PORTS, status=400, kind="HTTPBadRequest", **{"binding:host_id": "h1"})
    assert (await client.post(NETS, {"network": {"project_id": "p-bob"}}))["network"]["tenant_id"] == "p-bob"


async def test_filters_fields_and_sorting(client: Client) -> None:
    for name in ("a", "b", "c"):
        await client.network(name, cidr=None, shared=name == "a", description="" if name == "b" else "some")

    async def names(**query: Any) -> list[str]:
        return [network["name"] for network in (await client.get(NETS, sort_key="name", sort_dir="asc", **query))["networks"]]

    assert await names() == ["a", "b", "c"]
    assert await names(name=["a", "c"]) == ["a", "c"]
    assert await names(shared="True") == ["a"]
    assert await names(description="") == ["b"]
    assert await names(**{"router:external": "True"}) == []
    assert await names(**{"router:external": "false"}, status="ACTIVE", mtu="1442") == ["a", "b", "c"]
    assert await names(**{"provider:network_type": "vlan"}) == []
    found = await client.get(NETS, sort_key="name", sort_dir="desc", fields=["name", "mtu"])
    assert found == {"networks": [{"name": name, "mtu": 1442} for name in "cba"]}
    for query in ({"color": "red"}, {"shared": "maybe"}, {"mtu": "x"}):
        await client.refused("GET", NETS, status=400, kind="HTTPBadRequest", **query)
    await client.get(NETS, sort_key="nothing", expect=400)
    await client.get(NETS, limit="-1", expect=400)
    one = (await client.get(NETS, name="a", fields="id"))["networks"][0]
    assert await client.get(f"{NETS}/{one['id']}", fields="name") == {"network": {"name": "a"}}


async def test_ports_by_address(client: Client) -> None:
    network, subnet = await client.network()
    one, two = [await client.port(network, fixed_ips=[{"ip_address": f"10.0.0.{i}"}]) for i in (50, 51)]

    async def ids(*values: str) -> list[str]:
        return sorted(port["id"] for port in (await client.get(PORTS, device_owner="", fixed_ips=list(values)))["ports"])

    assert await ids("ip_address=10.0.0.50") == [one["id"]]
    assert await ids("ip_address=10.0.0.50", "ip_address=10.0.0.51") == sorted([one["id"], two["id"]])
    assert await ids(f"subnet_id={subnet['id']}") == sorted([one["id"], two["id"]])
    assert await ids(f"subnet_id={subnet['id']}", "ip_address=10.0.0.51") == [two["id"]]
    assert await ids("ip_address_substr=0.5") == sorted([one["id"], two["id"]])
    assert await ids("ip_address_substr=%") == []
    await client.get(PORTS, fixed_ips="10.0.0.50", expect=400)
    await client.get(PORTS, fixed_ips="ip_address=x", expect=400)
    assert [p["id"] for p in (await client.get(PORTS, mac_address=one["mac_address"].upper()))["ports"]] == [one["id"]]
    dns = {"subnet": {"dns_nameservers": ["9.9.9.9"]}}
    await client.put(f"{SUBNETS}/{subnet['id']}", dns)
    assert len((await client.get(SUBNETS, dns_nameservers="9.9.9.9"))["subnets"]) == 1
    assert (await client.get(SUBNETS, dns_nameservers="9.9.9"))["subnets"] == []


async def test_pages_with_links(client: Client) -> None:
    for i in range(5):
        await client.network(f"n{i}", cidr=None)
    seen: list[str] = []
    page = await client.get(NETS, limit=2, sort_key="name", sort_dir="asc")
    assert [link["rel"] for link in page["networks_links"]] == ["next"]
    while True:
        seen += [network["name"] for network in page["networks"]]
        links = {link["rel"]: link["href"] for link in page.get("networks_links", [])}
        if "next" not in links:
            break
        page = await client.get(links["next"].removeprefix("http://pileus/network"))
    assert seen == [f"n{i}" for i in range(5)]
    back = await client.get(links["previous"].removeprefix("http://pileus/network"))
    assert [network["name"] for network in back["networks"]] == ["n2", "n3"]
    assert "networks_links" not in await client.get(NETS)
    assert len((await client.get(NETS, limit=0))["networks"]) == 5
    await client.refused("GET", NETS, status=400, kind="MarkerNotFound", marker="nowhere")


async def test_quotas(client: Client) -> None:
    alice = client.as_("alice")
    mine = "/v2.0/quotas/p-alice"
    assert (await alice.get(mine))["quota"] == {
        "network": 100,
        "subnet": 100,
        "port": 500,
        "security_group": 10,
        "security_group_rule": 100,
    }
    await alice.refused("PUT", mine, {"quota": {"port": 5}}, status=403, kind="HTTPForbidden")
    await alice.refused("GET", "/v2.0/quotas/p-bob", status=403, kind="HTTPForbidden")
    changed = (await client.put(mine, {"quota": {"network": 1, "port": 2, "subnet": 1}}))["quota"]
    assert (changed["network"], changed["port"]) == (1, 2)
    network, _ = await alice.network()
    assert await alice.refused("POST", NETS, {"network": {}}, status=409, kind="OverQuota") == (
        "Quota exceeded for resources: ['network']."
    )
    new = {"subnet": {"network_id": network["id"], "cidr": "10.7.0.0/24", "ip_version": 4}}
    await alice.refused("POST", SUBNETS, new, status=409, kind="OverQuota")
    await alice.port(network)
    await alice.refused("POST", PORTS, {"port": {"network_id": network["id"]}}, status=409, kind="OverQuota")
    assert (await alice.get(f"{mine}/details.json"))["quota"]["port"] == {"limit": 2, "used": 2, "reserved": 0}
    assert (await alice.get(f"{mine}/default"))["quota"]["port"] == 500
    assert [quota["project_id"] for quota in (await client.get("/v2.0/quotas"))["quotas"]] == ["p-alice"]
    for bad in ({"port": -2}, {"port": "many"}, {"router": 1}, {"port": 1 << 40}):
        await client.refused("PUT", mine, {"quota": bad}, status=400, kind="HTTPBadRequest")
    low = {"quota": {"port": 1, "check_limit": True}}
    assert "2 in use" in await client.refused("PUT", mine, low, status=400, kind="HTTPBadRequest")
    await client.put(mine, {"quota": {"port": 1, "force": True}})
    await client.refused("PUT", mine, {"quota": {"check_limit": True, "force": True}}, status=400, kind="HTTPBadRequest")
    await client.put(mine, {"quota": {"port": -1, "check_limit": True}})
    await alice.port(network)
    await client.delete(mine)
    assert (await alice.get(mine))["quota"]["network"] == 100


async def test_agents(client: Client, network: Network) -> None:
    facts = AgentFacts("h1", physical_networks=["physnet1"], started_at=1.0)
    await network.store.write(agents.hear, [facts], [])
    await network.store.write(agents.hear, [facts], [])
    found = (await client.get("/v2.0/agents"))["agents"]
    assert sorted(agent["agent_type"] for agent in found) == ["DHCP agent", "Open vSwitch agent"]
    assert all(agent["alive"] and agent["host"] == "h1" for agent in found)
    assert (await client.get(f"/v2.0/agents/{found[0]['id']}"))["agent"] == found[0]
    await client.refused("GET", "/v2.0/agents/nowhere", status=404, kind="AgentNotFound")
    assert len((await client.get("/v2.0/agents", binary="pileus-dhcp-agent", alive="true"))["agents"]) == 1
    assert (await client.get("/v2.0/agents", alive="false"))["agents"] == []
    zones = (await client.as_("alice").get("/v2.0/availability_zones"))["availability_zones"]
    assert zones == [{"name": "nova", "resource": "network", "state": "available"}]


async def test_a_silent_agent_is_not_alive(client: Client, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = AgentFacts("h1")
    await network.store.write(agents.hear, [facts], [])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 76)  # agent_down_time is 75
    assert not any(agent["alive"] for agent in (await client.get("/v2.0/agents"))["agents"])
    assert len((await client.get("/v2.0/agents", alive="false"))["agents"]) == 2
    assert (await client.get("/v2.0/availability_zones"))["availability_zones"][0]["state"] == "unavailable"


async def test_extensions_are_what_is_offered(client: Client) -> None:
    listed = (await client.as_("alice").get("/v2.0/extensions"))["extensions"]
    assert [extension["alias"] for extension in listed] == list(extensions.OFFERED)
    assert (await client.get("/v2.0/extensions/address-group"))["extension"] == listed[0]
    for absent in ("rbac-security-groups", "router", "standard-attr-tag", "external-net"):
        assert absent not in extensions.OFFERED
        await client.get(f"/v2.0/extensions/{absent}", expect=404)
    for path in ("/v2.0/routers", "/v2.0/rbac-policies", "/v2.0/floatingips", "/v2.0/subnetpools"):
        await client.get(path, expect=404)


async def test_an_admin_binds_a_port(client: Client) -> None:
    network, _ = await client.network(**{"provider:network_type": "local"})
    port = await client.port(network, **{"binding:host_id": "h1", "binding:profile": {"a": 1}, "device_owner": "compute:nova"})
    assert (port["binding:vif_type"], port["binding:host_id"], port["binding:profile"]) == ("ovs", "h1", {"a": 1})
    path = f"{PORTS}/{port['id']}"
    new = {"port": {"network_id": network["id"], "binding:host_id": "h2"}}
    await client.refused("POST", PORTS, new, status=409, kind="HostTaken")
    await client.refused("PUT", path, {"port": {"mac_address": "02:00:00:00:00:01"}}, status=409, kind="PortBound")
    assert (await client.put(path, {"port": {"binding:host_id": "h2"}}))["port"]["binding:host_id"] == "h2"
    freed = (await client.put(path, {"port": {"binding:host_id": None}}))["port"]
    assert (freed["binding:vif_type"], freed["status"]) == ("unbound", "DOWN")
    assert (await client.post(PORTS, new))["port"]["binding:host_id"] == "h2"


async def test_hosts_are_told_of_changes(client: Client, network: Network, bus: InProcessBus) -> None:
    heard: list[PortsChanged] = []

    async def hear(message: PortsChanged) -> None:
        heard.append(message)

    bus.subscribe(ports_subject("h1"), PortsChanged, hear)
    net, subnet = await client.network()
    port = await client.port(net, **{"binding:host_id": "h1"})
    unbound = await client.port(net)

    async def told(path: str, body: Any) -> list[PortsChanged]:
        heard.clear()
        await client.put(path, body)
        await network.store.read(lambda tx: None)
        return list(heard)

    path = f"{PORTS}/{port['id']}"
    assert await told(path, {"port": {"name": "x"}}) == []
    assert await told(f"{PORTS}/{unbound['id']}", {"port": {"admin_state_up": False}}) == []
    (change,) = await told(path, {"port": {"admin_state_up": False}})
    assert [(one.port_id, one.admin_up, one.generation) for one in change.ports] == [(port["id"], False, 1)]
    (change,) = await told(path, {"port": {"admin_state_up": True, "allowed_address_pairs": [{"ip_address": "10.0.0.99"}]}})
    assert change.ports[0].allowed_pairs[0].ip == "10.0.0.99"
    (change,) = await told(path, {"port": {"fixed_ips": [{"ip_address": "10.0.0.98"}]}})
    assert change.ports[0].fixed_ips[0].address == "10.0.0.98"
    (change,) = await told(f"{SUBNETS}/{subnet['id']}", {"subnet": {"dns_nameservers": ["9.9.9.9"]}})
    assert change.ports[0].subnets[0].dns == ["9.9.9.9"]
    (change,) = await told(f"{NETS}/{net['id']}", {"network": {"admin_state_up": False}})
    assert change.ports[0].admin_up is False
    assert await told(f"{NETS}/{net['id']}", {"network": {"description": "x"}}) == []


async def test_a_servers_port_is_the_servers(client: Client, network: Network) -> None:
    net, _ = await client.network()
    wired = (await network.client.allocate(ADMIN, "s1", [RequestedNic(net["id"])], host="h1", key="k", hostname="x", zone="nova"))[0]
    path = f"{PORTS}/{wired.port_id}"
    for change in ({"device_id": ""}, {"device_owner": "x"}, {"binding:host_id": "h2"}, {"mac_address": "02:00:00:00:00:01"}):
        await client.refused("PUT", path, {"port": change}, status=409, kind="PortInUse")
    await client.refused("DELETE", path, status=409, kind="PortInUse")
    await client.refused("DELETE", f"{NETS}/{net['id']}", status=409, kind="NetworkInUse")
    shown = (await client.put(path, {"port": {"name": "eth0", "device_id": "s1"}}))["port"]
    assert (shown["name"], shown["device_owner"], shown["binding:host_id"]) == ("eth0", "compute:nova", "h1")
    assert [port["id"] for port in (await client.get(PORTS, device_id="s1"))["ports"]] == [wired.port_id]
