"""Rules as flows against what they mean, without a switch: a small model of how flows match is asked for packets that lie close by."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pileus.host.switch import Filter, fields, openflow, security, tables
from pileus.host.switch.actions import Conjunction
from pileus.host.switch.openflow import Each, Flow
from pileus.messages import SecurityRule
from tests.host.switch.rigs import network

OFPORT, OTHER = 7, 8
ADDRESSES = [f"192.0.2.{number}" for number in (0, 1, 2, 3, 128)] + [f"2001:db8::{number:x}" for number in (0, 1, 2, 3, 0x80)]
CIDRS = [
    "0.0.0.0/0",
    "::/0",
    *(f"192.0.2.0/{length}" for length in (24, 30, 31, 32)),
    *(f"2001:db8::/{length}" for length in (64, 126, 128)),
]
SETS = ("red", "blue", "green")
PORTS = [0, 1, 21, 22, 23, 80, 1000, 1023, 1024, 2001, 65534, 65535]
TCP, UDP, ICMP, ICMPV6, SCTP, GRE = 6, 17, 1, 58, 132, 47


@dataclass(frozen=True)
class Packet:
    """`remote`: the other end's address. `ports`: the destination port; of ICMP type and code. None: a later fragment."""

    remote: str
    protocol: int
    ports: tuple[int, int] | None

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.remote).version

    def fields(self, direction: str) -> dict[str, int]:
        found = {"eth_type": 0x0800 if self.version == 4 else 0x86DD, "ip_proto": self.protocol, "ip_frag": 3 if self.ports is None else 0}
        found[f"ipv{self.version}_{'dst' if direction == 'egress' else 'src'}"] = int(ipaddress.ip_address(self.remote))
        found["reg0" if direction == "egress" else "reg2"] = OFPORT
        if self.ports is not None:
            named = {
                **{number: (name,) for number, name in ((TCP, "tcp_dst"), (UDP, "udp_dst"), (SCTP, "sctp_dst"))},
                ICMP: ("icmpv4_type", "icmpv4_code"),
                ICMPV6: ("icmpv6_type", "icmpv6_code"),
            }.get(self.protocol, ())
            found |= dict(zip(named, self.ports, strict=False))
        return found


@st.composite
def rules(draw: st.DrawFn) -> SecurityRule:
    version = draw(st.sampled_from((4, 6)))
    protocol = draw(st.none() | st.sampled_from((TCP, UDP, SCTP, GRE, ICMPV6 if version == 6 else ICMP)))
    first, last = None, None
    if protocol in (TCP, UDP, SCTP) and draw(st.booleans()):
        first, last = sorted(draw(st.tuples(*[st.sampled_from(PORTS) | st.integers(0, 65535)] * 2)))
    elif protocol in (ICMP, ICMPV6) and draw(st.booleans()):
        first, last = draw(st.sampled_from((0, 8, 128))), draw(st.none() | st.sampled_from((0, 1)))
    remote = draw(st.sampled_from(("any", "cidr", "set")))
    return SecurityRule(
        draw(st.sampled_from(("ingress", "egress"))),
        version,  # type: ignore[arg-type]
        protocol,
        first,
        last,
        draw(st.sampled_from(CIDRS)) if remote == "cidr" else None,
        draw(st.sampled_from(SETS)) if remote == "set" else None,
    )


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    remote = draw(st.sampled_from(ADDRESSES))
    icmp = ICMPV6 if ":" in remote else ICMP
    protocol = draw(st.sampled_from((TCP, UDP, SCTP, GRE, icmp)))
    ports = (
        st.tuples(st.sampled_from((0, 8, 128, 129)), st.sampled_from((0, 1)))
        if protocol == icmp
        else st.tuples(st.sampled_from(PORTS) | st.integers(0, 65535), st.just(0))
    )
    return Packet(remote, protocol, draw(st.none() | ports))


members = st.fixed_dictionaries({name: st.lists(st.sampled_from(ADDRESSES + CIDRS), max_size=4) for name in SETS})


def means(filter: Filter, sets: Mapping[str, list[str]], packet: Packet, direction: str) -> bool:
    """What is written in a rule."""
    return any(rule.direction == direction and rule.ip_version == packet.version and _names(rule, sets, packet) for rule in filter.rules)


def _names(rule: SecurityRule, sets: Mapping[str, list[str]], packet: Packet) -> bool:
    remote = ipaddress.ip_address(packet.remote)
    if rule.remote_cidr is not None and remote not in ipaddress.ip_network(rule.remote_cidr):
        return False
    if rule.remote_set is not None and not any(remote in ipaddress.ip_network(member) for member in sets[rule.remote_set]):
        return False
    if rule.protocol is None:
        return True
    if rule.protocol != packet.protocol:
        return False
    if packet.ports is None or (rule.port_min is None and rule.port_max is None):
        return True
    if rule.protocol in (ICMP, ICMPV6):
        return rule.port_min in (None, packet.ports[0]) and rule.port_max in (None, packet.ports[1])
    return (rule.port_min or 0) <= packet.ports[0] <= (65535 if rule.port_max is None else rule.port_max)


