"""Every statement that the network and placement execute for a boot, its end and its questions is served by an index, on a filled
PostgreSQL. The statements are recorded, not listed: new ones are looked at too."""

from __future__ import annotations

from sqlalchemy import text

from pileus.clients.network import RequestedNic
from pileus.clients.placement import Inventory
from pileus.messages import MembersRequest, PortLevel, SecurityRequest
from pileus.network import (
    levels,
    members,
    networks,
    outbox,
    port_changes,
    ports,
    security_groups,
    security_members,
    security_readers,
    security_rules,
    server_groups,
    servers,
    subnets,
    visible,
)
from pileus.network.config import read
from pileus.placement import claims, providers
from pileus.settings import Database, Quota, Settings
from pileus.settings import Network as NetworkSettings
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore
from tests.engines.explain import read_whole, recorded
from tests.engines.postgresql import PostgresServer
from tests.network.conftest import ALICE

CONFIG = read(Settings(network=NetworkSettings(default_type="local"), quota=Quota(port=-1)), notify=True)
BIG = (
    "network_ports",
    "network_allocations",
    "network_free_addresses",
    "network_outbox",
    "network_members",
    "network_security_groups",
    "network_security_rules",
    "network_security_readers",
    "network_set_members",
    "placement_allocations",
    "placement_consumers",
)
"""Tables that grow with servers. The others grow with hosts, networks and projects: few rows, which PostgreSQL rightly reads whole."""

FILL = (
    "insert into network_ports select 'f' || i, network_id, 'p' || i % 500, '', '', true, 'fa:' || i, 's' || i, 'compute:nova', true, "
    "'[]', 'normal', '{}', 'ACTIVE', 'h' || i % 100, 1, 'wired', '', 'k', 's' || i, 0, '', i, i, 1 "
    "from generate_series(1, 20000) i, (select network_id from network_ports limit 1) one",
    "insert into network_allocations select subnet_id, lpad(to_hex(168427520 + i), 8, '0'), '10.10.' || i / 256 || '.' || i % 256, "
    "'f' || i, 0, true from generate_series(1, 20000) i, (select subnet_id from network_allocations limit 1) one",
    "insert into network_free_addresses (subnet_id, last, first, taken, freed) select 'n' || i % 50, to_hex(i), to_hex(i), 0, i "
    "from generate_series(1, 20000) i",
    "insert into network_members select 'n' || i / 1000, 'h' || i % 1000, 3, '192.0.2.' || i % 1000, true from generate_series(1, 20000) i",
    "insert into network_security_groups select 'g' || i, 'p' || i % 5000, 'g', '', true, i < 5000, 1, 1, 0, i, i, 1 "
    "from generate_series(1, 20000) i",
    "insert into network_security_rules (id, group_id, project_id, description, direction, ip_version, remote_group_id, "
    "remote_address_group_id, meaning, created_at, updated_at, revision) select 'r' || i, 'g' || 1 + i / 4, 'p' || i % 5000, '', "
    "'ingress', 4, 'g' || i / 8, 'a' || i / 8, i, i, i, 1 from generate_series(1, 20000) i",
    "insert into network_security_readers select 'g' || i / 10, 'h' || i % 1000, 1 from generate_series(1, 20000) i",
    "insert into network_set_members select 'g' || i / 100, 'f' || i, 'f' || i, false, true from generate_series(1, 20000) i",
    "insert into network_outbox (port_id, kind, version, generation, name, server_id, attempts, created_at, due_at, lease) "
    "select 'f' || i, 'level', 'v', 1, 'network-vif-plugged', 's' || i, 0, i, 4e9 + i, '' from generate_series(1, 20000) i",
    "insert into placement_consumers (id, project_id, user_id, generation, updated_at) select 's' || i, 'p' || i % 500, 'u', 1, i "
    "from generate_series(1, 20000) i",
    "insert into placement_allocations (consumer_id, provider_id, resource_class, used) select 's' || i, 'p1', 'VCPU', 1 "
    "from generate_series(1, 20000) i",
)


