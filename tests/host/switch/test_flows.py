"""Flows as data: what a port's flows may touch, and that what is written can be read back."""

from __future__ import annotations

import struct
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.host.switch import fields, flows, networks, openflow, tables, underlay
from pileus.host.switch.actions import Output, OutputRegister, Resubmit, SetField
from pileus.host.switch.flows import add_port, change_buckets, mark_of
from pileus.host.switch.openflow import AddGroup, DeleteFlows, Flow, FoundFlow, InsertBucket, RemoveBucket
from pileus.host.switch.tables import Mark, cookie, kind_of, read_marks
from pileus.messages import AddressPair, FixedIP, PortWiring
from tests.host.switch.rigs import network, wiring

addresses = st.ip_addresses().map(str)
prefixes = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}") | st.tuples(
    st.ip_addresses(v=6), st.integers(0, 128)
).map(lambda pair: f"{pair[0]}/{pair[1]}")
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))


@st.composite
def ports(draw: st.DrawFn) -> PortWiring:
    return wiring(
        1,
        network(),
        generation=draw(st.integers(1, 2**63)),
        mac=draw(macs),
        fixed_ips=[FixedIP("subnet", address) for address in draw(st.lists(addresses, max_size=3))],
        allowed_pairs=[AddressPair(*pair) for pair in draw(st.lists(st.tuples(addresses | prefixes, macs), max_size=3))],
        port_security=draw(st.booleans()),
        admin_up=draw(st.booleans()),
    )


@given(port=ports(), ofport=st.integers(1, 65279), tag=st.integers(1, 4094))
def test_a_port_touches_its_own_flows_only(port: PortWiring, ofport: int, tag: int) -> None:
    own = cookie(tables.PORT_KIND, port.port_id)
    places = set()
    for change in add_port(port, ofport, tag):
        assert isinstance(change, Flow | DeleteFlows)
        if isinstance(change, DeleteFlows):
            assert change.cookie in (own, cookie(tables.LEARNED_KIND, port.port_id))
        else:
            assert change.cookie == own
            # Each flow is bound to the port by its number, or by its MAC in its network.
            assert ofport in (change.match.get("in_port"), change.match.get("reg0"), change.match.get("reg2")) or (
                change.match.get("reg1") == tag and "eth_dst" in change.match
            )
            places.add((change.table, change.priority, tuple(sorted(change.match.items()))))
        assert len(openflow.bundle_add(1, change, 1)) % 8 == 0
    buckets = change_buckets(None, mark_of(port, ofport, tag))
    assert all(isinstance(change, InsertBucket) and change.bucket == ofport for change in buckets)
    assert len(buckets) <= 2


@given(port=ports(), ofport=st.integers(1, 65279), tag=st.integers(1, 4094))
def test_a_marker_says_what_was_wired(port: PortWiring, ofport: int, tag: int) -> None:
    found = [
        FoundFlow(change.table, change.priority, change.cookie, change.match)
        for change in add_port(port, ofport, tag)
        if isinstance(change, Flow)
    ]
    assert read_marks(found) == {cookie(tables.PORT_KIND, port.port_id): mark_of(port, ofport, tag)}


@pytest.mark.parametrize(
    "before, after, removed, inserted",
    [
        (None, Mark(1, 5, 7, flood=True), [], [(7, 5)]),
        (Mark(1, 5, 7, flood=True), Mark(2, 5, 7, flood=True), [], []),
        (Mark(1, 5, 7, flood=True, unknown=True), Mark(2, 6, 7, flood=True), [(7, 5), (4103, 5)], [(7, 6)]),
        (Mark(1, 5, 7, flood=True), Mark(2, 5, 7), [(7, 5)], []),
        (Mark(1, 5, 7, flood=True), None, [(7, 5)], []),
        (None, None, [], []),
    ],
)
def test_only_the_difference_of_buckets_is_sent(
    before: Mark | None, after: Mark | None, removed: list[tuple[int, int]], inserted: list[tuple[int, int]]
) -> None:
    changes = change_buckets(before, after)
    assert [(change.group, change.bucket) for change in changes if isinstance(change, RemoveBucket)] == removed
    assert [(change.group, change.bucket) for change in changes if isinstance(change, InsertBucket)] == inserted
    assert len(changes) == len(removed) + len(inserted)


EGRESS_STAGE = (tables.EGRESS, tables.EGRESS_STATE, tables.EGRESS_RULES)
INGRESS_STAGE = (tables.INGRESS, tables.INGRESS_STATE, tables.INGRESS_RULES)


