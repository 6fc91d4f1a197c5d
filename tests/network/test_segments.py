"""Numbers of tunnel networks, and what their tunnels leave of the MTU."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, event, select

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, StartupError
from pileus.network import networks, segments
from pileus.network.config import Config, read
from pileus.network.tables import vnis
from pileus.settings import Network, Settings
from pileus.store.sql import Row

ADMIN = Context("u", project_id="p", roles=frozenset({"admin"}))


def config(**values: object) -> Config:
    return read(Settings(network=Network(**values)), notify=False)  # type: ignore[arg-type]


def make(tx: Connection, ours: Config, kind: str | None = None, number: int | None = None, mtu: int = 0) -> Row:
    return networks.create(tx, ours, networks.NewNetwork("p", type=kind, segmentation_id=number, mtu=mtu))


def test_a_range_is_used_to_its_last_number_and_each_is_given_once(tx: Connection) -> None:
    ours = config(vni_ranges=["7:20", "30:30"])
    made = [make(tx, ours) for _ in range(15)]
    assert {network["type"] for network in made} == {"geneve"}
    assert sorted(network["segmentation_id"] for network in made) == [*range(7, 21), 30]
    with pytest.raises(Conflict) as full:
        make(tx, ours)
    assert full.value.kind == "NoNetworkAvailable"
    other = make(tx, ours, "vxlan")  # has numbers of its own
    assert other["segmentation_id"] in [*range(7, 21), 30]
    networks.delete_one(tx, ours, ADMIN, made[3]["id"])
    assert make(tx, ours)["segmentation_id"] == made[3]["segmentation_id"]


def test_a_number_costs_the_same_however_many_are_given(tx: Connection) -> None:
    """Of a range that is half full nothing is read: a number is tried, and seldom a second."""
    ours = config(vni_ranges=["1:2000"])
    tx.execute(vnis.insert(), [{"type": "geneve", "vni": vni, "network_id": "x"} for vni in range(1, 1001)])
    statements: list[str] = []
    event.listen(tx, "before_cursor_execute", lambda conn, cursor, statement, *rest: statements.append(statement))
    for number in range(50):
        segments.allocate(tx, ours, f"n{number}", "geneve", None, None)
    assert len(statements) < 50 * 4
    assert sum(statement.startswith("SELECT") for statement in statements) <= 5  # 50 × 2^-8 are expected


def test_an_admin_chooses_a_number(tx: Connection) -> None:
    ours = config()
    assert make(tx, ours, "vxlan", 5000)["segmentation_id"] == 5000
    assert make(tx, ours, "geneve", 5000)["segmentation_id"] == 5000
    with pytest.raises(Conflict) as taken:
        make(tx, ours, "vxlan", 5000)
    assert taken.value.kind == "TunnelIdInUse"
    for bad in (0, 1 << 24, -1):
        with pytest.raises(BadRequest, match="out of range"):
            make(tx, ours, "vxlan", bad)
    with pytest.raises(BadRequest, match="physical_network"):
        segments.allocate(tx, ours, "n", "vxlan", "physnet1", None)
    assert len(tx.execute(select(vnis)).all()) == 2


@pytest.mark.parametrize(
    ("kind", "underlay", "mtu"),
    [("geneve", "ipv4", 1442), ("vxlan", "ipv4", 1450), ("geneve", "ipv6", 1422), ("vxlan", "ipv6", 1430), ("local", "ipv4", 1500)],
)
def test_what_tunnels_leave_of_the_mtu(tx: Connection, kind: str, underlay: str, mtu: int) -> None:
    ours = config(default_type=kind, underlay=underlay)
    assert make(tx, ours)["mtu"] == mtu
    assert make(tx, ours, mtu=1300)["mtu"] == 1300
    made = make(tx, ours)
    assert networks.change(tx, ours, ADMIN, made["id"], {"mtu": 0})[0]["mtu"] == mtu
    if kind == "local":
        return
    for wrong in (lambda: make(tx, ours, mtu=mtu + 1), lambda: networks.change(tx, ours, ADMIN, made["id"], {"mtu": mtu + 1})):
        with pytest.raises(BadRequest, match=f"maximum is {mtu}"):
            wrong()


@pytest.mark.parametrize("bad", ["", "5", "0:5", "9:5", "1:16777216", "a:b", "p:1:2"])
def test_a_bad_range_is_named(bad: str) -> None:
    with pytest.raises(StartupError, match=r"network\.vni_ranges"):
        config(vni_ranges=[bad])


def test_tunnels_by_default_need_a_range() -> None:
    with pytest.raises(StartupError, match=r"network\.default_type is vxlan"):
        config(vni_ranges=[], default_type="vxlan")
    assert config(vni_ranges=[], default_type="local").vnis == []
