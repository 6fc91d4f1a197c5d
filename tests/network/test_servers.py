"""The NetworkClient's contract, in process."""

from __future__ import annotations

import dataclasses
import time
from ipaddress import ip_address
from typing import Any

import pytest
from sqlalchemy import Connection, event, select

from pileus.clients.network import RequestedNic
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, QuotaExceeded
from pileus.network import networks, ports, quotas, servers, subnets, tables, visible
from pileus.network.client import InProcessNetwork
from pileus.network.config import Config
from pileus.network.fixed_ips import WantedIP
from pileus.store.sql import Row, first, rows
from tests.engines.stores import AnyStore
from tests.network.conftest import ADMIN, ALICE, BOB

Boot = servers.Boot


def make_network(tx: Connection, /, config: Config, context: Context = ALICE, cidr: str | None = "10.0.0.0/24", **more: Any) -> Row:
    network = networks.create(tx, config, networks.NewNetwork(context.project, **more))
    if cidr:
        subnets.create(tx, config, context, subnets.NewSubnet(network["id"], cidr, 4, context.project))
    return network


def boot(server: str = "s1", host: str = "h1", key: str = "k1") -> Boot:
    return Boot(server, host, key, f"name-{server}", "nova")


def nic(network: Row, **more: Any) -> RequestedNic:
    return RequestedNic(network_id=network["id"], **more)


def test_allocate_makes_and_binds_ports_in_the_order_asked_for(tx: Connection, config: Config) -> None:
    red, blue = make_network(tx, config, name="red"), make_network(tx, config, cidr="10.1.0.0/24", name="blue")
    wired = servers.allocate(tx, config, ALICE, boot(), [nic(blue), nic(red, fixed_ip="10.0.0.77")])
    assert [port.network_id for port in wired] == [blue["id"], red["id"]]
    assert [port.fixed_ips[0].address for port in wired] == ["10.1.0.3", "10.0.0.77"]
    assert [port.generation for port in wired] == [1, 1]
    assert wired[1].subnets[0].gateway == "10.0.0.1"
    assert wired[1].subnets[0].dhcp_address == "10.0.0.2"
    assert wired[0].dns_name == "name-s1"
    shown = visible.port(tx, ALICE, wired[0].port_id)
    assert (shown["device_id"], shown["device_owner"], shown["status"]) == ("s1", "compute:nova", "DOWN")
    found = servers.addresses(tx, ["s1", "s2"])
    assert [(a.network_name, a.address, a.ip_version) for a in found["s1"]] == [("blue", "10.1.0.3", 4), ("red", "10.0.0.77", 4)]
    assert "s2" not in found
    shown_ports = servers.ports_of(tx, "s1")
    assert [(p.port_id, p.network_id, p.status, p.index) for p in shown_ports] == [
        (wired[0].port_id, blue["id"], "DOWN", 0),
        (wired[1].port_id, red["id"], "DOWN", 1),
    ]
    assert shown_ports[1].fixed_ips == ((wired[1].fixed_ips[0].subnet_id, "10.0.0.77"),)
    assert servers.devices(tx) == {"s1"}


def test_the_same_key_changes_nothing_and_a_new_one_binds_anew(tx: Connection, config: Config) -> None:
    network = make_network(tx, config, type="local")
    one = servers.allocate(tx, config, ALICE, boot(), [nic(network)])
    assert servers.allocate(tx, config, ALICE, boot(), [nic(network)]) == one
    other = servers.allocate(tx, config, ALICE, boot(host="h2", key="k2"), [nic(network)])
    assert other[0].port_id == one[0].port_id
    assert (other[0].generation, other[0].fixed_ips) == (2, one[0].fixed_ips)
    assert visible.network(tx, ALICE, network["id"])["host"] == "h2"
    assert quotas.usage(tx, "p-alice")["port"] == 2  # the server's and the DHCP port


def test_a_local_network_lives_on_one_host_until_its_last_port_is_gone(tx: Connection, config: Config) -> None:
    network = make_network(tx, config, type="local")
    nics = [nic(network)]
    assert servers.constraint(tx, nics).host is None
    servers.allocate(tx, config, ALICE, boot("s1"), nics)
    servers.allocate(tx, config, ALICE, boot("s2"), nics)
    assert servers.constraint(tx, nics).host == "h1"
    with pytest.raises(Conflict) as refused, tx.begin_nested():
        servers.allocate(tx, config, ALICE, boot("s3", host="h2"), nics)
    assert refused.value.kind == "HostTaken"
    servers.release(tx, config, "s1", [])
    assert servers.constraint(tx, nics).host == "h1"
    servers.release(tx, config, "s2", [])
    assert servers.constraint(tx, nics).host is None


