"""What every switch must do: run on each implementation."""

from __future__ import annotations

import asyncio
from typing import get_args, get_type_hints

import msgspec
import pytest

from pileus.host.privileged import tap_name
from pileus.host.switch import Filter, FlowDeletion, SwitchError
from pileus.messages import SecurityRule
from tests.host.switch.rigs import LIMIT, Rig, SimulatedRig, found, network, plugged, tap, wired, wiring

DIRECTIONS = get_args(get_type_hints(SecurityRule)["direction"])


def nothing(leftovers: dict[str, object]) -> bool:
    return not any(leftovers.values())


async def test_a_port_is_plugged_then_wired(rig: Rig) -> None:
    port = wiring(1, network())
    await plugged(rig, port)
    there = (await found(rig.switch))[port.port_id]
    assert (there.tap, there.generation, there.wired) == (tap_name(port.port_id), 1, 0)
    await rig.switch.wire(port)
    assert (await found(rig.switch))[port.port_id].wired == 1


async def test_all_calls_can_be_made_again(rig: Rig) -> None:
    port = wiring(1, network())
    for _ in range(2):
        await wired(rig, port)
    assert len(await rig.switch.ports()) == 1
    for _ in range(2):
        await rig.switch.unplug([port.port_id])
    assert nothing(await rig.leftovers())


async def test_wiring_what_is_not_plugged_is_an_error(rig: Rig) -> None:
    with pytest.raises(SwitchError, match="not plugged"):
        await rig.switch.wire(wiring(1, network()))


async def test_plugging_without_a_tap_names_the_cause_and_works_once_there_is_one(rig: Rig) -> None:
    port = wiring(1, network())
    with pytest.raises(SwitchError, match="No such device"):
        await rig.switch.plug(port)
    await wired(rig, port)
    assert (await found(rig.switch))[port.port_id].wired == 1


async def test_a_new_generation_counts_as_wired_only_when_wired_again(rig: Rig) -> None:
    port = wiring(1, network())
    await wired(rig, port)
    newer = msgspec.structs.replace(port, generation=7)
    await rig.switch.plug(newer)
    there = (await found(rig.switch))[port.port_id]
    assert (there.generation, there.wired) == (7, 1)
    await rig.switch.wire(newer)
    assert (await found(rig.switch))[port.port_id].wired == 7


async def test_unplugging_leaves_nothing(rig: Rig) -> None:
    ports = [wiring(number, network_id) for network_id in (network(), network()) for number in range(1, 4)]
    for port in ports:
        await wired(rig, port)
    assert not nothing(await rig.leftovers())
    await rig.switch.unplug([port.port_id for port in ports] + ["there-never-was-one"])
    assert nothing(await rig.leftovers())


async def test_a_port_that_was_never_wired_is_unplugged(rig: Rig) -> None:
    port, only_tap = wiring(1, network()), wiring(2, network())
    await plugged(rig, port)
    await tap(rig, only_tap)
    await rig.switch.unplug([port.port_id, only_tap.port_id])
    assert nothing(await rig.leftovers())


async def test_unplugging_at_the_same_time_leaves_nothing(rig: Rig) -> None:
    network_id = network()
    ports = [wiring(number, network_id) for number in range(1, 7)]
    await asyncio.gather(*(wired(rig, port) for port in ports))
    await asyncio.gather(*(rig.switch.unplug([port.port_id]) for port in ports))
    assert nothing(await rig.leftovers())


async def test_a_network_stays_while_it_has_a_port(rig: Rig) -> None:
    network_id = network()
    first, second = wiring(1, network_id), wiring(2, network_id)
    await wired(rig, first)
    await wired(rig, second)
    await rig.switch.unplug([first.port_id])
    assert (await found(rig.switch))[second.port_id].wired == 1
    assert (await rig.leftovers())["tags"]
    await rig.switch.unplug([second.port_id])
    assert nothing(await rig.leftovers())


async def test_twenty_ports_at_once(rig: Rig) -> None:
    network_id = network()
    ports = [wiring(number, network_id) for number in range(1, 21)]
    await asyncio.gather(*(wired(rig, port) for port in ports))
    assert {port.wired for port in await rig.switch.ports()} == {1}
    assert len(await rig.switch.ports()) == 20
    await rig.switch.unplug([port.port_id for port in ports])
    assert nothing(await rig.leftovers())


