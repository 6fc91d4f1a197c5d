"""Security groups as flows: what a port's rules let pass, and the sets of addresses that rules name. Pure.

A stateful port's packets are tracked in the conntrack zone of their network. What goes in the direction in which a connection was begun is
judged by the rules, each packet of it; what goes back passes if the connection was accepted. So a changed rule holds at once for
what stands already: a packet that no rule allows any more marks its connection as refused, which ends the answers, too, and one that is
allowed again marks it as accepted. A connection is kept when its first packet has passed all that is on its way (CONFIRM), so one that the
receiver's rules drop leaves nothing behind; both ends on one host share it, for the zone is the same. Multicast is tracked once for all
who hear it and never kept: nothing is an answer to it.

The first fragment of a datagram has its ports, the later ones have none: these pass where a rule would let some port of theirs pass, and
are of no use without the first.

A rule with a set of addresses is a conjunctive match: the addresses are one dimension, the port's rules the other. The first are flows
of the set, one for each address and direction, whatever ports and rules there are. An address may be in many sets and a flow is known by
priority and match, so each set has a priority of its own, which is the number of its conjunction as well. All rules only let pass: which
one comes first does not matter.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pileus.host.switch import Filter
from pileus.host.switch.actions import Commit, Conjunction, Track
from pileus.host.switch.fields import ESTABLISHED, INVALID, NEW, RELATED, REPLY, TRACKED, Value
from pileus.host.switch.openflow import DeleteFlow, DeleteFlows, Each, Flow, FoundFlow, Message
from pileus.host.switch.tables import (
    CONFIRM,
    DESTINATION,
    EGRESS,
    EGRESS_RULES,
    EGRESS_STATE,
    HOST_ONLY,
    INGRESS,
    INGRESS_RULES,
    INGRESS_STATE,
    L2,
    MULTICAST,
    ORIGIN,
    OUTPUT,
    SET_KIND,
    SOURCE,
    ZONE,
    Mark,
    base_cookie,
    cookie,
    marker,
)
from pileus.messages import SecurityRule

ACCEPTED, REFUSED = 1, 2
"""`ct_mark` of a connection that is kept."""
FIRST_SET, LAST_SET = 100, 59999
"""Numbers of sets: priorities below those of plain rules and above those of the tables' own flows."""
_PLAIN = 60000
_CHUNK = 250
"""Addresses in one bundle: the switch takes some milliseconds for them, and other ports' bundles come between."""

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ETHER_TYPES = {4: _IPV4, 6: _IPV6}
_ICMP, _TCP, _UDP, _ICMPV6, _SCTP = 1, 6, 17, 58, 132
_PORTS = {_TCP: "tcp_dst", _UDP: "udp_dst", _SCTP: "sctp_dst"}
_ICMP_FIELDS = {_ICMP: ("icmpv4_type", "icmpv4_code"), _ICMPV6: ("icmpv6_type", "icmpv6_code")}
_LAST_PORT = 65535
_LATER = (2, 2)
"""`ip_frag` of all fragments but the first."""
# Router and neighbour solicitation, neighbour advertisement, reports of multicast listeners; what they send must be theirs (`antispoof`).
_SENT_BY_GUESTS = (133, 135, 136, 131, 132, 143)
# Query for multicast listeners, router advertisement (which no guest can send), neighbour solicitation and advertisement.
_HEARD_BY_GUESTS = (130, 134, 135, 136)
# No part of any connection: conntrack calls them invalid. The rules judge them as they are.
_CONNECTIONLESS = (131, 132, 133, 143)

_BEGINS = (TRACKED, TRACKED | REPLY | RELATED | INVALID)
"""`ct_state` in the direction in which a connection was begun."""

_Match = dict[str, Value]
Member = tuple[int, int, int]
"""IP version, address, prefix length."""


