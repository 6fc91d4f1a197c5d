"""What a host knows of the security groups of its ports, whatever becomes of the messages, and what it tells its switch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from typing import Any

import pytest

from pileus.bus.inprocess import InProcessBus
from pileus.host import security
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.lanes import Lanes
from pileus.host.network_part import NetworkPart, NetworkParts
from pileus.host.switch import Filter, SwitchError
from pileus.host.switch.simulated import World
from pileus.host.switch_sets import SwitchSets
from pileus.messages import AddressSet, GroupRules, PortsChanged, Security, SecurityChanged
from pileus.settings import Settings, Simulated
from tests.host.agents import PING, SSH, Control, Recorded, from_set, port, rig

LOOPS = ["lanes", "serial"]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of each kind of loop; turns follow one another quickly."""
    return {"agent_loop": request.param, "polling_interval": 0.01}


async def test_sets_are_told_then_the_port_is_wired_with_its_groups_rules(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", SSH, from_set("web"))
        made.control.allow("all", PING, SSH)
        made.control.change("web", joined=["10.0.0.1", "10.0.0.2"])
        await made.wired(port("a", "web", "all"))
        assert made.done("set", "wire") == [("set", ("web", "10.0.0.1", "10.0.0.2")), ("wire", "a")]
        filters = made.switch.filters["a"]
        assert filters is not None and set(filters.rules) == {SSH, PING, from_set("web")}
        assert len(filters.rules) == 3 and filters.stateful
        await made.wired(port("b", "web"))
        assert made.done("set", "wire") == [("wire", "b")]
        assert [question.groups for question in made.control.questions] == [{"all": -1, "web": -1}]


async def test_what_comes_together_is_asked_for_together_and_beside_the_boot() -> None:
    async with rig() as made:
        made.agent.expect([port("a", "one"), port("b", "two"), port("c", "one")])
        await made.until(lambda: made.control.questions)
        assert [question.groups for question in made.control.questions] == [{"one": -1, "two": -1}]
        await made.wired(port("a", "one"), port("b", "two"), port("c", "one"))
        assert len(made.control.questions) == 1


async def test_without_groups_closed_without_port_security_open_and_nobody_is_asked() -> None:
    async with rig() as made:
        await made.wired(port("closed"), port("open", "web", port_security=False))
        assert made.switch.filters == {"closed": Filter(), "open": None}
        assert made.control.questions == []


async def test_one_stateless_group_makes_a_port_stateless() -> None:
    async with rig() as made:
        told = made.control.allow("web", SSH).groups[0]
        made.control.groups["web"] = type(told)("web", 0, False, told.rules)
        await made.wired(port("a", "web"))
        assert made.switch.filters["a"] == Filter(False, (SSH,))


async def test_changed_rules_wire_the_ports_of_their_group_once_each(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", SSH)
        await made.wired(port("a", "web"), port("b", "web", "db"), port("c", "db"))
        made.done()
        await made.control.hint(made.control.allow("web", SSH, PING))
        await made.passes("a", SSH, PING)
        await made.passes("b", SSH, PING)
        await asyncio.sleep(0.03)
        assert sorted(made.done("wire", "set", "drop")) == [("wire", "a"), ("wire", "b")]
        again = made.control.allow("web", PING, SSH)  # the same in another order
        await made.control.hint(again)
        await asyncio.sleep(0.03)
        assert (made.done("wire"), len(made.control.questions)) == ([], 1)


async def test_members_that_come_and_go_touch_no_port(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", from_set("web"))
        await made.wired(*(port(name, "web") for name in "abc"))
        made.done()
        await made.control.hint(made.control.change("web", joined=["10.0.0.1"]))
        await made.control.hint(made.control.change("web", joined=["10.0.0.2"]))
        await made.has("web", "10.0.0.1", "10.0.0.2")
        await made.control.hint(made.control.change("web", left=["10.0.0.1"]))
        await made.has("web", "10.0.0.2")
        assert {kind for kind, _ in made.done("wire", "set", "unplug", "drop")} == {"set"}
        await made.control.hint(made.control.change("of no rule here", joined=["10.0.0.9"]))
        await asyncio.sleep(0.02)
        assert (made.done("set"), len(made.control.questions)) == ([], 1)


async def test_a_rule_that_names_another_set_asks_for_it_and_drops_the_old_one(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.change("old", joined=["10.0.0.1"])
        made.control.change("new", joined=["10.0.0.2"])
        made.control.allow("web", from_set("old"))
        await made.wired(port("a", "web"))
        await made.control.hint(made.control.allow("web", from_set("new")))
        await made.has("new", "10.0.0.2")
        await made.passes("a", from_set("new"))
        await made.until(lambda: "old" not in made.switch.world.sets)
        calls = made.done("wire", "drop")
        assert calls.index(("drop", ["old"])) > len(calls) - 1 - calls[::-1].index(("wire", "a"))
        assert made.control.questions[-1].sets == {"new": -1}


async def test_a_lost_hint_is_made_good_by_the_next_one() -> None:
    async with rig() as made:
        made.control.allow("web", from_set("web"))
        await made.wired(port("a", "web"))
        made.control.change("web", joined=["10.0.0.1"])
        await made.control.hint(made.control.change("web", joined=["10.0.0.2"]))
        await made.has("web", "10.0.0.1", "10.0.0.2")
        assert made.control.questions[-1].sets == {"web": 0}


async def test_lost_hints_without_a_next_one_are_made_good_in_time() -> None:
    async with rig(members_interval=0.05) as made:
        made.control.allow("web", from_set("web"))
        await made.wired(port("a", "web"))
        made.control.change("web", joined=["10.0.0.1"])
        made.control.allow("web", from_set("web"), SSH)
        await made.has("web", "10.0.0.1")
        await made.passes("a", from_set("web"), SSH)


async def test_whatever_becomes_of_hints_the_truth_wins(loop: dict[str, Any]) -> None:
    """Lost, doubled, out of order, by a fixed seed; the last change is made known by a question."""
    chance = random.Random(5)
    async with rig(members_interval=0.05, **loop) as made:
        made.control.allow("web", from_set("one"))
        await made.wired(port("a", "web"), port("b", "web"))
        late: list[SecurityChanged] = []
        for _ in range(200):
            if chance.random() < 0.2:
                change = made.control.allow("web", *chance.sample([SSH, PING, from_set("one"), from_set("two")], 2))
            else:
                address = f"10.0.0.{chance.randrange(12)}"
                name = chance.choice(["one", "two"])
                there = made.control.sets[name].addresses if name in made.control.sets else []
                change = made.control.change(name, left=[address]) if address in there else made.control.change(name, joined=[address])
            late += [change] * chance.choice([0, 1, 1, 1, 2])
            chance.shuffle(late)
            while late and chance.random() < 0.7:
                await made.control.hint(late.pop())
            if chance.random() < 0.2:
                await asyncio.sleep(0.001)
        for change in late:
            await made.control.hint(change)
        await made.control.hint(made.control.allow("web", from_set("one"), from_set("two")))
        for name in ("a", "b"):
            await made.passes(name, from_set("one"), from_set("two"))
        for name in ("one", "two"):
            await made.has(name, *made.control.sets[name].addresses)


async def test_hints_that_overtake_the_answer_are_not_forgotten() -> None:
    async with rig() as made:
        old = made.control.allow("web", from_set("web"))
        made.control.security_answers.clear()
        made.agent.expect([port("a", "web")])
        await made.until(lambda: made.control.questions)
        # Computed before these changes, and late.
        made.control.stale = Security(old.groups, [])
        await made.control.hint(made.control.allow("web", from_set("web"), SSH))
        await made.control.hint(made.control.change("web", joined=["10.0.0.1"]))
        await asyncio.sleep(0.01)
        made.control.security_answers.set()
        await made.wired(port("a", "web"))
        await made.passes("a", from_set("web"), SSH)
        await made.has("web", "10.0.0.1")


async def test_a_port_is_wired_closed_where_nobody_answers_and_opened_when_somebody_does(
    loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.05)
    async with rig(**loop) as made:
        made.control.allow("web", SSH, from_set("web"))
        made.control.change("web", joined=["10.0.0.1"])
        made.control.security_answers.clear()
        async with asyncio.timeout(2):
            await made.wired(port("a", "web"))
        assert made.switch.filters["a"] == Filter()
        made.control.security_answers.set()
        await made.passes("a", SSH, from_set("web"))
        await made.has("web", "10.0.0.1")


async def test_sets_go_with_the_last_port_that_needs_them_and_after_it(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", from_set("web"), from_set("both"))
        made.control.allow("db", from_set("both"))
        await made.wired(port("a", "web"), port("b", "web"), port("c", "db"))
        made.done()
        await made.agent.remove([port("a", "web")])
        assert made.done("drop", "unplug") == [("unplug", ["a"])]
        await made.agent.remove([port("b", "web")])
        assert made.done("drop", "unplug") == [("unplug", ["b"]), ("drop", ["web"])]
        await made.agent.remove([port("c", "db")])
        assert made.done("drop", "unplug") == [("unplug", ["c"]), ("drop", ["both"])]
        assert made.switch.world.sets == {}
        await made.control.hint(made.control.change("web", joined=["10.0.0.1"]))  # nobody here needs it
        await made.wired(port("d", "web"))
        await made.has("web", "10.0.0.1")
        assert made.control.questions[-1].groups == {"web": -1}


@pytest.mark.parametrize("end", ["cancelled", "refused"])
async def test_a_set_whose_telling_ended_in_the_middle_goes_with_its_port(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A guest that does not start ends the wiring of its ports: what the switch has of their sets by then must go, too."""
    async with rig() as made:
        made.control.allow("web", from_set("web"))
        address_set, begun = made.switch.address_set, asyncio.Event()

        async def half(set_id: str, addresses: Collection[str]) -> None:
            await address_set(set_id, addresses)
            begun.set()
            if end == "refused":
                raise SwitchError("not more than half of it")
            await asyncio.sleep(3600)

        monkeypatch.setattr(made.switch, "address_set", half)
        wiring = asyncio.create_task(made.wired(port("a", "web")))
        await begun.wait()
        wiring.cancel()
        await asyncio.wait([wiring])
        assert "web" in made.switch.world.sets
        await made.agent.remove([port("a", "web")])
        await made.until(lambda: not made.switch.world.sets)
        monkeypatch.setattr(made.switch, "address_set", address_set)
        made.control.change("web", joined=["10.0.0.1"])
        await made.wired(port("b", "web"))
        await made.has("web", "10.0.0.1")


async def test_members_that_the_switch_may_have_are_told_again_though_they_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """One joins, which the switch takes without saying so; it leaves before it is told again: it must not stay let in."""
    world = World()
    switch = Recorded(Simulated(), world)
    members = {"10.0.0.1"}
    sets = SwitchSets(switch)
    sets.follow(lambda _: members, lambda _: True)
    await sets.tell("web")
    address_set = switch.address_set

    async def unsaid(set_id: str, addresses: Collection[str]) -> None:
        await address_set(set_id, addresses)
        raise SwitchError("no answer")

    monkeypatch.setattr(switch, "address_set", unsaid)
    members.add("10.0.0.2")
    with pytest.raises(SwitchError):
        await sets.tell("web")
    monkeypatch.setattr(switch, "address_set", address_set)
    members.discard("10.0.0.2")
    await sets.tell("web")
    assert set(world.sets["web"]) == {"10.0.0.1"}


async def test_a_change_of_a_large_set_costs_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    switch = Recorded(Simulated(), world)
    members = {f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(5000)}
    sets = SwitchSets(switch)
    sets.follow(lambda _: members, lambda _: True)
    await sets.tell("web", {"10.0.0.1"})  # whole, for it does not stand yet
    assert world.sets["web"] == members

    async def whole(set_id: str, addresses: Collection[str]) -> None:
        raise AssertionError(f"told whole: {len(addresses)}")

    asked: list[tuple[set[str], set[str]]] = []
    change_set = switch.change_set

    async def change(set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        asked.append((set(joined), set(left)))
        await change_set(set_id, joined, left)

    monkeypatch.setattr(switch, "address_set", whole)
    monkeypatch.setattr(switch, "change_set", change)
    members.discard("10.0.0.1")
    members.add("192.0.2.1")
    await sets.tell("web", {"10.0.0.1", "192.0.2.1", "10.0.0.2"})
    await sets.tell("web", {"10.0.0.1", "192.0.2.1"})
    assert asked == [({"192.0.2.1"}, {"10.0.0.1"})]
    assert world.sets["web"] == members


async def test_a_change_that_the_switch_did_not_take_makes_it_told_whole() -> None:
    world = World()
    switch = Recorded(Simulated(), world)
    members = {"10.0.0.1"}
    sets = SwitchSets(switch)
    sets.follow(lambda _: members, lambda _: True)
    await sets.tell("web")
    world.sets.clear()  # what it had is gone, and nobody has said so
    members.add("10.0.0.2")
    with pytest.raises(SwitchError, match="does not stand"):
        await sets.tell("web", {"10.0.0.2"})
    await sets.tell("web", {"10.0.0.2"})
    assert world.sets["web"] == {"10.0.0.1", "10.0.0.2"}


async def test_what_is_gone_is_empty() -> None:
    async with rig(members_interval=0.02) as made:
        for _ in range(3):
            made.control.allow("web", SSH, from_set("db"))
            made.control.change("db", joined=["10.0.0.1"])
        await made.wired(port("a", "web"))
        made.control.sets["db"] = AddressSet("db", security.GONE, [])
        await made.has("db")
        made.control.groups["web"] = GroupRules("web", security.GONE, True, [])
        await made.passes("a")


async def test_what_the_network_service_is_to_tell_ends_with_the_last_group() -> None:
    async with rig(members_interval=0.02) as made:
        await made.wired(port("a", "web"))
        await made.agent.remove([port("a", "web")])
        await made.until(lambda: made.control.questions[-1].groups == {})
        asked = len(made.control.questions)
        await asyncio.sleep(0.1)
        assert len(made.control.questions) == asked


async def test_other_groups_of_a_port(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", SSH, from_set("web"))
        made.control.allow("db", PING)
        await made.wired(port("a", "web"))
        await made.agent.update(PortsChanged([port("a", "db")]))
        await made.passes("a", PING)
        await made.until(lambda: not made.switch.world.sets)
        await made.agent.update(PortsChanged([port("a", "db", port_security=False)]))
        await made.until(lambda: made.switch.filters["a"] is None)
        await made.control.hint(made.control.allow("db", SSH))
        await asyncio.sleep(0.02)
        assert made.switch.filters["a"] is None


async def test_other_groups_that_are_told_of_before_the_port_is_wired(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", SSH)
        made.control.allow("db", PING)
        made.agent.expect([port("a", "web")])
        await made.plugged(port("a", "db"))
        await made.agent.update(PortsChanged([port("a", "db")]))
        await made.agent.wire(port("a", "web"))  # as compute was told when it asked
        await made.passes("a", PING)


async def test_who_knows_older_groups_does_not_bring_them_back(loop: dict[str, Any]) -> None:
    """A guest that is started again, or a compute side that is, knows what it was told when the server was made."""
    async with rig(**loop) as made:
        made.control.allow("web", SSH)
        made.control.allow("db", PING)
        await made.wired(port("a", "web"))
        made.control.ports["a"] = port("a", "db")
        await made.agent.update(PortsChanged([port("a", "db")]))
        await made.passes("a", PING)
        made.done()
        await made.agent.wire(port("a", "web"))
        made.control.details_answer.clear()
        await made.agent.hold({"a": port("a", "web")})
        await made.passes("a", PING)
        made.control.ports["a"] = port("a", "web", "db")  # of which no word came
        made.control.details_answer.set()
        await made.agent.wire(port("a", "web", "db"))
        await made.passes("a", SSH, PING)


async def test_other_groups_of_which_no_word_came_are_found_in_time(loop: dict[str, Any]) -> None:
    async with rig(members_interval=0.05, **loop) as made:
        made.control.allow("web", SSH)
        made.control.allow("db", PING)
        await made.wired(port("a", "web"), port("b", "web"), port("c"), port("d", port_security=False))
        for changed in (port("a", "db"), port("c", "db"), port("d", "web")):
            made.control.ports[changed.port_id] = changed
        await made.passes("a", PING)
        await made.passes("c", PING)
        await made.passes("d", SSH)
        await made.passes("b", SSH)
        ports = {"a": ["db"], "b": ["web"], "c": ["db"], "d": ["web"]}
        await made.until(lambda: made.control.questions[-1].ports == ports)
        made.done()
        asked = len(made.control.questions)
        await made.until(lambda: len(made.control.questions) > asked)
        assert made.done("wire", "details") == []


async def test_a_port_that_is_removed_while_its_rules_change_leaves_no_flows(loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flows go a while before its device does: what is sent in between would stand for ever."""
    wiring, wire, removing, remove = (asyncio.Event() for _ in range(4))
    really_wire, really_unplug = Recorded.wire, Recorded.unplug

    async def slow_wire(self: Recorded, *args: Any) -> None:
        wiring.set()
        await wire.wait()
        await really_wire(self, *args)

    async def slow_unplug(self: Recorded, ids: Any, **how: Any) -> None:
        self.note("flows gone", list(ids))
        removing.set()
        await remove.wait()
        await really_unplug(self, ids, **how)

    async with rig(flow_deletion="deferred", **loop) as made:
        made.control.allow("web", SSH)
        await made.wired(port("a", "web"))
        monkeypatch.setattr(Recorded, "wire", slow_wire)
        monkeypatch.setattr(Recorded, "unplug", slow_unplug)
        await made.control.hint(made.control.allow("web", PING))
        async with asyncio.timeout(5):
            await wiring.wait()
            gone = asyncio.create_task(made.agent.remove([port("a", "web")]))
            await removing.wait()
            made.done()
            wire.set()
            await made.until(lambda: ("wire", "a") in made.switch.calls)
            remove.set()
            await gone
        await made.until(lambda: made.switch.calls[-1] == ("report", [("a", "gone")]) and ("flows gone", ["a"]) in made.switch.calls)
        calls = made.done("wire", "flows gone")
        assert calls == [("wire", "a"), ("flows gone", ["a"])]


async def test_what_the_switch_refuses_is_told_again(loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pileus.host.lanes.RETRY", 0.01)
    async with rig(**loop) as made:
        made.control.allow("web", from_set("web"))
        await made.wired(port("a", "web"))
        made.switch.fail_next("address_set", "no room")
        await made.control.hint(made.control.change("web", joined=["10.0.0.1"]))
        await made.has("web", "10.0.0.1")
        made.switch.fail_next("wire", "no room")
        await made.control.hint(made.control.allow("web", SSH))
        await made.passes("a", SSH)


async def test_a_switch_that_lost_its_flows_is_told_sets_and_ports_again(loop: dict[str, Any]) -> None:
    async with rig(**loop) as made:
        made.control.allow("web", from_set("web"))
        made.control.change("web", joined=["10.0.0.1"])
        await made.wired(port("a", "web"), port("b", "web"))
        made.done()
        made.switch.reset()
        assert made.switch.world.sets == {}
        await made.has("web", "10.0.0.1")
        await made.until(lambda: {one.wired for one in made.switch.world.ports.values()} == {1})
        calls = made.done("set", "wire")
        assert calls[0][0] == "set" and sorted(calls[1:]) == [("wire", "a"), ("wire", "b")]
        assert len(made.control.questions) == 1


async def test_an_agent_that_starts_anew_asks_anew_and_takes_what_changed_meanwhile(
    loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lanes, "restart_spread", 0.02)
    async with rig(**loop) as made:
        made.control.allow("web", from_set("web"))
        await made.wired(port("a", "web"))
        made.control.change("web", joined=["10.0.0.1"])
        made.control.allow("web", from_set("web"), SSH)
        await made.agent.restart()
        await made.passes("a", from_set("web"), SSH)
        await made.has("web", "10.0.0.1")
        assert made.control.questions[-1].groups == {"web": -1}


async def test_ports_that_stand_stay_as_they_are_until_somebody_says_what_their_groups_are(
    loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that comes back before its network service does must not cut off its guests."""
    monkeypatch.setattr(security, "PATIENCE", 0.05)
    world = World()
    async with rig(world=world, **loop) as made:
        made.control.allow("web", SSH)
        await made.wired(port("a", "web"))
    async with rig(world=world, owned={"a": port("a", "web")}, silent=True, **loop) as made:
        made.control.allow("web", SSH, PING)
        assert "a" in made.agent.levels
        await asyncio.sleep(0.05)
        assert made.done("wire") == []
        made.control.security_answers.set()
        await made.passes("a", SSH, PING)


async def test_a_set_keeps_its_members_until_somebody_says_who_they_are(loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host that starts anew: rules come by a hint, of the set that they name nobody says anything while ports are waited for."""
    monkeypatch.setattr(security, "PATIENCE", 0.05)
    world = World()
    async with rig(world=world, **loop) as made:
        made.control.allow("web", from_set("web"))
        made.control.change("web", joined=["10.0.0.1"])
        await made.wired(port("a", "web"))
    async with rig(world=world, owned={"a": port("a", "web")}, silent=True, **loop) as made:
        made.control.change("web", joined=["10.0.0.1"])
        made.control.change("web", joined=["10.0.0.2"])
        await made.plugged(port("b", "web"))
        await made.control.hint(made.control.allow("web", from_set("web"), PING))
        await made.agent.wire(port("b", "web"))
        assert world.sets["web"] == {"10.0.0.1"}
        made.control.security_answers.set()
        await made.has("web", "10.0.0.1", "10.0.0.2")


async def test_a_group_and_its_set_stay_while_a_port_is_wired_with_them(loop: dict[str, Any]) -> None:
    """The only port that needs a set goes while another is being wired that needs it, too."""
    async with rig(simulated={"wire": 0.02}, **loop) as made:
        made.control.allow("web", from_set("web"))
        made.control.change("web", joined=["10.0.0.1"])
        await made.wired(port("a", "web"))
        await made.plugged(port("b", "web"))
        await asyncio.gather(made.agent.wire(port("b", "web")), made.agent.remove([port("a", "web")]))
        assert made.switch.world.sets == {"web": {"10.0.0.1"}}


async def test_an_agent_that_starts_anew_drops_what_nobody_needs_any_more(loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "restart_spread", 0.02)
    async with rig(**loop) as made:
        made.control.allow("web", from_set("old"))
        made.control.allow("db", from_set("db"))
        await made.wired(port("a", "web"), port("b", "db"))
        made.control.allow("web", from_set("new"))
        await made.agent.restart()
        await made.until(lambda: set(made.switch.world.sets) == {"new", "db"})
        await made.passes("a", from_set("new"))
        assert made.switch.world.named == {"a": {"new"}, "b": {"db"}}


@pytest.mark.parametrize("loop_name", ["lanes", "serial"])
async def test_rules_that_come_while_the_agent_starts_anew_reach_ports_that_are_being_wired(
    loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lanes, "restart_spread", 0.02)
    async with rig(silent=True, agent_loop=loop_name, polling_interval=0.01) as made:
        made.control.allow("web", SSH)
        await made.plugged(port("a", "web"))
        wiring = asyncio.create_task(made.agent.wire(port("a", "web")))
        await made.until(lambda: made.control.questions)
        restarting = asyncio.create_task(made.agent.restart())
        await asyncio.sleep(0.01)
        made.control.security_answers.set()
        async with asyncio.timeout(security.PATIENCE / 2):
            await asyncio.gather(wiring, restarting)
        await made.passes("a", SSH)


@pytest.mark.parametrize("part", ["beside the compute side", "alone"])
async def test_both_kinds_of_network_part_hear_of_changes(part: str) -> None:
    bus, switch = InProcessBus(), Recorded(Simulated(), World())
    control = Control(bus, switch)
    control.allow("web", SSH)
    network = NetworkPart("host", NetworkParts(switch, SimulatedDhcp()), bus, Settings())
    if part == "alone":
        await network.start()
    else:
        await network.open()
        await network.adopt({})
        await network.listen()
    await switch.open_tap("a", 1500)
    await switch.plug(port("a", "web"))
    await network.agent.wire(port("a", "web"))
    await control.hint(control.allow("web", PING))
    async with asyncio.timeout(5):
        while switch.filters["a"] != Filter(rules=(PING,)):
            await asyncio.sleep(0.002)
    await network.close()
    await bus.close()
