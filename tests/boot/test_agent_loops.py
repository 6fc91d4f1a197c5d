"""Whole boots where the agent has one serial loop, and security groups on their way from the API's rules to every host's switch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pileus import timeline
from pileus.bus.inprocess import Fate
from pileus.messages import GuestSpec
from pileus.network import security_rules
from pileus.network.security_rules import NewRule
from pileus.store import Tx
from tests.boot.cloudlet import USER, Cloudlet, cloudlet, settings
from tests.boot.test_faults import disordering, doubling
from tests.boot.virtual import run

SERIAL = {"agent_loop": "serial", "polling_interval": 0.05}


async def deleted(cloud: Cloudlet, ids: list[str]) -> None:
    for server_id in ids:
        await cloud.compute.act(USER, server_id, "delete")
    for server_id in ids:
        assert (await cloud.settled(server_id, 60))["vm_state"] == "deleted"
    await cloud.nothing_left()


@pytest.mark.parametrize(
    ("signal", "fate", "deletion"),
    [("callback", disordering(3), "blocking"), ("callback", doubling, "deferred"), ("local", disordering(2), "bundled")],
)
async def test_messages_doubled_late_and_lost(tmp_path: Path, signal: str, fate: Fate, deletion: str) -> None:
    chosen = settings(signal, compute={"vif_plugging_timeout": 60.0}, network={**SERIAL, "flow_deletion": deletion})
    async with cloudlet(tmp_path, chosen, fate=fate) as cloud:
        ids = await cloud.create(count=8)
        assert [(await cloud.settled(server_id, 60))["vm_state"] for server_id in ids] == ["active"] * 8
        await deleted(cloud, ids)


@pytest.mark.parametrize("signal", ["local", "callback"])
async def test_host_and_agent_restarted_in_the_middle(tmp_path: Path, signal: str) -> None:
    slow = settings(signal, network={**SERIAL, "flow_deletion": "blocking"}, simulated={"start": 0.06, "plug": 0.02, "wire": 0.03})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        ids = await cloud.create(count=4)
        await asyncio.sleep(0.08)
        await cloud.hosts["host-0"].restart_agent()
        await asyncio.sleep(0.03)
        await cloud.stop_host("host-0")
        await cloud.start_host("host-0")
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 4
        await deleted(cloud, ids)


def test_a_boot_waits_for_the_loop_and_for_all_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The story's agent, with its costs: a port waits for a turn, and behind the deletes of others."""

    async def waits(cloud: Cloudlet) -> list[float]:
        async def booted(ids: list[str]) -> float:
            found = []
            for server_id in ids:
                assert (await cloud.settled(server_id, 300.0))["vm_state"] == "active"
                spans = timeline.spans((await cloud.last_action(server_id))["stamps"])
                found.append({span.step: span.seconds for span in spans}["wired"])
            return max(found)

        first = await cloud.create(count=5)
        alone = await booted(first)
        for server_id in first:
            await cloud.compute.act(USER, server_id, "delete")
        await asyncio.sleep(0.5)
        return [alone, await booted(await cloud.create())]

    costs = {"delete_flow": 0.05, "flows_per_port": 43, "wire": 0.01}
    story = {"agent_loop": "serial", "polling_interval": 2.0, "flow_deletion": "blocking"}
    for chosen, expected in ((story, 5 * 43 * 0.05), ({}, 0.0)):
        picked = settings("callback", network=chosen, simulated=costs, compute={"vif_plugging_timeout": 300.0})
        alone, behind = run(monkeypatch, tmp_path / str(expected), picked, 1, waits)
        if expected:
            assert 0.05 <= alone <= 2.1 and expected - 2.0 <= behind <= expected + 4.0
        else:
            assert max(alone, behind) <= 0.05


def specs(cloud: Cloudlet) -> dict[str, GuestSpec]:
    """What hosts hold: server → guest."""
    return {server_id: guest.spec for world in cloud.guests.values() for server_id, guest in world.guests.items()}


@pytest.mark.parametrize("loop", [{}, SERIAL], ids=["lanes", "serial"])
async def test_rules_and_members_reach_every_host(tmp_path: Path, loop: dict[str, Any]) -> None:
    room_for_two: dict[str, dict[str, Any]] = {"simulated": {"vcpus": 2}, "compute": {"cpu_allocation_ratio": 1.0}}
    chosen = settings("callback", network={**loop, "members_gather": 0.01}, **room_for_two)
    async with cloudlet(tmp_path, chosen, hosts=2) as cloud:
        ids = await cloud.create(count=4)
        for server_id in ids:
            assert (await cloud.settled(server_id))["vm_state"] == "active"
        ports = {server_id: spec.ports[0] for server_id, spec in specs(cloud).items()}
        addresses = {port.fixed_ips[0].address for port in ports.values()}
        [group] = {group for port in ports.values() for group in port.security_groups}
        worlds = [world for world in cloud.ports.values() if world.ports]
        assert len(worlds) == 2 and len(addresses) == 4
        await cloud.until(lambda: all(world.sets == {group: addresses} for world in worlds))
        before = [dict(world.port_flows) for world in worlds]

        def let_ping(tx: Tx) -> None:
            security_rules.create_on(tx, cloud.network.config, USER, [NewRule(group, "ingress", protocol="icmp")])

        await cloud.store.write(let_ping)
        await cloud.network.tell_rules([group])
        after = [{port_id: count + 1 for port_id, count in flows.items()} for flows in before]
        await cloud.until(lambda: [world.port_flows for world in worlds] == after)

        await cloud.compute.act(USER, ids[0], "delete")
        assert (await cloud.settled(ids[0]))["vm_state"] == "deleted"
        left = addresses - {ports[ids[0]].fixed_ips[0].address}
        await cloud.until(lambda: all(world.sets in ({group: left}, {}) for world in worlds))
        await deleted(cloud, ids[1:])
        assert [(world.sets, world.flows) for world in worlds] == [({}, 0)] * 2
