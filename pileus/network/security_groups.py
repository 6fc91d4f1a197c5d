"""Security groups: made, changed, deleted, and which of them a port gets.

A project's `default` group is made when it is first needed. On the path of a boot a group is read and never written: what its ports
bring along stands in `set_members`, and what grows with that is written by the sweep (`security_members`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, select, update

from pileus.context import Context
from pileus.errors import Conflict
from pileus.network import quotas, security_members, security_rules, visible
from pileus.network.config import Config
from pileus.network.tables import security_groups
from pileus.network.tables import security_rules as rules_table
from pileus.store import Tx
from pileus.store.sql import Row, insert_new, rows

DEFAULT = "default"

Wanted = tuple[str, Sequence[str] | None]
"""A project that a port is of, and the groups it is to have; None: the project's default."""

# Built once: they are on the path of every boot. The lock lets everybody else do so, too; it keeps the group from being deleted.
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_DEFAULTS = (
    select(security_groups.c.id, security_groups.c.project_id)
    .where(security_groups.c.project_id.in_(_IDS), security_groups.c.is_default)
    .order_by(security_groups.c.id)
    .with_for_update(read=True, key_share=True)
)
_NAMED = (
    select(security_groups.c.id, security_groups.c.project_id, security_groups.c.stateful)
    .where(security_groups.c.id.in_(_IDS))
    .order_by(security_groups.c.id)
    .with_for_update(read=True, key_share=True)
)
_FOR_ITSELF = select(security_groups).where(security_groups.c.id.in_(_IDS)).order_by(security_groups.c.id).with_for_update()


@dataclass(frozen=True)
class NewGroup:
    project_id: str
    name: str = ""
    description: str = ""
    stateful: bool = True


def choose(tx: Tx, config: Config, context: Context, wanted: Sequence[Wanted]) -> list[list[str]]:
    """The groups of each of these ports, which stay until the transaction ends. Raises NotFound, Conflict (stateful beside stateless)."""
    named = {group_id for _, ids in wanted for group_id in ids or ()}
    found = {row["id"]: row for row in rows(tx, _NAMED, ids=sorted(named))} if named else {}
    for project_id, ids in wanted:
        check(context, project_id, ids or (), found)
    plain = {project_id for project_id, ids in wanted if ids is None}
    defaults = {row["project_id"]: row["id"] for row in rows(tx, _DEFAULTS, ids=sorted(plain))} if plain else {}
    for project_id in sorted(plain - defaults.keys()):
        defaults[project_id] = default(tx, config, project_id)
    return [[defaults[project_id]] if ids is None else list(dict.fromkeys(ids)) for project_id, ids in wanted]


def check(context: Context, project_id: str, ids: Sequence[str], found: Mapping[str, Row]) -> None:
    """May a port of the project have these groups together? Raises NotFound, Conflict."""
    for group_id in ids:
        if group_id not in found or not (context.is_admin or found[group_id]["project_id"] == project_id):
            raise visible.no_security_group(group_id)
    if len({found[group_id]["stateful"] for group_id in ids}) > 1:
        raise Conflict(
            "Error Cannot apply both stateful and stateless security groups on the same port at the same time while attempting the "
            "operation.",
            kind="SecurityGroupConflict",
        )


def default(tx: Tx, config: Config, project_id: str) -> str:
    """The project's default group, made if there is none: it counts, but no quota stands in its way."""
    found = rows(tx, _DEFAULTS, ids=[project_id])
    if found:
        return str(found[0]["id"])
    group = _row(NewGroup(project_id, DEFAULT, "Default security group"), is_default=True)
    if not insert_new(tx, security_groups, group):
        return default(tx, config, project_id)  # somebody else made it at the same time
    made = security_rules.of_default(group["id"], project_id)
    tx.execute(rules_table.insert(), made)
    quotas.count(tx, project_id, "security_group", 1)
    quotas.count(tx, project_id, "security_group_rule", len(made))
    return str(group["id"])


def has_default(tx: Tx, project_id: str) -> bool:
    is_there = select(security_groups.c.id).where(security_groups.c.project_id == project_id, security_groups.c.is_default)
    return tx.execute(is_there).first() is not None


