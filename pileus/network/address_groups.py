"""Address groups: lists of networks that rules of security groups name. A change of one is a new version of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from sqlalchemy import delete, select, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, NotFound
from pileus.messages import SetChange
from pileus.network import visible
from pileus.network.tables import address_groups, security_rules
from pileus.store import Tx
from pileus.store.sql import Row, first

MOST_ADDRESSES = 5000
"""Of one group: they are told in one message, and written as one row."""


@dataclass(frozen=True)
class NewAddressGroup:
    """`addresses`: CIDRs, as `normal` gives them."""

    project_id: str
    name: str = ""
    description: str = ""
    addresses: Sequence[str] = ()


def normal(text: str) -> str:
    """A CIDR as it is kept. Raises ValueError."""
    return str(ip_network(text, strict=False))


def create(tx: Tx, new: NewAddressGroup) -> Row:
    """Raises BadRequest."""
    now = time.time()
    group: Row = {
        "id": str(uuid.uuid4()),
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "addresses": _few(sorted(set(new.addresses))),
        "version": 1,
        "created_at": now,
        "updated_at": now,
        "revision": 1,
    }
    tx.execute(address_groups.insert().values(**group))
    return group


def change(tx: Tx, context: Context, group_id: str, changes: Mapping[str, Any]) -> Row:
    """Change name or description. Raises NotFound."""
    return _write(tx, _locked(tx, context, group_id), dict(changes))


def add(tx: Tx, context: Context, group_id: str, addresses: Sequence[str]) -> tuple[Row, SetChange]:
    """More addresses; the group, and what its readers are told. Raises NotFound, BadRequest (some are there already)."""
    group = _locked(tx, context, group_id)
    there = sorted(set(addresses) & set(group["addresses"]))
    if there:
        raise BadRequest(f"Addresses {there} already exist in the address group {group_id}.", kind="AddressesAlreadyExist")
    return _become(tx, group, set(group["addresses"]) | set(addresses))


def remove(tx: Tx, context: Context, group_id: str, addresses: Sequence[str]) -> tuple[Row, SetChange]:
    """Fewer addresses; the group, and what its readers are told. Raises NotFound (also where one is not there)."""
    group = _locked(tx, context, group_id)
    missing = sorted(set(addresses) - set(group["addresses"]))
    if missing:
        raise NotFound(f"Addresses {missing} not found in the address group {group_id}.", kind="AddressesNotFound")
    return _become(tx, group, set(group["addresses"]) - set(addresses))


def delete_one(tx: Tx, context: Context, group_id: str) -> None:
    """Raises NotFound, Conflict (AddressGroupInUse)."""
    _locked(tx, context, group_id)
    if first(tx, select(security_rules.c.id).where(security_rules.c.remote_address_group_id == group_id).limit(1)):
        raise Conflict(f"Address group {group_id} is in use on one or more security group rules.", kind="AddressGroupInUse")
    tx.execute(delete(address_groups).where(address_groups.c.id == group_id))


def _locked(tx: Tx, context: Context, group_id: str) -> Row:
    mine = select(address_groups).where(address_groups.c.id == group_id, visible.of_address_groups(context))
    found = first(tx, mine.with_for_update())
    if found is None:
        raise visible.no_address_group(group_id)
    return found


def _become(tx: Tx, group: Row, addresses: set[str]) -> tuple[Row, SetChange]:
    before = set(group["addresses"])
    after = _write(tx, group, {"addresses": _few(sorted(addresses)), "version": group["version"] + 1})
    return after, SetChange(group["id"], group["version"], after["version"], sorted(addresses - before), sorted(before - addresses))


def _few(addresses: list[str]) -> list[str]:
    if len(addresses) > MOST_ADDRESSES:
        raise BadRequest(
            f"Invalid input for addresses. Reason: an address group has at most {MOST_ADDRESSES}: use several.", kind="InvalidInput"
        )
    return addresses


def _write(tx: Tx, group: Row, values: Row) -> Row:
    values |= {"updated_at": time.time(), "revision": group["revision"] + 1}
    tx.execute(update(address_groups).where(address_groups.c.id == group["id"]).values(**values))
    return group | values
