"""What the network service reads of the settings, and what each of them does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from pileus.errors import BadRequest, StartupError
from pileus.network import networks, ports, quotas, subnets
from pileus.network.config import Config, read
from pileus.network.fixed_ips import WantedIP
from pileus.settings import Network, Quota, Settings
from tests.network.conftest import ALICE
from tests.network.test_servers import make_network


def config(**values: object) -> Config:
    return read(Settings(network=Network(**values)), notify=False)  # type: ignore[arg-type]


def test_vlan_ranges() -> None:
    found = config(vlan_ranges=["physnet1:100:200", "physnet1:300:300", "physnet2"]).vlans
    assert found == {"physnet1": [(100, 200), (300, 300)], "physnet2": []}


@pytest.mark.parametrize("bad", ["", "p:1", "p:0:5", "p:5:4", "p:1:4095", "p:a:b", ":1:2", "p q"])
def test_a_bad_range_is_named(bad: str) -> None:
    with pytest.raises(StartupError, match=r"network\.vlan_ranges"):
        config(vlan_ranges=[bad])


def test_vlan_by_default_needs_a_range(tx: Connection) -> None:
    with pytest.raises(StartupError, match=r"network\.default_type"):
        config(default_type="vlan", vlan_ranges=["physnet2"])
    made = networks.create(tx, config(default_type="vlan", vlan_ranges=["physnet1:7:7"]), networks.NewNetwork("p"))
    assert (made["type"], made["physical_network"], made["segmentation_id"]) == ("vlan", "physnet1", 7)


def test_mtu_mac_prefix_and_most_fixed_ips(tx: Connection) -> None:
    ours = config(mtu=1400, mac_prefix="02:aa:bb", max_fixed_ips=1)
    network = make_network(tx, ours)
    assert network["mtu"] == 1400 - 58
    assert ports.create(tx, ours, ports.NewPort("p"), network, [])["mac"].startswith("02:aa:bb:")
    with pytest.raises(BadRequest, match="maximum amount of fixed ips per port: 1"):
        ports.create(tx, ours, ports.NewPort("p", fixed_ips=[WantedIP("a"), WantedIP("b")]), network, [])


def test_most_dns_servers_and_host_routes(tx: Connection) -> None:
    ours = config(max_dns_nameservers=1, max_host_routes=1)
    network = make_network(tx, ours)
    servers = ["192.0.2.1", "192.0.2.2"]
    routes = [{"destination": f"192.0.2.{n}/32", "nexthop": "10.7.0.9"} for n in (1, 2)]
    plain = subnets.NewSubnet(network["id"], "10.7.0.0/24", 4, "p-alice")
    for wanted, words in ((replace(plain, dns=servers), "nameservers"), (replace(plain, routes=routes), "routes")):
        with pytest.raises(BadRequest, match=f"{words} exceeds the limit 1"):
            subnets.create(tx, ours, ALICE, wanted)
    one = replace(plain, dns=servers[:1], routes=routes[:1])
    assert subnets.create(tx, ours, ALICE, one)["dns"] == ["192.0.2.1"]


def test_default_quotas() -> None:
    found = read(Settings(quota=Quota(network=1, subnet=2, port=-1, security_group=3, security_group_rule=4)), notify=False)
    limits = {"network": 1, "subnet": 2, "port": -1, "security_group": 3, "security_group_rule": 4}
    assert quotas.defaults(found) == limits
