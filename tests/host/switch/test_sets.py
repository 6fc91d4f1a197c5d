"""Sets of addresses on a real switch: whose flows they are, what is sent of them, what a restart finds. Flows deleted one by one."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from pileus.host.switch.openflow import DeleteFlow, Each, Flow, Message
from pileus.host.switch.tables import EGRESS_RULES, INGRESS_RULES, PORT_KIND, SET_KIND, cookie
from pileus.host.switch_sets import SwitchSets
from tests.host.switch.frames import udp
from tests.host.switch.rigs import LIMIT, OvsRig, network
from tests.host.switch.test_security import IP_A, MAC, SENDS, guest, rule, takes, to_b

FRIENDS = [rule(protocol=17, remote_set="friends")]


async def flows_of(ovs: OvsRig, kind: int, identity: str) -> list[str]:
    dumped = await ovs.ofctl("dump-flows", f"cookie={cookie(kind, identity):#x}/-1")
    return [line for line in dumped.splitlines() if "cookie=" in line]


async def members(ovs: OvsRig, name: str = "friends") -> int:
    """Flows of addresses, in both directions."""
    return sum("conjunction(" in line for line in await flows_of(ovs, SET_KIND, name))


class Told:
    """What is sent to the integration bridge."""

    def __init__(self, ovs: OvsRig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundles: list[list[Message]] = []
        bridge = ovs.switch._pipeline._bridges["br-int"]
        real = bridge.bundle

        def bundle(changes: Any) -> Any:
            self.bundles.append(list(changes))
            return real(changes)

        monkeypatch.setattr(bridge, "bundle", bundle)

    def counted(self) -> tuple[int, int]:
        """Flows of addresses added and deleted."""
        added = deleted = 0
        for change in (change for bundle in self.bundles for change in bundle):
            one = change.flow if isinstance(change, Each) else change
            many = len(change.values) if isinstance(change, Each) else 1
            if isinstance(one, Flow | DeleteFlow) and one.table in (EGRESS_RULES, INGRESS_RULES) and "conj_id" not in str(one.match):
                added, deleted = added + many * isinstance(one, Flow), deleted + many * isinstance(one, DeleteFlow)
        return added, deleted


async def test_only_what_has_changed_is_sent(ovs: OvsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(ovs, monkeypatch)
    steps: list[tuple[list[str], tuple[int, int]]] = [
        (["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.0.0.0/8"], (8, 0)),
        (["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.0.0.0/8"], (0, 0)),
        (["192.0.2.1", "192.0.2.3", "2001:db8::2", "10.0.0.0/9", "nobody's"], (6, 6)),
        ([], (0, 8)),
    ]
    for addresses, sent in steps:
        told.bundles.clear()
        await ovs.switch.address_set("friends", addresses)
        assert told.counted() == sent
        assert await members(ovs) == 2 * len([address for address in addresses if address != "nobody's"])
    await ovs.switch.drop_sets(["friends", "there-never-was-one"])
    assert not any((await ovs.leftovers()).values())


async def test_the_next_process_finds_a_set_and_sends_the_difference(ovs: OvsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"10.0.{number >> 8}.{number & 255}" for number in range(600)] + ["2001:db8::/64", "192.0.2.0/24", "0.0.0.0/0"]
    b = await guest(ovs, 2, network(), takes(*FRIENDS))
    await ovs.switch.address_set("friends", addresses)
    await ovs.switch.address_set("nobody names it", addresses[:3])
    assert await members(ovs) == 2 * len(addresses)
    await ovs.restart()
    # What no port's rules name is gone, the other one is as it was.
    assert (await members(ovs), await members(ovs, "nobody names it")) == (2 * len(addresses), 0)
    told = Told(ovs, monkeypatch)
    await ovs.switch.address_set("friends", [*addresses[1:], "10.9.9.9"])
    assert told.counted() == (2, 2)
    await b.wire(takes(*FRIENDS, rule(protocol=6)))
    assert await members(ovs) == 2 * len(addresses)
    await ovs.switch.unplug([b.port.port_id])
    await ovs.switch.drop_sets(["friends"])
    assert not any((await ovs.leftovers()).values())


async def test_a_set_is_told_again_after_the_tables_were_lost(ovs: OvsRig) -> None:
    one = network()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(*FRIENDS))
    await ovs.switch.address_set("friends", [IP_A])
    assert await a.reaches(b, to_b(9))
    back = asyncio.Event()
    ovs.switch.on_reset = back.set
    ovs.kill("ovs-vswitchd")
    async with asyncio.timeout(LIMIT):
        await back.wait()
    assert await members(ovs) == 0
    await ovs.switch.address_set("friends", [IP_A])
    await a.wire(SENDS)
    await b.wire(takes(*FRIENDS))
    assert await a.reaches(b, to_b(9))


async def test_a_set_that_nobody_told_of_lets_nobody_in(ovs: OvsRig) -> None:
    one = network()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(*FRIENDS))
    assert not await a.reaches(b, to_b(9))
    await ovs.switch.address_set("friends", [IP_A])
    await ovs.settled()
    assert await a.reaches(b, to_b(9))


async def test_two_who_tell_at_the_same_time_end_with_what_was_told_last(ovs: OvsRig) -> None:
    addresses = [f"10.0.{number >> 8}.{number & 255}" for number in range(700)]
    await asyncio.gather(
        *(ovs.switch.address_set("friends", addresses[: 100 * count]) for count in range(7)),
        *(ovs.switch.address_set("others", addresses[:count]) for count in range(3)),
    )
    assert (await members(ovs), await members(ovs, "others")) == (1200, 4)
    telling = asyncio.create_task(ovs.switch.address_set("friends", addresses[5:]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    telling.cancel()
    await asyncio.wait([telling])
    await ovs.switch.address_set("friends", addresses)
    assert await members(ovs) == 1400


async def test_wiring_and_removing_a_port_touches_its_own_flows_only(ovs: OvsRig) -> None:
    one = network()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(*FRIENDS))
    await ovs.switch.address_set("friends", [IP_A])

    async def stands() -> set[str]:
        """Whatever is not b's, but for counters and groups."""
        mine = f"cookie={cookie(PORT_KIND, b.port.port_id):#x},"
        lines = (await ovs.ofctl("dump-flows", "--no-stats")).splitlines()
        return {line for line in lines if mine not in line and "cookie=" in line}

    before, own = await stands(), await flows_of(ovs, PORT_KIND, b.port.port_id)
    age = min(await ages(ovs, a.port.port_id))
    for _ in range(2):
        await b.wire(takes(*FRIENDS))
    assert await stands() == before
    assert len(await flows_of(ovs, PORT_KIND, b.port.port_id)) == len(own)
    assert min(await ages(ovs, a.port.port_id)) >= age  # none was made anew
    await ovs.switch.unplug([b.port.port_id])
    assert await stands() == before
    assert await flows_of(ovs, PORT_KIND, b.port.port_id) == []


