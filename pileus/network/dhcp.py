"""A network's DHCP port: one port with an address in each subnet that has DHCP.

Every host's DHCP server uses these same addresses, so a network spends one address a subnet however many hosts it has, and a
guest that moves keeps its server. A server answers only the guests of its own host (its entries are those of that host's ports),
hence two of them never offer the same lease. What the switch owes to this: on a network that reaches several hosts, packets of
the DHCP device stay off the uplink, or two hosts would answer ARP for one address.
"""

from __future__ import annotations

from sqlalchemy import select, update

from pileus.network import addresses, fixed_ips, ports, quotas, visible
from pileus.network.config import Config
from pileus.network.fixed_ips import WantedIP
from pileus.network.port_checks import DHCP
from pileus.network.tables import ports as table
from pileus.network.tables import subnets
from pileus.store import Tx
from pileus.store.sql import Row, rows


def of(tx: Tx, network_id: str) -> Row | None:
    """The network's DHCP port with its addresses, locked."""
    mine = select(table).where(table.c.network_id == network_id, table.c.device_owner == DHCP)
    found = visible.with_addresses(tx, rows(tx, mine.with_for_update()))
    return found[0] if found else None


def enable(tx: Tx, config: Config, network: Row, subnet: Row, tally: quotas.Tally) -> str:
    """Give the DHCP port (made if need be) an address in the subnet; its text. The caller has locked the network. Raises Conflict."""
    port = of(tx, network["id"])
    if port is None:
        new = ports.NewPort(
            network["project_id"],
            device_owner=DHCP,
            device_id=f"dhcp-{network['id']}",
            fixed_ips=[],
            port_security=False,
        )
        port = ports.create(tx, config, new, network, [], tally)
        tx.execute(update(table).where(table.c.id == port["id"]).values(status="ACTIVE"))
    position = max((address["position"] for address in port["fixed_ips"]), default=-1) + 1
    ip: str = fixed_ips.give(tx, network, [subnet], port["id"], position, WantedIP(subnet["id"]))["ip"]
    tx.execute(update(subnets).where(subnets.c.id == subnet["id"]).values(dhcp_address=ip))
    return ip


def disable(tx: Tx, config: Config, network: Row, subnet_id: str, tally: quotas.Tally) -> None:
    """The DHCP port leaves the subnet; with its last address it goes. The caller has locked the network."""
    port = of(tx, network["id"])
    if port is None:
        return
    here = [(row["subnet_id"], row["address"]) for row in port["fixed_ips"] if row["subnet_id"] == subnet_id]
    if len(here) == len(port["fixed_ips"]):
        ports.remove(tx, config, [port], {network["id"]: network}, tell=False, tally=tally)
    elif here:
        addresses.take_back(tx, [port["id"]], only=here)
    tx.execute(update(subnets).where(subnets.c.id == subnet_id).values(dhcp_address=None))