async def test_cancelled_calls_can_be_made_again(rig: Rig) -> None:
    """Cancelled at the first wait, the second, …: wherever it stops, doing it again ends well, and nothing is left."""
    network_id = network()
    for waits in range(6):
        port = wiring(waits + 1, network_id)
        await tap(rig, port)
        await cancel_after(waits, rig.switch.plug(port))
        await rig.switch.plug(port)
        await cancel_after(waits, rig.switch.wire(port))
        await rig.switch.wire(port)
        assert (await found(rig.switch))[port.port_id].wired == 1
        await cancel_after(waits, rig.switch.unplug([port.port_id]))
        await rig.switch.unplug([port.port_id])
        assert nothing(await rig.leftovers())


async def cancel_after(waits: int, call: object) -> None:
    task = asyncio.ensure_future(call)  # type: ignore[call-overload]
    for _ in range(waits + 1):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=LIMIT)


async def test_the_next_process_finds_all_as_it_was(rig: Rig) -> None:
    network_id = network()
    ready, waiting = wiring(1, network_id, generation=4), wiring(2, network_id)
    await wired(rig, ready)
    await plugged(rig, waiting)
    before = await found(rig.switch)
    await rig.restart()
    assert await found(rig.switch) == before
    assert before[ready.port_id].wired == 4
    await rig.switch.wire(waiting)
    third = wiring(3, network_id)
    await wired(rig, third)
    await rig.switch.unplug([ready.port_id, waiting.port_id, third.port_id])
    assert nothing(await rig.leftovers())


async def test_a_switch_that_lost_its_flows_says_so(rig: Rig) -> None:
    was_reset = asyncio.Event()
    port = wiring(1, network())
    await wired(rig, port)
    rig.switch.on_reset = was_reset.set
    rig.break_switch()
    await asyncio.wait_for(was_reset.wait(), LIMIT)
    there = (await found(rig.switch))[port.port_id]
    assert (there.generation, there.wired) == (1, 0)
    await rig.switch.wire(port)
    assert (await found(rig.switch))[port.port_id].wired == 1
    await rig.switch.unplug([port.port_id])
    assert nothing(await rig.leftovers())


async def test_watch_gives_what_stands_and_what_comes(rig: Rig) -> None:
    network_id = network()
    standing, later = wiring(1, network_id), wiring(2, network_id)
    await plugged(rig, standing)
    watch = rig.switch.watch()
    assert (await asyncio.wait_for(anext(watch), LIMIT)).port_id == standing.port_id
    await plugged(rig, later)
    came = await asyncio.wait_for(anext(watch), LIMIT)
    assert (came.port_id, came.generation) == (later.port_id, 1)


async def test_a_slow_watcher_gets_the_newest_of_each_port_once(rig: Rig) -> None:
    network_id = network()
    changed, other, gone = (wiring(number, network_id) for number in (1, 2, 3))
    watch = rig.switch.watch()
    for port in (changed, gone):
        await plugged(rig, port)
    for generation in (2, 3, 4):
        await rig.switch.plug(msgspec.structs.replace(changed, generation=generation))
    await rig.switch.unplug([gone.port_id])
    await plugged(rig, other)
    seen = [await asyncio.wait_for(anext(watch), LIMIT) for _ in range(2)]
    assert {port.port_id: port.generation for port in seen} == {changed.port_id: 4, other.port_id: 1}
    # Wiring is no news to whoever wires.
    await rig.switch.wire(other)
    last = wiring(4, network_id)
    await plugged(rig, last)
    assert (await asyncio.wait_for(anext(watch), LIMIT)).port_id == last.port_id


async def test_a_dhcp_device_comes_stays_and_goes(rig: Rig) -> None:
    network_id, namespace = network(), rig.namespace()
    name = await rig.switch.dhcp_device(network_id, namespace, "fa:16:3e:ff:00:01", 1400)
    assert await rig.switch.dhcp_device(network_id, namespace, "fa:16:3e:ff:00:01", 1400) == name
    port = wiring(1, network_id)
    await wired(rig, port)
    await rig.switch.unplug([port.port_id])
    left = await rig.leftovers()
    assert left["tags"] and left["flows"] and not left["ports"]
    await rig.restart()
    await rig.switch.remove_dhcp_device(network_id, namespace)
    await rig.switch.remove_dhcp_device(network_id, namespace)
    assert nothing(await rig.leftovers())


