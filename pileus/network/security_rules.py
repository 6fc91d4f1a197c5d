"""The rules of security groups: what Neutron takes, in its words; made, changed, deleted; and what of them a host is told.

Sources: Neutron's api-ref, "Security group rules"; IANA's protocol numbers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network
from typing import Any, Literal

from sqlalchemy import BindParameter, bindparam, delete, select, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict
from pileus.messages import GroupRules, SecurityRule
from pileus.network import quotas, visible
from pileus.network.config import Config
from pileus.network.tables import address_groups, security_groups, security_rules
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

Direction = Literal["ingress", "egress"]

PROTOCOLS: Mapping[str, int] = {
    "ah": 51,
    "dccp": 33,
    "egp": 8,
    "esp": 50,
    "gre": 47,
    "hopopt": 0,
    "icmp": 1,
    "icmpv6": 58,
    "igmp": 2,
    "ip": 0,
    "ipip": 4,
    "ipv6-encap": 41,
    "ipv6-frag": 44,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ipv6-route": 43,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": 132,
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "vrrp": 112,
}
WITH_PORTS = ("dccp", "sctp", "tcp", "udp", "udplite")
_PORT_NUMBERS = frozenset(PROTOCOLS[name] for name in WITH_PORTS)
_ICMP_NUMBERS = frozenset({1, 58})
_ONLY_IPV6 = frozenset({41, 43, 44, 58, 59, 60})
_ICMP_OF_IPV6 = {"icmp": "ipv6-icmp", "icmpv6": "ipv6-icmp", "1": "58"}
EVERYWHERE = ("0.0.0.0/0", "::/0")
EVERY_PORT = (1, 65535)

_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_LOCKED = select(security_groups).where(security_groups.c.id.in_(_IDS)).order_by(security_groups.c.id).with_for_update(key_share=True)
_ADDRESS_GROUPS = (
    select(address_groups.c.id, address_groups.c.project_id)
    .where(address_groups.c.id.in_(_IDS))
    .order_by(address_groups.c.id)
    .with_for_update(read=True, key_share=True)
)
_TOUCH = (
    update(security_groups)
    .where(security_groups.c.id.in_(_IDS))
    .values(rules_version=security_groups.c.rules_version + 1, revision=security_groups.c.revision + 1, updated_at=bindparam("now"))
)
_OF_GROUPS = select(security_rules).where(security_rules.c.group_id.in_(_IDS)).order_by(security_rules.c.created_at, security_rules.c.id)
_VERSIONS = select(security_groups.c.id, security_groups.c.rules_version, security_groups.c.stateful).where(security_groups.c.id.in_(_IDS))


@dataclass(frozen=True)
class NewRule:
    """`protocol`: a name or a number as text. `project_id` None: that of the group, which is whose every rule of it is."""

    group_id: str
    direction: Direction
    ip_version: int = 4
    protocol: str | None = None
    port_min: int | None = None
    port_max: int | None = None
    remote_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None
    description: str = ""
    project_id: str | None = None


def number(protocol: str) -> int:
    """Of a protocol that was found good."""
    return PROTOCOLS[protocol] if protocol in PROTOCOLS else int(protocol)


def checked(new: NewRule) -> NewRule:
    """The rule in the form that is kept. Raises BadRequest where it makes no sense."""
    if new.ip_version == 6 and new.protocol in _ICMP_OF_IPV6:
        new = replace(new, protocol=_ICMP_OF_IPV6[new.protocol])
    if (new.port_min, new.port_max) == EVERY_PORT:
        new = replace(new, port_min=None, port_max=None)
    if new.port_min is not None or new.port_max is not None:
        _check_ports(new)
    if new.remote_prefix is not None:
        new = replace(new, remote_prefix=str(ip_interface(new.remote_prefix)))
        if ip_interface(str(new.remote_prefix)).version != new.ip_version:
            raise BadRequest(
                f"Conflicting value ethertype IPv{new.ip_version} for CIDR {new.remote_prefix}", kind="SecurityGroupRuleParameterConflict"
            )
    if new.ip_version == 4 and new.protocol is not None and number(new.protocol) in _ONLY_IPV6:
        raise BadRequest(f"Invalid ethertype IPv4 for protocol {new.protocol}.", kind="SecurityGroupEthertypeConflictWithProtocol")
    if sum(remote is not None for remote in (new.remote_prefix, new.remote_group_id, new.remote_address_group_id)) > 1:
        raise BadRequest(
            "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.",
            kind="SecurityGroupMultipleRemoteEntites",
        )
    return new


def of_default(group_id: str, project_id: str) -> list[Row]:
    """The rules of a project's default group: out everywhere, in from one another."""
    return [
        row(new, project_id)
        for version in (4, 6)
        for new in (NewRule(group_id, "ingress", version, remote_group_id=group_id), NewRule(group_id, "egress", version))
    ]