async def test_no_hot_statement_reads_a_big_table_whole(postgres: PostgresServer) -> None:
    store = await PostgresStore.open(Database(url=await postgres.fresh(), max_pool_size=1), role="test")

    def prepared(tx: Tx) -> str:
        network = networks.create(tx, CONFIG, networks.NewNetwork("p-alice"))
        subnets.create(tx, CONFIG, ALICE, subnets.NewSubnet(network["id"], "10.0.0.0/8", 4, "p-alice"))
        providers.tell(tx, "p1", "h1", {"VCPU": Inventory(10**6)})
        ports.create_on(tx, CONFIG, ALICE, [(network["id"], ports.NewPort("p-alice"))])
        for statement in FILL:
            tx.execute(text(statement))
        tx.execute(text("analyze"))
        return str(network["id"])

    def lived(tx: Tx, network_id: str) -> None:
        nics = [RequestedNic(network_id=network_id)]
        servers.check(tx, CONFIG, ALICE, nics, 1)
        claims.claim(tx, "new", "p1", {"VCPU": 1}, project_id="p", user_id="u")
        made = servers.allocate(tx, CONFIG, ALICE, servers.Boot("new", "h1", "k", "name", "nova"), nics)
        port_id = made[0].port_id
        levels.details(tx, "h1", [port_id])
        levels.take(tx, CONFIG, [PortLevel(port_id, "h1", 1, "plugged"), PortLevel(port_id, "h1", 1, "wired")])
        outbox.next_due(tx)
        outbox.settle(tx, outbox.take(tx, 4e9 - 1, 4e9, 10), [])
        servers.readiness(tx, [port_id], "h1")
        servers.addresses(tx, ["new"])
        servers.ports_of(tx, "new")
        visible.port(tx, ALICE, port_id)
        servers.release(tx, CONFIG, "new", [])
        claims.release(tx, "new")
        tunnel = networks.create(tx, CONFIG, networks.NewNetwork("p-alice", type="geneve"))
        subnets.create(tx, CONFIG, ALICE, subnets.NewSubnet(tunnel["id"], "10.9.0.0/24", 4, "p-alice"))
        far = [RequestedNic(network_id=tunnel["id"])]
        for server, host in (("far1", "h1"), ("far2", "h1"), ("far3", "h2")):
            servers.allocate(tx, CONFIG, ALICE, servers.Boot(server, host, "k", "name", "nova"), far)
        servers.constraint(tx, far)
        members.asked(tx, MembersRequest("h1", "192.0.2.1", {tunnel["id"]: -1}))
        members.moved(tx, "h1", "192.0.2.1")
        servers.release(tx, CONFIG, "far3", [])
        secured(tx, network_id)
        one = ports.create_on(tx, CONFIG, ALICE, [(network_id, ports.NewPort("p-alice"))])[0]
        ports.delete_one(tx, CONFIG, ALICE, one["id"])
        theirs = ports.NewPort("p-alice", device_id="theirs", device_owner="compute:nova")
        two = ports.create_on(tx, CONFIG, ALICE, [(network_id, theirs)])[0]
        port_changes.change(tx, CONFIG, ALICE, two["id"], {"fixed_ips": []})
        ports.delete_one(tx, CONFIG, ALICE, two["id"])
        outbox.take_out(tx, 4e9 - 1, 10)

    def secured(tx: Tx, network_id: str) -> None:
        made = security_groups.create_on(tx, CONFIG, [security_groups.NewGroup("p-alice", f"g{n}") for n in range(3)])
        web, db, idle = (group["id"] for group in made)
        rule = security_rules.create_on(tx, CONFIG, ALICE, [security_rules.NewRule(web, "ingress", remote_group_id=db)])[0]
        nics = [RequestedNic(network_id=network_id, security_groups=(web, db))]
        servers.check(tx, CONFIG, ALICE, nics, 1, ["g0"])
        servers.allocate(tx, CONFIG, ALICE, servers.Boot("sec", "h1", "k", "name", "nova"), nics)
        server_groups.of_server(tx, "sec")
        server_groups.add(tx, CONFIG, ALICE, "sec", idle)
        server_groups.remove(tx, CONFIG, ALICE, "sec", idle)
        question = SecurityRequest("h1", {web: -1, db: -1}, {db: -1})
        answer = security_readers.asked(tx, question)
        security_readers.register(tx, "h1", 1.0, answer.new, ["g1"])
        security_readers.of_rules(tx, [web])
        security_members.next_due(tx)
        security_members.sweep(tx, 4e9, 500.0)
        servers.release(tx, CONFIG, "sec", [])
        security_members.sweep(tx, 5e9, 500.0)
        security_rules.delete_one(tx, CONFIG, ALICE, rule["id"])
        for group_id in (web, db, idle):
            security_groups.delete_one(tx, CONFIG, ALICE, group_id)

    network_id = await store.write(prepared)
    with recorded() as seen:
        await store.write(lived, network_id)
    found = await store.write(read_whole, seen, BIG)
    await store.close()
    assert len(seen) > 20
    assert not found, "\n\n".join(found)