async def test_unplugging_takes_what_a_cancelled_plug_had_begun(rig: Rig) -> None:
    network_id = network()
    stays = wiring(200, network_id)
    await plugged(rig, stays)
    for moment in range(40):
        ports = [wiring(number, network_id) for number in (1, 2, 3)]
        for port in ports:
            await tap(rig, port)
        plugs = [asyncio.create_task(rig.switch.plug(port)) for port in ports]
        await asyncio.sleep(moment / 10_000)
        for plug in plugs:
            plug.cancel()
        await asyncio.wait(plugs)
        await rig.switch.unplug([port.port_id for port in ports])
        await rig.switch.plug(stays)
        assert set(await found(rig.switch)) == {stays.port_id}, moment
    await rig.switch.unplug([stays.port_id])
    assert nothing(await rig.leftovers())


async def test_members_are_flows_of_their_set_whatever_ports_there_are(rig: Rig) -> None:
    network_id, addresses = network(), [f"192.0.2.{number}" for number in range(1, 11)]
    rules = Filter(rules=(SecurityRule("ingress", 4, remote_set="web"), SecurityRule("egress", 4, remote_set="web")))
    first, second = wiring(1, network_id), wiring(2, network_id)
    for port in (first, second):
        await plugged(rig, port)
    await rig.switch.address_set("web", addresses)
    await rig.switch.wire(first, rules)
    before = await flow_count(rig)
    await rig.switch.wire(second, rules)
    of_a_port = await flow_count(rig) - before
    await rig.switch.address_set("web", [*addresses, "192.0.2.200", "2001:db8::/64"])
    assert await flow_count(rig) == before + of_a_port + 2 * len(DIRECTIONS)
    await rig.switch.address_set("web", addresses[1:])
    assert await flow_count(rig) == before + of_a_port - len(DIRECTIONS)
    await rig.switch.unplug([second.port_id])
    assert await flow_count(rig) == before - len(DIRECTIONS)
    await rig.switch.unplug([first.port_id])
    assert await flow_count(rig) > len(DIRECTIONS) * (len(addresses) - 1)
    for _ in range(2):
        await rig.switch.drop_sets(["web", "there-never-was-one"])
    assert nothing(await rig.leftovers())


async def test_a_set_is_changed_by_those_who_come_and_go(rig: Rig) -> None:
    """Those alone are named, whatever else is in it: also after a restart, when what stands must be read first."""
    port, rules = wiring(1, network()), Filter(rules=(SecurityRule("ingress", 4, remote_set="web"),))
    await plugged(rig, port)
    with pytest.raises(SwitchError, match="does not stand"):
        await rig.switch.change_set("web", ["192.0.2.1"], [])
    await rig.switch.address_set("web", ["192.0.2.1", "192.0.2.2"])
    await rig.switch.wire(port, rules)
    before = await flow_count(rig)
    for restarts in (False, True):
        if restarts:
            await rig.restart()
        await rig.switch.change_set("web", ["192.0.2.3", "192.0.2.4"], ["192.0.2.1", "192.0.2.9"])
        assert await flow_count(rig) == before + len(DIRECTIONS)
        await rig.switch.change_set("web", ["192.0.2.1"], ["192.0.2.3", "192.0.2.4"])
        assert await flow_count(rig) == before
    await rig.switch.address_set("web", ["192.0.2.1", "192.0.2.2"])
    assert await flow_count(rig) == before
    await rig.switch.unplug([port.port_id])
    await rig.switch.drop_sets(["web"])
    assert nothing(await rig.leftovers())