def flows_for(filter: Filter, sets: Mapping[str, list[str]]) -> list[Flow]:
    """All flows that a switch would hold: the tables' own, the port's and the sets'."""
    numbers = {name: security.FIRST_SET + index for index, name in enumerate(SETS)}
    found = [*security.base(), *security.egress(1, OFPORT, filter, numbers), *security.ingress(1, OFPORT, filter, numbers)]
    for name, number in numbers.items():
        found += [change for change in security.add_set(name, number) if isinstance(change, Flow)]
        for changes, _, _ in security.change_set(2, number, security.members_of(sets[name]), ()):
            for change in changes:
                found += _one_by_one(change) if isinstance(change, Each) else [change] if isinstance(change, Flow) else []
    return found


def _one_by_one(change: Each) -> Iterable[Flow]:
    flow = change.flow
    assert isinstance(flow, Flow)
    return (Flow(flow.table, flow.priority, flow.cookie, {**flow.match, change.field: value}, flow.actions) for value in change.values)


def passes(flows: list[Flow], packet: Packet, direction: str) -> bool:
    """What a switch makes of it: a conjunction whose dimensions are all met is searched as `conj_id`; else the best flow left."""
    stage = {"egress": (tables.EGRESS_RULES, tables.L2), "ingress": (tables.INGRESS_RULES, tables.OUTPUT)}[direction]
    values = packet.fields(direction)
    here = [flow for flow in flows if flow.table == stage[0] and _matches(flow.match, values)]
    met: dict[int, set[int]] = {}
    for flow in here:
        for action in flow.actions:
            if isinstance(action, Conjunction):
                met.setdefault(action.number, set()).add(action.dimension)
                assert flow.priority == action.number
    whole = {number for number, dimensions in met.items() if dimensions == {1, 2}}
    plain = [flow for flow in flows if flow.table == stage[0] and not any(isinstance(action, Conjunction) for action in flow.actions)]
    candidates = [flow for number in (0, *whole) for flow in plain if _matches(flow.match, {**values, "conj_id": number})]
    best = max((flow.priority for flow in candidates), default=-1)
    verdicts = {flow.goto for flow in candidates if flow.priority == best}
    assert len(verdicts) <= 1  # or it would not be said which one is taken
    return verdicts == {stage[1]}


def _matches(match: fields.Match, values: Mapping[str, int]) -> bool:
    for name, wanted in match.items():
        value, mask = wanted if isinstance(wanted, tuple) else (wanted, -1)
        if (values.get(name, 0) if name == "ip_frag" else values.get(name, -1)) & mask != value or (
            name not in values and name != "ip_frag"
        ):
            return False
    return True


@given(st.lists(rules(), max_size=5), members, st.lists(packets(), min_size=1, max_size=10), st.booleans())
def test_what_passes_is_what_the_rules_say(
    some: list[SecurityRule], sets: dict[str, list[str]], sent: list[Packet], stateful: bool
) -> None:
    filter = Filter(stateful, tuple(some))
    flows = flows_for(filter, sets)
    for packet in sent:
        for direction in ("egress", "ingress"):
            assert passes(flows, packet, direction) == means(filter, sets, packet, direction), (packet, direction)


@given(st.lists(rules(), max_size=6), members)
def test_no_flow_takes_anothers_place(some: list[SecurityRule], sets: dict[str, list[str]]) -> None:
    """Table, priority and match are what a flow is known by; and each can be written down."""
    places = [(flow.table, flow.priority, frozenset(flow.match.items())) for flow in flows_for(Filter(rules=tuple(some)), sets)]
    assert len(places) == len(set(places))
    for flow in flows_for(Filter(rules=tuple(some)), sets):
        assert len(openflow.bundle_add(1, flow, 1)) % 8 == 0


@given(st.integers(0, 65535), st.integers(0, 65535), st.lists(st.integers(0, 65535)))
def test_a_range_is_exactly_its_masks(one: int, other: int, ports: list[int]) -> None:
    first, last = sorted((one, other))
    masks = list(security.masks_of(first, last))
    for port in (first - 1, first, last, last + 1, *ports):
        if 0 <= port <= 65535:
            assert sum(port & mask == value for value, mask in masks) == (first <= port <= last)
    assert len(masks) <= 30


@given(st.lists(st.sampled_from(ADDRESSES + CIDRS)))
def test_members_are_read_as_they_were_written(some: list[str]) -> None:
    wanted, own = security.members_of(some), tables.cookie(tables.SET_KIND, network())
    written = [flow for flow in flows_for(Filter(), {"red": some, "blue": [], "green": []}) if flow.table == security.MEMBERS_TABLE]
    found = [openflow.FoundFlow(flow.table, flow.priority, own, flow.match) for flow in written if flow.priority == security.FIRST_SET]
    assert security.read_members(found) == wanted


def test_each_is_the_flow_with_each_value() -> None:
    flow = Flow(42, 100, 9, {"eth_type": 0x0800}, (Conjunction(100, 1),))
    values = tuple(int(ipaddress.ip_address(f"192.0.2.{number}")) for number in range(3))
    apart = [openflow.bundle_add(5, Flow(42, 100, 9, {"eth_type": 0x0800, "ipv4_src": value}, flow.actions), 6) for value in values]
    assert openflow.bundle_add(5, Each(flow, "ipv4_src", values), 6) == b"".join(apart)
