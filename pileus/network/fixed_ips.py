"""Fixed IPs: which address of which subnet a port gets, from what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from sqlalchemy import update

from pileus.errors import BadRequest, Conflict
from pileus.network import addresses
from pileus.network.addresses import Address
from pileus.network.config import Config
from pileus.network.tables import allocations
from pileus.store import Tx
from pileus.store.sql import Row


@dataclass(frozen=True)
class WantedIP:
    """An address to give a port: of this subnet, this very one, or both."""

    subnet_id: str | None = None
    address: Address | None = None


def assign(tx: Tx, config: Config, network: Row, subnets: Sequence[Row], port_id: str, wanted: Sequence[WantedIP] | None) -> list[Row]:
    """Give a new port what it wants; None: one address of each IP version. Raises BadRequest, Conflict."""
    if wanted is None:
        versions = sorted({subnet["ip_version"] for subnet in subnets})
        return [_give_of_version(tx, network, subnets, port_id, i, version) for i, version in enumerate(versions)]
    _check_count(config, wanted)
    return [give(tx, network, subnets, port_id, i, one) for i, one in enumerate(wanted)]


def reassign(tx: Tx, config: Config, network: Row, subnets: Sequence[Row], port: Row, wanted: Sequence[WantedIP]) -> list[Row]:
    """Addresses asked for again stay, the others are released before new ones are given. Positions follow the request."""
    _check_count(config, wanted)
    left = list(port["fixed_ips"])
    kept: list[Row | None] = [None] * len(wanted)
    by_weight = sorted(range(len(wanted)), key=lambda i: wanted[i].address is None)
    for i in by_weight:  # by address first, so that none of these is kept for an entry that names only its subnet
        kept[i] = next((row for row in left if _is_wanted(row, wanted[i])), None)
        left = [row for row in left if row is not kept[i]]
    if left:
        addresses.take_back(tx, [port["id"]], only=[(row["subnet_id"], row["address"]) for row in left])
    given: list[Row] = []
    for i, (one, same) in enumerate(zip(wanted, kept, strict=True)):
        if same is None:
            given.append(give(tx, network, subnets, port["id"], i, one))
            continue
        where = (allocations.c.subnet_id == same["subnet_id"], allocations.c.address == same["address"])
        tx.execute(update(allocations).where(*where).values(position=i))
        given.append(same | {"position": i})
    return given


def _is_wanted(row: Row, one: WantedIP) -> bool:
    if one.subnet_id is not None and one.subnet_id != row["subnet_id"]:
        return False
    return one.address is None or row["ip"] == str(one.address)


def _check_count(config: Config, wanted: Sequence[WantedIP]) -> None:
    if len(wanted) > config.settings.network.max_fixed_ips:
        most = config.settings.network.max_fixed_ips
        raise BadRequest(f"Invalid input for operation: Exceeded maximum amount of fixed ips per port: {most}.", kind="InvalidInput")


def _give_of_version(tx: Tx, network: Row, subnets: Sequence[Row], port_id: str, position: int, version: int) -> Row:
    for subnet in subnets:
        if subnet["ip_version"] == version:
            address = addresses.give_any(tx, subnet["id"], port_id, position)
            if address is not None:
                return _row(subnet["id"], address, port_id, position)
    raise Conflict(f"No more IP addresses available on network {network['id']}.", kind="IpAddressGenerationFailure")


def give(tx: Tx, network: Row, subnets: Sequence[Row], port_id: str, position: int, wanted: WantedIP) -> Row:
    """One address for a port. Raises BadRequest, Conflict."""
    subnet = find_subnet(network, subnets, wanted)
    if wanted.address is None:
        address = addresses.give_any(tx, subnet["id"], port_id, position)
        if address is None:
            raise Conflict(f"No more IP addresses available for subnet {subnet['id']}.", kind="IpAddressGenerationFailureForSubnet")
        return _row(subnet["id"], address, port_id, position)
    address = addresses.encode(wanted.address)
    if not addresses.give(tx, subnet["id"], address, port_id, position):
        raise Conflict(f"IP address {wanted.address} already allocated in subnet {subnet['id']}", kind="IpAddressAlreadyAllocated")
    return _row(subnet["id"], address, port_id, position)


def find_subnet(network: Row, subnets: Sequence[Row], wanted: WantedIP) -> Row:
    """The subnet that a wanted address is of. Raises BadRequest (InvalidIpForNetwork, InvalidIpForSubnet, InvalidInput)."""
    if wanted.subnet_id is None and wanted.address is None:
        raise BadRequest("Invalid input for operation: IP allocation requires subnet_id or ip_address.", kind="InvalidInput")
    named = [subnet for subnet in subnets if wanted.subnet_id in (None, subnet["id"])]
    if not named:
        raise BadRequest(
            f"Invalid input for operation: Failed to create port on network {network['id']}, because fixed_ips included "
            f"invalid subnet {wanted.subnet_id}.",
            kind="InvalidInput",
        )
    if wanted.address is None:
        return named[0]
    for subnet in named:
        if usable(subnet["cidr"], wanted.address):
            return subnet
    if wanted.subnet_id is not None:
        raise BadRequest(f"IP address {wanted.address} is not a valid IP for the specified subnet.", kind="InvalidIpForSubnet")
    raise BadRequest(
        f"IP address {wanted.address} is not a valid IP for any of the subnets on the specified network.", kind="InvalidIpForNetwork"
    )


def usable(cidr: str, address: Address) -> bool:
    """Is it an address that a port in this CIDR can have?"""
    net = ip_network(cidr)
    if address not in net:
        return False
    if net.version == 6 or net.prefixlen >= 31:
        return True
    return address not in (net.network_address, net.broadcast_address)


def _row(subnet_id: str, address: str, port_id: str, position: int) -> Row:
    return {
        "subnet_id": subnet_id,
        "address": address,
        "ip": str(addresses.decode(address)),
        "port_id": port_id,
        "position": position,
    }


def parse_address(text: str) -> Address:
    """Raises BadRequest."""
    try:
        address = ip_address(text)
    except ValueError:
        raise BadRequest(f"{text!r} is not a valid IP address", kind="InvalidInput") from None
    if "%" in text:
        raise BadRequest(f"{text!r} names an interface: give the address alone", kind="InvalidInput")
    return address