@dataclass(frozen=True)
class _Stage:
    """One of the two: its tables, where to go on, which register has the port that is asked, which address is the other end's."""

    entry: int
    state: int
    rules: int
    after: int
    port: str
    remote: str


_EGRESS = _Stage(EGRESS, EGRESS_STATE, EGRESS_RULES, L2, SOURCE, "dst")
_INGRESS = _Stage(INGRESS, INGRESS_STATE, INGRESS_RULES, OUTPUT, DESTINATION, "src")
_STAGES = {"egress": _EGRESS, "ingress": _INGRESS}


def base() -> list[Flow]:
    """What is the same for all ports: what every guest needs, and what a connection's state says."""
    own = base_cookie()
    flows = [Flow(CONFIRM, 30, own, {"eth_dst": MULTICAST}), Flow(CONFIRM, 20, own, {"ct_state": (TRACKED, TRACKED), "ct_mark": ACCEPTED})]
    for kind in _ETHER_TYPES.values():
        flows.append(Flow(CONFIRM, 10, own, {"eth_type": kind, "ct_state": _BEGINS}, (Commit(ZONE, ACCEPTED),)))
        # Once for all the ports that it will reach.
        untracked: _Match = {"eth_type": kind, "eth_dst": MULTICAST, "ct_state": (0, TRACKED)}
        flows.append(Flow(L2, 95, own, untracked, (Track(ZONE, L2),)))
    for stage in (_EGRESS, _INGRESS):
        flows += [Flow(stage.entry, 100, own, match, goto=stage.after) for match in _needed(stage)]
        flows += _state(own, stage)
    for kind in _CONNECTIONLESS:
        match: _Match = {"eth_type": _IPV6, "ip_proto": _ICMPV6, "icmpv6_type": kind}
        flows.append(Flow(INGRESS, 100, own, match, goto=INGRESS_RULES))
    return flows


def _needed(stage: _Stage) -> Iterator[_Match]:
    yield {"eth_type": _ARP}
    dhcp: _Match = {"eth_type": _IPV4, "ip_proto": _UDP}
    if stage is _EGRESS:
        yield {**dhcp, "udp_src": 68, "udp_dst": 67}
    else:
        yield {**dhcp, "udp_src": 67, "udp_dst": 68, ORIGIN: HOST_ONLY}
    for kind in _SENT_BY_GUESTS if stage is _EGRESS else _HEARD_BY_GUESTS:
        yield {"eth_type": _IPV6, "ip_proto": _ICMPV6, "icmpv6_type": kind}


def _state(own: int, stage: _Stage) -> Iterator[Flow]:
    answers = (TRACKED | ESTABLISHED | REPLY, TRACKED | ESTABLISHED | REPLY | INVALID)
    errors = (TRACKED | RELATED, TRACKED | RELATED | NEW | INVALID)
    yield Flow(stage.state, 90, own, {"ct_state": (TRACKED | INVALID, TRACKED | INVALID)})
    for state in (answers, errors):
        yield Flow(stage.state, 80, own, {"ct_state": state, "ct_mark": ACCEPTED}, goto=stage.after)
    for bit in (REPLY, RELATED):
        yield Flow(stage.state, 70, own, {"ct_state": (TRACKED | bit, TRACKED | bit)})
    yield Flow(stage.state, 10, own, {"ct_state": (TRACKED, TRACKED)}, goto=stage.rules)
    for kind in _ETHER_TYPES.values():
        ends: _Match = {"eth_type": kind, "ct_state": _BEGINS, "ct_mark": ACCEPTED}
        yield Flow(stage.rules, 1, own, ends, (Commit(ZONE, REFUSED),))


# --- Ports ---------------------------------------------------------------------------------------------------------------


def egress(own: int, ofport: int, rules: Filter | None, numbers: Mapping[str, int]) -> Iterator[Flow]:
    """What a port may send. `rules` None: all. `numbers`: of the sets that rules name."""
    return _filtered(own, ofport, rules, numbers, _EGRESS)