def of_new(group_id: str, project_id: str) -> list[Row]:
    """The rules that any other group begins with: out everywhere."""
    return [row(NewRule(group_id, "egress", version), project_id) for version in (4, 6)]


def row(new: NewRule, project_id: str) -> Row:
    """Of a rule that was found good."""
    now = time.time()
    return {
        "id": str(uuid.uuid4()),
        "group_id": new.group_id,
        "project_id": project_id,
        "description": new.description,
        "direction": new.direction,
        "ip_version": new.ip_version,
        "protocol": new.protocol,
        "port_min": new.port_min,
        "port_max": new.port_max,
        "remote_prefix": new.remote_prefix,
        "remote_cidr": None if new.remote_prefix is None else str(ip_network(new.remote_prefix, strict=False)),
        "remote_group_id": new.remote_group_id,
        "remote_address_group_id": new.remote_address_group_id,
        "meaning": meaning(new),
        "created_at": now,
        "updated_at": now,
        "revision": 1,
    }


def meaning(new: NewRule) -> str:
    """All of a rule that decides what passes: two alike mean the same."""
    cidr = None if new.remote_prefix is None else str(ip_network(new.remote_prefix, strict=False))
    remote = (None if cidr in EVERYWHERE else cidr) or new.remote_group_id or new.remote_address_group_id
    parts = (None if new.protocol is None else number(new.protocol), new.port_min, new.port_max, remote)
    return " ".join([new.direction, str(new.ip_version), *("-" if part is None else str(part) for part in parts)])


def create_on(tx: Tx, config: Config, context: Context, wanted: Sequence[NewRule]) -> list[Row]:
    """Rules of one group: all or none. Raises BadRequest, NotFound, Conflict (SecurityGroupRuleExists, …), QuotaExceeded."""
    new = [checked(one) for one in wanted]
    if len({one.group_id for one in new}) > 1:
        raise BadRequest("Only allowed to update rules for one security profile at a time", kind="SecurityGroupNotSingleGroupRules")
    meanings = {meaning(one) for one in new}
    if len(meanings) < len(new):
        raise Conflict("Duplicate Security Group Rule in POST.", kind="DuplicateSecurityGroupRuleInPost")
    group_id = new[0].group_id
    named = {one.remote_group_id for one in new if one.remote_group_id} | {group_id}
    locked = {each["id"]: each for each in rows(tx, _LOCKED, ids=sorted(named)) if context.sees(each["project_id"])}
    for each in sorted(named - locked.keys()):
        raise visible.no_security_group(each)
    project_id = locked[group_id]["project_id"]
    if any(one.project_id not in (None, project_id) for one in new):
        raise visible.no_security_group(group_id)
    _check_address_groups(tx, context, {one.remote_address_group_id for one in new if one.remote_address_group_id})
    made = [row(one, project_id) for one in new]
    for rule in made:
        if not insert_new(tx, security_rules, rule):
            raise _exists(tx, group_id, rule["meaning"])
    touch(tx, [group_id])
    quotas.settle(tx, config, quotas.Tally({(project_id, "security_group_rule"): len(made)}))
    return made


def describe(tx: Tx, context: Context, rule_id: str, changes: Mapping[str, Any]) -> Row:
    """Change the description, which is all that changes of a rule. Raises NotFound."""
    found = visible.security_rule(tx, context, rule_id)
    values = {**changes, "updated_at": time.time(), "revision": found["revision"] + 1}
    if tx.execute(update(security_rules).where(security_rules.c.id == rule_id).values(**values)).rowcount != 1:
        raise visible.no_security_rule(rule_id)
    return found | values


def delete_one(tx: Tx, config: Config, context: Context, rule_id: str) -> str:
    """The group that the rule was of. Raises NotFound."""
    found = visible.security_rule(tx, context, rule_id)
    rows(tx, _LOCKED, ids=[found["group_id"]])
    if tx.execute(delete(security_rules).where(security_rules.c.id == rule_id)).rowcount != 1:
        raise visible.no_security_rule(rule_id)
    touch(tx, [found["group_id"]])
    quotas.settle(tx, config, quotas.Tally({(found["project_id"], "security_group_rule"): -1}))
    return str(found["group_id"])