def test_the_ingress_stage_lies_before_every_way_out() -> None:
    """Issue after issue the stages fill: nothing may reach a port beside INGRESS."""
    port, network_id = wiring(1, network(), allowed_pairs=[AddressPair("192.0.2.9", "00:00:5e:00:01:01")]), network()
    changes = [*flows.base(), *networks.add_network(network_id, 7), *add_port(port, 5, 7), *change_buckets(None, mark_of(port, 5, 7))]
    changes += flows.add_dhcp_device(network_id, port.mac, 6, 7)
    changes += networks.add_uplink(network_id, 7, 8)
    for change in changes:
        actions = change.actions if isinstance(change, Flow | InsertBucket) else ()
        if any(isinstance(action, Output | OutputRegister) for action in actions):
            assert isinstance(change, Flow) and change.table in (tables.OUTPUT, tables.UPLINK)
        if isinstance(change, Flow) and change.goto is not None:
            assert change.goto > change.table
            assert change.goto != tables.OUTPUT or change.table in INGRESS_STAGE
            assert change.goto != tables.L2 or change.table in (tables.CLASSIFY, *EGRESS_STAGE)
        if isinstance(change, InsertBucket) and change.bucket == 8:
            assert actions == (Resubmit(tables.UPLINK),)
        elif isinstance(change, InsertBucket):
            assert [type(action) for action in actions] == [SetField, Resubmit]
            assert actions[-1] in (Resubmit(tables.INGRESS), Resubmit(tables.UNKNOWN))


def test_cookies_tell_kind_and_id_apart() -> None:
    identity = str(uuid.uuid4())
    cookies = {cookie(kind, name) for kind in range(1, 5) for name in (identity, str(uuid.uuid4()), "a port", "b port")}
    assert len(cookies) == 16
    assert {kind_of(value) for value in cookies} == {1, 2, 3, 4}
    assert f"{cookie(1, identity):016x}"[2:] == identity.replace("-", "")[:14]


def test_a_flow_as_bytes() -> None:
    """Written down once by the specification's tables (7.2.3, 7.2.6, 7.3.4.1), so that the codec is not its own judge."""
    match: dict[str, fields.Value] = {"eth_type": 0x0800, "in_port": 7, "ipv4_src": (0xC0000200, 0xFFFFFF00)}
    flow = Flow(10, 80, 0x0102, match, (SetField("reg1", 3),), goto=20)
    parts = [
        "06 0e 0070 00000009",  # version, type, length, transaction
        "0000000000000102 0000000000000000",  # cookie, mask
        "0a 00 0000 0000 0050",  # table, command, timeouts, priority
        "ffffffff ffffffff ffffffff 0000 0000",  # buffer, out port, out group, flags, importance
        "0001 001e 80000004 00000007 80000a02 0800 80001708 c0000200 ffffff00 0000",  # match, padded
        "0004 0018 00000000 0019 0010 00010204 00000003 00000000",  # apply: set reg1
        "0001 0008 14 000000",  # go to 20
    ]
    assert openflow.encode(flow, 9) == bytes.fromhex("".join(parts))


def test_a_group_as_bytes() -> None:
    assert openflow.encode(AddGroup(7), 9) == bytes.fromhex("06 0f 0018 00000009 0000 00 00 00000007 0000 0000 ffffffff")


def test_errors_are_told_in_words_with_their_numbers() -> None:
    for kind, code, text in [(6, 8, "no such group"), (5, 1, "table is full"), (77, 3, "error (OpenFlow error 77/3)")]:
        told = openflow.error_text(struct.pack("!HH", kind, code) + b"the message")
        assert text in told and f"{kind}/{code}" in told


@given(
    match=st.fixed_dictionaries(
        {"in_port": st.integers(1, 65279)},
        optional={
            "metadata": st.integers(0, 2**64 - 1),
            "eth_dst": st.integers(0, 2**48 - 1),
            "reg0": st.integers(0, 2**32 - 1),
            "reg2": st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 2)),
        },
    )
)
def test_a_match_is_read_as_it_was_written(match: dict[str, Any]) -> None:
    written = fields.encode_match(match)
    body = struct.pack("!HH4x", 1, 0) + struct.pack("!H2xBxH8xQ", 24 + len(written), 10, 80, 77) + written
    assert openflow.flow_reply(body) == ([FoundFlow(10, 80, 77, match)], False)


def test_what_is_no_address_is_left_out() -> None:
    """One host's nonsense does not keep a network from the others."""
    assert underlay.addresses(["192.0.2.1", "", "at-home", "192.0.2.1/24", "2001:db8::1"]) == {"192.0.2.1", "2001:db8::1"}
