"""Every agent is told of every port that came up, where `network.notify_agents` is all; by default nobody is."""

from __future__ import annotations

import asyncio

import pytest

from pileus.bus.inprocess import InProcessBus
from pileus.messages import AgentFacts, PortsChanged, PortWiring, ports_subject
from pileus.network import agents
from tests.engines.stores import AnyStore
from tests.network.test_rpc import Cloud, FakeCompute

HOSTS = ("h1", "h2", "h3")


@pytest.mark.parametrize(("whom", "hear"), [("all", list(HOSTS)), ("concerned", [])])
async def test_who_hears_of_a_port(store: AnyStore, bus: InProcessBus, whom: str, hear: list[str]) -> None:
    cloud = Cloud(store, bus, FakeCompute(), notify_agents=whom)
    heard: list[tuple[str, PortWiring]] = []

    def ear(host: str) -> None:
        async def listen(message: PortsChanged) -> None:
            heard.extend((host, port) for port in message.ports)

        bus.subscribe(ports_subject(host), PortsChanged, listen)

    for host in HOSTS:
        ear(host)
    await cloud.service.start()
    try:
        await store.write(agents.hear, [AgentFacts(host) for host in HOSTS], [])
        ports = [await cloud.boot(server) for server in ("s1", "s2")]
        for port in ports:
            for level in ("plugged", "wired", "gone"):
                await cloud.say(port, level)
        await bus.publish(ports_subject("h3"), PortsChanged([ports[0]]))  # after it nothing is on its way
        async with asyncio.timeout(5):
            while ("h3", ports[0]) not in heard[-1:]:
                await asyncio.sleep(0.005)
    finally:
        await cloud.service.close()
        await bus.close()
    told = [each for each in heard[:-1] if each[1] == ports[1]]
    assert sorted(host for host, _ in told) == hear