def create_on(tx: Tx, config: Config, wanted: Sequence[NewGroup]) -> list[Row]:
    """Groups, each with the rules that it begins with: all or none. Raises QuotaExceeded."""
    for project_id in sorted({new.project_id for new in wanted}):
        default(tx, config, project_id)
    tally = quotas.Tally()
    made = [_row(new) for new in wanted]
    for group in made:
        tx.execute(security_groups.insert().values(**group))
        first = security_rules.of_new(group["id"], group["project_id"])
        tx.execute(rules_table.insert(), first)
        tally[group["project_id"], "security_group"] += 1
        tally[group["project_id"], "security_group_rule"] += len(first)
    quotas.settle(tx, config, tally)
    return made


def change(tx: Tx, context: Context, group_id: str, changes: Mapping[str, Any]) -> Row:
    """Change name, description or `stateful`. Raises NotFound, Conflict."""
    visible.security_group(tx, context, group_id)
    group = _for_itself(tx, group_id)
    if group["is_default"] and "name" in changes:
        raise Conflict("Updating default security group not allowed.", kind="SecurityGroupCannotUpdateDefault")
    values = {**changes, "updated_at": time.time(), "revision": group["revision"] + 1}
    if values.get("stateful", group["stateful"]) != group["stateful"]:
        _check_unused(tx, group_id)
        values["rules_version"] = group["rules_version"] + 1
    tx.execute(update(security_groups).where(security_groups.c.id == group_id).values(**values))
    return group | values


def delete_one(tx: Tx, config: Config, context: Context, group_id: str) -> list[str]:
    """Delete a group with its rules, and the rules of others that name it; those others. Raises NotFound, Conflict."""
    group = visible.security_group(tx, context, group_id)
    if group["is_default"] and not context.is_admin:
        raise Conflict("Insufficient rights for removing default security group.", kind="SecurityGroupCannotRemoveDefault")
    naming = select(rules_table.c.group_id).where(rules_table.c.remote_group_id == group_id, rules_table.c.group_id != group_id)
    others = sorted(set(tx.execute(naming).scalars()))
    rows(tx, _FOR_ITSELF, ids=sorted({group_id, *others}))
    _for_itself(tx, group_id)
    _check_unused(tx, group_id)
    of_it = (rules_table.c.group_id == group_id) | (rules_table.c.remote_group_id == group_id)
    gone = rows(tx, delete(rules_table).where(of_it).returning(rules_table.c.group_id, rules_table.c.project_id))
    security_members.forget(tx, group_id)
    tx.execute(delete(security_groups).where(security_groups.c.id == group_id))
    tally = quotas.Tally({(group["project_id"], "security_group"): -1})
    for rule in gone:
        tally[rule["project_id"], "security_group_rule"] -= 1
    changed = sorted({rule["group_id"] for rule in gone} - {group_id})
    if changed:
        security_rules.touch(tx, changed)
    quotas.settle(tx, config, tally)
    return changed


def with_rules(tx: Tx, found: list[Row]) -> list[Row]:
    """Groups with their `rules`."""
    of = security_rules.of_groups(tx, [row["id"] for row in found])
    return [row | {"rules": of[row["id"]]} for row in found]


def _for_itself(tx: Tx, group_id: str) -> Row:
    """Nobody gives the group to a port, or changes it, until the transaction ends. Raises NotFound."""
    found = rows(tx, _FOR_ITSELF, ids=[group_id])
    if not found:
        raise visible.no_security_group(group_id)
    return found[0]


def _check_unused(tx: Tx, group_id: str) -> None:
    if security_members.in_use(tx, group_id):
        raise Conflict(f"Security Group {group_id} in use.", kind="SecurityGroupInUse")


def _row(new: NewGroup, *, is_default: bool = False) -> Row:
    now = time.time()
    return {
        "id": str(uuid.uuid4()),
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "stateful": new.stateful,
        "is_default": is_default,
        "rules_version": 1,
        "members_version": 1,
        "members_due": 0.0,
        "created_at": now,
        "updated_at": now,
        "revision": 1,
    }