def ingress(own: int, ofport: int, rules: Filter | None, numbers: Mapping[str, int]) -> Iterator[Flow]:
    """What a port receives, in the same way."""
    return _filtered(own, ofport, rules, numbers, _INGRESS)


def sets_of(rules: Filter | None) -> set[str]:
    """The sets that rules name."""
    return {rule.remote_set for rule in rules.rules if rule.remote_set is not None} if rules is not None else set()


def _filtered(own: int, ofport: int, rules: Filter | None, numbers: Mapping[str, int], stage: _Stage) -> Iterator[Flow]:
    here = {stage.port: ofport}
    if rules is None:
        yield Flow(stage.entry, 105, own, here, goto=stage.after)
        return
    if rules.stateful:
        for kind in _ETHER_TYPES.values():
            yield Flow(stage.entry, 50, own, {**here, "eth_type": kind}, (Track(ZONE, stage.state),))
    else:
        yield Flow(stage.entry, 50, own, here, goto=stage.rules)
    if rules.stateful and stage is _INGRESS:
        # Tracked already, as a packet that some port of this host sent.
        yield Flow(stage.entry, 60, own, {**here, "ct_state": (TRACKED, TRACKED)}, goto=stage.state)
    flows: dict[tuple[int, frozenset[tuple[str, Value]]], Flow] = {}
    for rule in (rule for rule in rules.rules if _STAGES[rule.direction] is stage):
        for match in _matches(rule, stage):
            if rule.remote_set is None:
                flows[_key(_PLAIN, match)] = Flow(stage.rules, _PLAIN, own, {**here, **match}, goto=stage.after)
            else:
                number = numbers[rule.remote_set]
                flows[_key(number, match)] = Flow(stage.rules, number, own, {**here, **match}, (Conjunction(number, 2),))
    yield from flows.values()


def _key(priority: int, match: _Match) -> tuple[int, frozenset[tuple[str, Value]]]:
    """Rules that overlap have flows in common."""
    return priority, frozenset(match.items())


def _matches(rule: SecurityRule, stage: _Stage) -> Iterator[_Match]:
    """What a rule names in packets, but for its set. A CIDR of the other IP version, or ports of a protocol whose ports the switch does
    not know: nothing."""
    match: _Match = {"eth_type": _ETHER_TYPES[rule.ip_version]}
    if rule.remote_cidr is not None:
        remote = next(iter(members_of([rule.remote_cidr])), None)
        if remote is None or remote[0] != rule.ip_version:
            return
        match |= _address(stage, remote)
    if rule.protocol is None:
        yield match
        return
    protocol = _ICMPV6 if rule.ip_version == 6 and rule.protocol == _ICMP else rule.protocol
    match["ip_proto"] = protocol
    parts = list(_ports(protocol, rule.port_min, rule.port_max))
    yield from ({**match, **part} for part in parts)
    if parts not in ([], [{}]):
        yield {**match, "ip_frag": _LATER}


def _ports(protocol: int, first: int | None, last: int | None) -> Iterator[_Match]:
    """Ports, of ICMP type and code; `{}`: all."""
    if first is None and last is None:
        yield {}
    elif protocol in _ICMP_FIELDS:
        yield {name: value for name, value in zip(_ICMP_FIELDS[protocol], (first, last), strict=True) if value is not None}
    elif protocol in _PORTS:
        for value, mask in masks_of(first or 0, _LAST_PORT if last is None else last):
            yield {_PORTS[protocol]: value if mask == _LAST_PORT else (value, mask)} if mask else {}


def masks_of(first: int, last: int) -> Iterator[tuple[int, int]]:
    """A range of 16-bit numbers as values and masks: at most 30 of them, each as large as it can be."""
    while first <= last:
        size = first & -first or _LAST_PORT + 1
        while first + size - 1 > last:
            size >>= 1
        yield first, _LAST_PORT & ~(size - 1)
        first += size


