"""The real openstacksdk against the face on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token
from openstack.connection import Connection
from openstack.exceptions import BadRequestException, ConflictException, NotFoundException

from pileus.http.face import Limits
from pileus.http.mount import mount
from pileus.messages import AgentFacts
from pileus.network import agents
from pileus.network.api.face import face
from pileus.network.service import Network
from tests.network.conftest import authenticate
from tests.serving import served


@pytest.fixture
async def url(network: Network) -> AsyncIterator[str]:
    async with served(lambda base: mount({"/network": face(network, authenticate, f"{base}/identity", base, Limits())})) as base:
        yield f"{base}/network"


def use(url: str) -> None:
    """Everything an SDK user does, in order."""
    sdk = Connection(session=Session(auth=Token(url, "admin")))
    network = sdk.network.create_network(name="red", mtu=1400)
    assert (network.name, network.status, network.is_router_external, network.provider_network_type) == ("red", "ACTIVE", False, "geneve")
    subnet = sdk.network.create_subnet(network_id=network.id, cidr="10.0.0.0/24", ip_version=4, dns_nameservers=["9.9.9.9"], name="s")
    assert subnet.allocation_pools == [{"start": "10.0.0.2", "end": "10.0.0.254"}]
    subnet = sdk.network.update_subnet(subnet, host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}])
    port = sdk.network.create_port(network_id=network.id, name="p", fixed_ips=[{"ip_address": "10.0.0.50"}])
    assert port.fixed_ips == [{"subnet_id": subnet.id, "ip_address": "10.0.0.50"}]
    port = sdk.network.update_port(port, description="d", is_admin_state_up=False, allowed_address_pairs=[{"ip_address": "10.0.0.60"}])
    assert (port.description, port.is_admin_state_up, port.allowed_address_pairs[0]["ip_address"]) == ("d", False, "10.0.0.60")
    assert sdk.network.find_network("red").id == network.id
    assert sdk.network.find_port("p").id == port.id
    assert sdk.network.find_subnet("nothing") is None
    assert [found.id for found in sdk.network.ports(fixed_ips="ip_address=10.0.0.50")] == [port.id]
    assert [found.id for found in sdk.network.ports(device_owner="network:dhcp", network_id=network.id)] != [port.id]
    assert len(list(sdk.network.create_ports([{"network_id": network.id, "name": f"b{i}"} for i in range(5)]))) == 5
    assert len(list(sdk.network.ports(limit=2))) == 7
    assert list(sdk.network.networks(is_router_external=True)) == []
    assert sorted(agent.agent_type for agent in sdk.network.agents(host="h1")) == ["DHCP agent", "Open vSwitch agent"]
    assert all(agent.is_alive for agent in sdk.network.agents())
    assert {"agent", "binding", "quotas"} <= {extension.alias for extension in sdk.network.extensions()}
    assert sdk.network.find_extension("router") is None
    assert [zone.name for zone in sdk.network.availability_zones()] == ["nova"]
    assert sdk.network.get_quota("p-admin").ports == 500
    assert sdk.network.get_quota_default("p-admin").networks == 100
    assert sdk.network.get_quota("p-admin", details=True).ports["used"] == 7
    assert sdk.network.update_quota("p-admin", ports=9).ports == 9
    sdk.network.delete_quota("p-admin")
    for call, error in (
        (lambda: sdk.network.delete_network(network), ConflictException),
        (lambda: sdk.network.get_port("nowhere"), NotFoundException),
        (lambda: sdk.network.create_subnet(network_id=network.id, cidr="10.0.0.0/25", ip_version=4), BadRequestException),
    ):
        with pytest.raises(error):
            call()  # type: ignore[no-untyped-call]
    for found in sdk.network.ports(device_owner=""):
        sdk.network.delete_port(found)
    sdk.network.delete_subnet(subnet)
    sdk.network.delete_network(network)
    assert list(sdk.network.networks()) == []


async def test_openstacksdk(url: str, network: Network) -> None:
    await network.store.write(agents.hear, [AgentFacts("h1")], [])
    await asyncio.to_thread(use, url)