async def test_rules_can_be_told_again_and_be_others(rig: Rig) -> None:
    port, ssh = wiring(1, network()), SecurityRule("ingress", 4, protocol=6, port_min=22, port_max=22)
    await plugged(rig, port)
    counts = []
    for rules in (Filter(), Filter(rules=(ssh,)), Filter(rules=(ssh,)), Filter(), Filter(stateful=False), None, Filter()):
        await rig.switch.wire(port, rules)
        counts.append(await flow_count(rig))
    closed = counts[0]
    assert counts[1] == counts[2] > closed == counts[3] == counts[6]
    await rig.switch.unplug([port.port_id])
    assert nothing(await rig.leftovers())


async def test_the_next_process_finds_sets_as_they_were(rig: Rig) -> None:
    network_id, rules = network(), Filter(rules=(SecurityRule("ingress", 4, remote_set="web"),))
    port = wiring(1, network_id)
    await plugged(rig, port)
    await rig.switch.address_set("web", ["192.0.2.1", "192.0.2.2"])
    await rig.switch.wire(port, rules)
    before = await flow_count(rig)
    await rig.restart()
    assert await flow_count(rig) == before
    await rig.switch.address_set("web", ["192.0.2.2", "192.0.2.3", "192.0.2.4"])
    assert await flow_count(rig) == before + len(DIRECTIONS)
    await rig.switch.unplug([port.port_id])
    await rig.switch.drop_sets(["web"])
    assert nothing(await rig.leftovers())


async def test_a_switch_that_lost_its_flows_takes_sets_and_rules_again(rig: Rig) -> None:
    was_reset = asyncio.Event()
    port, rules = wiring(1, network()), Filter(rules=(SecurityRule("ingress", 4, remote_set="web"),))
    await plugged(rig, port)
    await rig.switch.address_set("web", ["192.0.2.1"])
    await rig.switch.wire(port, rules)
    before = await flow_count(rig)
    rig.switch.on_reset = was_reset.set
    rig.break_switch()
    async with asyncio.timeout(LIMIT):
        await was_reset.wait()
    await rig.switch.address_set("web", ["192.0.2.1"])
    await rig.switch.wire(port, rules)
    assert await flow_count(rig) == before
    await rig.switch.unplug([port.port_id])
    await rig.switch.drop_sets(["web"])
    assert nothing(await rig.leftovers())


@pytest.mark.parametrize("deletion", get_args(FlowDeletion))
async def test_however_flows_are_deleted_nothing_is_left(rig: Rig, deletion: FlowDeletion) -> None:
    network_id, rules = network(), Filter(rules=(SecurityRule("ingress", 4), SecurityRule("egress", 6)))
    ports = [wiring(number, network_id) for number in (1, 2, 3)]
    for port in ports:
        await plugged(rig, port)
    for port in ports[:2]:
        await rig.switch.wire(port, rules)
    await rig.switch.unplug([ports[0].port_id], deletion=deletion)
    assert {port.port_id: port.wired for port in await rig.switch.ports()} == {ports[1].port_id: 1, ports[2].port_id: 0}
    await rig.switch.unplug([port.port_id for port in ports], deletion=deletion)
    assert nothing(await rig.leftovers())


async def test_hollow_hosts_have_as_many_flows_as_real_ones(rig: Rig) -> None:
    """What the simulated switch counts, and lets each deletion cost, against the switch under test."""
    twin, network_id = SimulatedRig(), network()
    ssh, group = SecurityRule("ingress", 4, protocol=6, port_min=22, port_max=1000), SecurityRule("ingress", 6, remote_set="web")
    for each in (rig, twin):
        for number, rules in enumerate((Filter(), Filter(rules=(ssh, group)), Filter(rules=(group,)))):
            port = wiring(number + 1, network_id)
            await plugged(each, port)
            await each.switch.address_set("web", [f"192.0.2.{last}" for last in range(1, 6)])
            await each.switch.wire(port, rules)
    assert await flow_count(rig) == await flow_count(twin)
    namespace = rig.namespace()
    for each in (rig, twin):
        await each.switch.dhcp_device(network_id, namespace, "fa:16:3e:ff:00:01", 1400)
    assert await flow_count(rig) == await flow_count(twin)
    await rig.switch.remove_dhcp_device(network_id, namespace)
    await rig.switch.unplug([port.port_id for port in await rig.switch.ports()])
    await rig.switch.drop_sets(["web"])


async def flow_count(rig: Rig) -> int:
    return int((await rig.leftovers())["flows"])