async def ages(ovs: OvsRig, port_id: str) -> list[float]:
    return [float(found[1]) for line in await flows_of(ovs, PORT_KIND, port_id) if (found := re.search(r"duration=([\d.]+)s", line))]


@pytest.mark.parametrize("deletion", ["blocking", "bundled", "deferred"])
async def test_flows_go_one_by_one_or_all_together(ovs: OvsRig, deletion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = network()
    stays = await guest(ovs, 1, one, SENDS)
    gone = [await guest(ovs, number, one, takes(*FRIENDS, rule(protocol=6, port_min=1, port_max=1000))) for number in (2, 3)]
    ids = [port.port.port_id for port in gone]
    count = sum([len(await flows_of(ovs, PORT_KIND, port_id)) for port_id in ids])
    bridge = ovs.switch._pipeline._bridges["br-int"]
    calls: list[Message] = []
    real = bridge.call

    async def call(change: Message) -> None:
        calls.append(change)
        assert len(bridge._calls) == 0  # the one before was answered
        await real(change)

    monkeypatch.setattr(bridge, "call", call)
    await ovs.switch.unplug(ids, deletion=deletion)
    assert len(calls) == (count if deletion == "blocking" else 0)
    for port_id in ids:
        assert await flows_of(ovs, PORT_KIND, port_id) == []
    again = await guest(ovs, 2, one, takes(rule()))
    assert await stays.reaches(again, udp(MAC[1], MAC[2], IP_A, "192.0.2.2"))
    await ovs.switch.unplug([stays.port.port_id, again.port.port_id], deletion=deletion)
    await ovs.switch.drop_sets(["friends"])
    assert not any((await ovs.leftovers()).values())


async def test_what_is_wired_while_the_markers_are_read_is_known_afterwards(ovs: OvsRig) -> None:
    a = await guest(ovs, 1, network(), SENDS)
    there = asyncio.create_task(ovs.switch.ports())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.gather(ovs.switch.address_set("friends", [IP_A]), a.wire(takes(*FRIENDS)), there)
    assert await members(ovs) == 2
    before = await flows_of(ovs, SET_KIND, "friends")
    await a.wire(takes(*FRIENDS))
    assert len(before) == len(await flows_of(ovs, SET_KIND, "friends"))


async def test_a_set_of_which_nothing_is_known_keeps_its_members(ovs: OvsRig) -> None:
    """What is allowed goes on through a restart of the host's process, before anybody says who the members are."""
    one, known = network(), dict[str, set[str]]()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, None)
    for restarts in (False, True):
        sets = SwitchSets(ovs.switch)
        sets.follow(known.get, lambda _: True)
        if not restarts:
            known["friends"] = {IP_A}
        await sets.hold(b.port.port_id, takes(*FRIENDS))
        await b.wire(takes(*FRIENDS))
        assert await a.reaches(b, to_b(9))
        if not restarts:
            await ovs.restart()
            known.clear()
    known["friends"] = set()
    await sets.tell("friends")
    await ovs.settled()
    assert not await a.reaches(b, to_b(9))