def test_a_users_port_is_bound_and_kept(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    wanted = [WantedIP(None, ip_address("10.0.0.9"))]
    subnets_there = visible.subnets_of(tx, [network["id"]])[network["id"]]
    port = ports.create(tx, config, ports.NewPort("p-alice", fixed_ips=wanted), network, subnets_there)
    given = [RequestedNic(port_id=port["id"])]
    assert servers.check(tx, config, ALICE, given, 1).nics == given
    wired = servers.allocate(tx, config, ALICE, boot(), given)
    assert wired[0].port_id == port["id"]
    with pytest.raises(Conflict, match="in use"):
        servers.check(tx, config, ALICE, given, 1)
    with pytest.raises(Conflict, match="in use"):
        servers.allocate(tx, config, ALICE, boot("s2"), given)
    with pytest.raises(Conflict, match="delete the server"):
        ports.delete_one(tx, config, ALICE, port["id"])
    servers.release(tx, config, "s1", [port["id"]])
    after = visible.port(tx, ALICE, port["id"])
    assert (after["device_id"], after["host"], after["status"], after["server_id"]) == ("", "", "DOWN", None)
    assert servers.allocate(tx, config, ALICE, boot("s2"), given)[0].generation == 2


def test_release_gives_everything_back(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    before = {table.name: rows(tx, select(table)) for table in (tables.ports, tables.allocations, tables.networks, tables.outbox)}
    usage = quotas.usage(tx, "p-alice") | {"security_group": 1, "security_group_rule": 4}  # the default group stays
    servers.allocate(tx, config, ALICE, boot(), [nic(network), nic(network)])
    servers.release(tx, config, "s1", [])
    servers.release(tx, config, "s1", [])
    after = {table.name: rows(tx, select(table)) for table in (tables.ports, tables.allocations, tables.networks, tables.outbox)}
    assert after == before
    assert quotas.usage(tx, "p-alice") == usage


def test_what_device_id_says_decides_nothing(tx: Connection, config: Config) -> None:
    network = make_network(tx, config, context=BOB)
    ports.create(tx, config, ports.NewPort("p-bob", device_id="s1", device_owner="compute:nova"), network, [])
    assert servers.addresses(tx, ["s1"]) == {}
    assert servers.devices(tx) == set()
    servers.release(tx, config, "s1", [])
    assert first(tx, select(tables.ports).where(tables.ports.c.device_id == "s1")) is not None


def test_check_refuses_with_a_sentence(tx: Connection, config: Config) -> None:
    mine, bare = make_network(tx, config), make_network(tx, config, cidr=None)
    bobs = make_network(tx, config, context=BOB)
    shared = make_network(tx, config, context=ADMIN, shared=True)
    taken = servers.allocate(tx, config, ALICE, boot(), [nic(mine)])[0].fixed_ips[0].address

    def refused(kind: type[Exception], *nics: RequestedNic, count: int = 1) -> None:
        with pytest.raises(kind):
            servers.check(tx, config, ALICE, list(nics), count)

    refused(NotFound, nic(bobs))
    refused(NotFound, RequestedNic(network_id="nowhere"))
    refused(NotFound, RequestedNic(port_id="nowhere"))
    refused(BadRequest, nic(bare))
    refused(BadRequest, RequestedNic())
    refused(BadRequest, nic(mine, fixed_ip="not an address"))
    refused(BadRequest, nic(mine, fixed_ip="10.9.9.9"))
    refused(BadRequest, nic(mine, fixed_ip="10.0.0.255"))
    refused(BadRequest, nic(mine, fixed_ip="10.0.0.50"), count=2)
    refused(Conflict, nic(mine, fixed_ip=taken))
    refused(Forbidden, nic(shared, fixed_ip="10.0.0.50"))
    assert servers.check(tx, config, ALICE, [nic(shared)], 3).nics == [nic(shared)]
    with pytest.raises(Conflict, match="use a Network ID"):
        servers.check(tx, config, ALICE, "auto", 1)
    assert servers.check(tx, config, ALICE, "none", 1).nics == []


def test_auto_takes_the_only_network_and_none_is_fine(tx: Connection, config: Config) -> None:
    assert servers.check(tx, config, ALICE, "auto", 1).nics == []
    network = make_network(tx, config)
    make_network(tx, config, context=BOB)
    assert servers.check(tx, config, ALICE, "auto", 1).nics == [nic(network)]


def test_quota_is_checked_before_and_held_at_the_allocation(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    quotas.set_limits(tx, "p-alice", {"port": 3})
    servers.check(tx, config, ALICE, [nic(network)], 2)
    with pytest.raises(QuotaExceeded):
        servers.check(tx, config, ALICE, [nic(network)], 3)
    with pytest.raises(QuotaExceeded):
        servers.allocate(tx, config, ALICE, boot(), [nic(network)] * 3)


def test_vlan_networks_name_their_physical_network(tx: Connection, config: Config) -> None:
    network = make_network(tx, config, type="vlan")
    assert servers.constraint(tx, [nic(network)]).physical_networks == {"physnet1"}
    wired = servers.allocate(tx, config, ALICE, boot(), [nic(network)])[0]
    assert (wired.network_type, wired.physical_network, wired.segmentation_id) == ("vlan", "physnet1", 100)
    assert servers.allocate(tx, config, ALICE, boot("s2", host="h2"), [nic(network)])


def test_servers_are_found_by_a_part_of_their_address(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    servers.allocate(tx, config, ALICE, boot("s1"), [nic(network, fixed_ip="10.0.0.11")])
    servers.allocate(tx, config, ALICE, boot("s2"), [nic(network, fixed_ip="10.0.0.111")])
    assert sorted(servers.at(tx, "10.0.0.11", 4)) == ["s1", "s2"]
    assert servers.at(tx, r"^10\.0\.0\.11$", 4) == ["s1"]
    assert servers.at(tx, "^10.*111", 4) == ["s2"]
    assert servers.at(tx, r"^10\.0\.0\.1$", 4) == []
    assert servers.at(tx, "10.0.0.11", 6) == []
    for bad in ("(1+)+$", "[", "1" * 65, ".*1.*1.*1.*1", "%", "é"):
        with pytest.raises(BadRequest):
            servers.at(tx, bad, 4)


def test_readiness_is_the_ports_level(tx: Connection, config: Config) -> None:
    wired = servers.allocate(tx, config, ALICE, boot(), [nic(make_network(tx, config))])[0]
    found = servers.readiness(tx, [wired.port_id, "unknown"], "h1")
    assert [dataclasses.astuple(one) for one in found] == [(wired.port_id, 1, 0, 0, "")]
    assert servers.readiness(tx, [wired.port_id], "h2") == []  # another host has no business with it


def test_allocating_for_one_nic_takes_at_most_eleven_statements(tx: Connection, config: Config) -> None:
    network = make_network(tx, config)
    servers.allocate(tx, config, ALICE, boot("warm"), [nic(network)])
    statements: list[str] = []
    event.listen(tx, "after_cursor_execute", lambda *args: statements.append(args[2]))
    servers.allocate(tx, config, ALICE, boot("s1"), [nic(network)])
    assert len(statements) <= 11  # two of them for its security group


async def test_the_client_runs_each_call_as_one_transaction(store: AnyStore, config: Config) -> None:
    client = InProcessNetwork(store, config)
    network = await store.write(lambda tx: make_network(tx, config, type="local"))
    asked = (await client.check(ALICE, [nic(network)], count=1)).nics
    times = []
    for i in range(50):
        start = time.perf_counter()
        await client.allocate(ALICE, f"s{i}", asked, host="h1", key="k", hostname="x", zone="nova")
        times.append(time.perf_counter() - start)
    print(f"allocate, median: {sorted(times)[25] * 1e3:.2f} ms")
    with pytest.raises(Conflict):
        await client.allocate(ALICE, "s-far", [*asked, *asked], host="h2", key="k", hostname="x", zone="nova")
    assert len(await client.devices()) == 50
    assert await client.devices(after="s3", most=2) == {"s30", "s31"}
    assert await client.allocate(ALICE, "s-none", [], host="h2", key="k", hostname="x", zone="nova") == []
    assert (await client.constraint(asked)).host == "h1"
    for i in range(50):
        await client.release(f"s{i}", keep=[])
    assert await client.devices() == set()
    assert await client.addresses([]) == {}
    assert await client.readiness([], host="h1") == []
    assert await client.servers_at("10.0", 4) == []