def _address(stage: _Stage, member: Member) -> _Match:
    version, address, length = member
    bits = 32 if version == 4 else 128
    if length == 0:
        return {}
    mask = (1 << bits) - (1 << bits - length)
    return {_field_of(stage, version): address if length == bits else (address, mask)}


def _field_of(stage: _Stage, version: int) -> str:
    return f"ipv{version}_{stage.remote}"


# --- Sets ----------------------------------------------------------------------------------------------------------------


def members_of(addresses: Iterable[str]) -> set[Member]:
    """Addresses and CIDRs as numbers; what is neither is left out: one host's nonsense does not keep a set from the others."""
    found: set[Member] = set()
    for text in addresses:
        try:
            if "/" in text:
                network = ipaddress.ip_network(text, strict=False)
                found.add((network.version, int(network.network_address), network.prefixlen))
            elif ":" in text:
                found.add((6, int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big"), 128))
            else:
                found.add((4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big"), 32))
        except (ValueError, OSError):
            continue
    return found


def add_set(set_id: str, number: int) -> list[Message]:
    """A set without members. What its conjunction finds passes."""
    own = cookie(SET_KIND, set_id)
    found = [Flow(stage.rules, number, own, {"conj_id": number}, goto=stage.after) for stage in _STAGES.values()]
    return [DeleteFlows(own), marker(own, Mark(0, number, 0)), *found]


def change_set(
    own: int, number: int, joined: Collection[Member], left: Collection[Member]
) -> Iterator[tuple[list[Message], list[Member], list[Member]]]:
    """A set's members come and go, by its cookie and number: bundles, each with who joins and who leaves by it."""
    for some in _chunks(left):
        yield _flows_of_members(own, number, some, gone=True), [], some
    for some in _chunks(joined):
        yield _flows_of_members(own, number, some, gone=False), some, []


def _chunks(members: Collection[Member]) -> Iterator[list[Member]]:
    ordered = sorted(members)
    return (ordered[at : at + _CHUNK] for at in range(0, len(ordered), _CHUNK))


def _flows_of_members(own: int, number: int, members: Iterable[Member], *, gone: bool) -> list[Message]:
    whole: dict[int, list[int]] = {4: [], 6: []}
    networks = []
    for version, address, length in members:
        if length == (32 if version == 4 else 128):
            whole[version].append(address)
        else:
            networks.append((version, address, length))
    changes: list[Message] = []
    for stage in _STAGES.values():
        for version, addresses in whole.items():
            if addresses:
                flow = _member(stage, own, number, {"eth_type": _ETHER_TYPES[version]}, gone=gone)
                changes.append(Each(flow, _field_of(stage, version), tuple(addresses)))
        matches = [{"eth_type": _ETHER_TYPES[member[0]], **_address(stage, member)} for member in networks]
        changes += [_member(stage, own, number, match, gone=gone) for match in matches]
    return changes


def _member(stage: _Stage, own: int, number: int, match: _Match, *, gone: bool) -> Flow | DeleteFlow:
    return DeleteFlow(stage.rules, number, match) if gone else Flow(stage.rules, number, own, match, (Conjunction(number, 1),))


MEMBERS_TABLE = INGRESS_RULES
"""Where a set's members are read back from: they are the same in the other direction."""


def read_members(found: Iterable[FoundFlow]) -> set[Member]:
    """A set's members, from its flows in MEMBERS_TABLE."""
    members: set[Member] = set()
    for flow in found:
        kind = flow.match.get("eth_type")
        for version, ether_type in _ETHER_TYPES.items():
            if kind == ether_type:
                bits = 32 if version == 4 else 128
                value = flow.match.get(_field_of(_INGRESS, version), (0, 0))
                address, mask = value if isinstance(value, tuple) else (value, (1 << bits) - 1)
                members.add((version, address, mask.bit_count()))
    return members