def touch(tx: Tx, group_ids: Sequence[str]) -> None:
    """These groups' rules are others now. The caller has locked them."""
    tx.execute(_TOUCH, {"ids": sorted(group_ids), "now": time.time()})


def of_groups(tx: Tx, group_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Group → its rules, the oldest first."""
    found: dict[str, list[Row]] = {group_id: [] for group_id in group_ids}
    if found:
        for each in rows(tx, _OF_GROUPS, ids=sorted(found)):
            found[each["group_id"]].append(each)
    return found


def told(tx: Tx, group_ids: Sequence[str]) -> dict[str, GroupRules]:
    """What hosts are told of these groups, as far as they are there."""
    if not group_ids:
        return {}
    versions = rows(tx, _VERSIONS, ids=sorted(group_ids))
    of = of_groups(tx, [each["id"] for each in versions])
    return {
        each["id"]: GroupRules(each["id"], each["rules_version"], each["stateful"], [wired(rule) for rule in of[each["id"]]])
        for each in versions
    }


def wired(rule: Row) -> SecurityRule:
    """A rule in numbers. Protocol 0 (`ip`, `hopopt`) is every protocol, as Neutron's firewalls have it."""
    cidr = rule["remote_cidr"]
    return SecurityRule(
        direction=rule["direction"],
        ip_version=rule["ip_version"],
        protocol=None if rule["protocol"] is None else number(rule["protocol"]) or None,
        port_min=rule["port_min"],
        port_max=rule["port_max"],
        remote_cidr=None if cidr in EVERYWHERE else cidr,
        remote_set=rule["remote_group_id"] or rule["remote_address_group_id"],
    )


def _check_ports(new: NewRule) -> None:
    """Ports of protocols that have them; type and code of ICMP. Raises BadRequest."""
    if new.protocol is None:
        raise BadRequest("Must also specify protocol if port range is given.", kind="SecurityGroupProtocolRequiredWithPorts")
    protocol = number(new.protocol)
    if protocol in _PORT_NUMBERS:
        if 0 in (new.port_min, new.port_max):
            raise bad_port(0)
        if new.port_min is None or new.port_max is None or new.port_min > new.port_max:
            raise BadRequest("For TCP/UDP protocols, port_range_min must be <= port_range_max", kind="SecurityGroupInvalidPortRange")
    elif protocol in _ICMP_NUMBERS:
        for name, field, value in (("port_range_min", "type", new.port_min), ("port_range_max", "code", new.port_max)):
            if value is not None and not 0 <= value <= 255:
                raise BadRequest(
                    f"Invalid value for ICMP {field} ({name}) {value}. It must be 0 to 255.", kind="SecurityGroupInvalidIcmpValue"
                )
        if new.port_min is None:
            raise BadRequest(
                f"ICMP code (port-range-max) {new.port_max} is provided but ICMP type (port-range-min) is missing.",
                kind="SecurityGroupMissingIcmpType",
            )
    else:
        names = ", ".join(name.upper() for name in WITH_PORTS)
        raise BadRequest(
            f"Ports cannot be specified for protocol {protocol}. Ports are only supported for {names}.",
            kind="SecurityGroupInvalidProtocolForPort",
        )


def bad_port(value: object) -> BadRequest:
    return BadRequest(f"Invalid value for port {value}", kind="SecurityGroupInvalidPortValue")


def _check_address_groups(tx: Tx, context: Context, named: set[str]) -> None:
    if named:
        seen = {each["id"] for each in rows(tx, _ADDRESS_GROUPS, ids=sorted(named)) if context.sees(each["project_id"])}
        for each in sorted(named - seen):
            raise visible.no_address_group(each)


def _exists(tx: Tx, group_id: str, same: str) -> Conflict:
    alike = select(security_rules.c.id).where(security_rules.c.group_id == group_id, security_rules.c.meaning == same)
    found = first(tx, alike)
    return Conflict(
        f"Security group rule already exists. Rule id is {found['id'] if found else 'unknown'}.", kind="SecurityGroupRuleExists"
    )


def bad_protocol(value: object) -> BadRequest:
    known = ", ".join(["any", *PROTOCOLS])
    return BadRequest(
        f"Security group rule protocol {value} not supported. Only protocol values {known} and integer representations [0 to 255] are "
        "supported.",
        kind="SecurityGroupRuleInvalidProtocol",
    )
