"""Hollow hosts: their guests and ports outlive the process, and a thousand of them start soon and idle cheaply."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pileus.bus.inprocess import InProcessBus
from pileus.errors import StartupError
from pileus.host.hollow import Ledger
from pileus.host.hypervisor import Images
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.hypervisor.simulated import World as Guests
from pileus.host.switch import Filter
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.host.switch.simulated import World as Ports
from pileus.hosts import hollow_hosts
from pileus.messages import (
    AGENT,
    HEARTBEAT,
    REPORT,
    AgentFacts,
    BootSource,
    Desired,
    GuestSpec,
    HostFacts,
    HostReport,
    PortWiring,
    SecurityRule,
    desired_subject,
    from_hosts,
)
from pileus.settings import Settings, Simulated


def port(name: str) -> PortWiring:
    return PortWiring(name, 3, "net", "local", None, None, 1500, "fa:16:3e:00:00:01", [], [])


def spec(server_id: str) -> GuestSpec:
    return GuestSpec(server_id, server_id, server_id, "project", 1, 128, 0, BootSource(), [port(f"port-of-{server_id}")])


class NoImages:
    def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        raise NotImplementedError


async def boot(guests: Guests, ports: Ports, server_id: str) -> None:
    hypervisor, switch = SimulatedHypervisor(Simulated(), world=guests), SimulatedSwitch(Simulated(), world=ports)
    made = spec(server_id)
    taps = {each.port_id: await switch.open_tap(each.port_id, each.mtu) for each in made.ports}
    await hypervisor.create(made, 5, Images(), taps)
    for each in made.ports:
        await switch.plug(each)
        await switch.wire(each)
    await hypervisor.resume(server_id)


async def test_guests_and_ports_are_found_again_as_they_were(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "hollow" / "h.db")
    ledger.join()
    guests, ports = ledger.guests("h1"), ledger.ports("h1")
    for each in ("a", "b", "c", "d"):
        await boot(guests, ports, each)
    await boot(ledger.guests("h2"), ledger.ports("h2"), "a")
    hypervisor, switch = SimulatedHypervisor(Simulated(), world=guests), SimulatedSwitch(Simulated(), world=ports)
    await hypervisor.pause("b")
    await hypervisor.stop("c", hard=True)
    await hypervisor.destroy("d")
    await hypervisor.set_generation("a", 9)
    await hypervisor.reset("a", hard=True)
    await switch.unplug(["port-of-c", "port-of-d"])
    ledger.leave()

    after = Ledger(tmp_path / "hollow" / "h.db")
    again, plugged = after.guests("h1"), after.ports("h1")
    found = {server: (guest.power, guest.generation, guest.spec) for server, guest in again.guests.items()}
    assert found == {"a": ("running", 9, spec("a")), "b": ("paused", 5, spec("b")), "c": ("stopped", 5, spec("c"))}
    assert again.guests["a"].log.count("reached userspace") == 2
    assert (plugged.ports, plugged.networks, plugged.taps) == (ports.ports, ports.networks, ports.taps)
    assert plugged.wired_networks == {"net"} and {each.wired for each in plugged.ports.values()} == {3}
    assert set(after.guests("h2").guests) == {"a"}
    assert after.guests("nobody").guests == {}


async def test_flows_and_sets_are_found_again_as_they_were(tmp_path: Path) -> None:
    path, rules = tmp_path / "h.db", Filter(rules=(SecurityRule("ingress", 4, remote_set="web"),))
    ledger = Ledger(path)
    ledger.join()
    ports = ledger.ports("h")
    switch = SimulatedSwitch(Simulated(), world=ports)
    await switch.address_set("web", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    await switch.address_set("web", ["10.0.0.2", "10.0.0.3", "10.0.0.4"])
    await switch.address_set("nobody's", ["10.0.0.9"])  # its owner was killed before it dropped it
    for name in ("a", "b"):
        await switch.open_tap(name, 1500)
        await switch.plug(port(name))
        await switch.wire(port(name), rules)
    await switch.unplug(["b"])
    ledger.leave()

    after = Ledger(path)
    after.join()
    again = after.ports("h")
    assert again.port_flows == {"a": 23} and again.named == {"a": {"web"}}
    assert again.sets == {"web": {"10.0.0.2", "10.0.0.3", "10.0.0.4"}}
    again.lost()
    after.leave()
    empty = Ledger(path).ports("h")
    assert (empty.port_flows, empty.sets) == ({}, {}) and [each.wired for each in empty.ports.values()] == [0]


async def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "h.db")
    with pytest.raises(StartupError, match="locked"):
        Ledger(tmp_path / "h.db")
    ledger.join()
    ledger.leave()
    Ledger(tmp_path / "h.db")


KILLED = """
import asyncio, sys
from pathlib import Path
from pileus.host.hollow import Ledger
from tests.host.test_hollow import boot

async def main():
    ledger = Ledger(Path(sys.argv[1]))
    guests, ports = ledger.guests("h"), ledger.ports("h")
    for number in range(100000):
        await boot(guests, ports, f"s{number}")
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_it_had_done(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path / "h.db"), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        for _ in range(200):
            await process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        said = (await process.stdout.read()).split()
    await process.wait()
    last = int(said[-1]) if said else 199
    ledger = Ledger(tmp_path / "h.db")
    guests, ports = ledger.guests("h").guests, ledger.ports("h").ports
    assert [number for number in range(last + 1) if f"s{number}" not in guests or f"port-of-s{number}" not in ports] == []
    assert {guests[f"s{number}"].power for number in range(last + 1)} == {"running"}


async def test_a_guest_costs_little_to_keep(tmp_path: Path) -> None:
    ledger, count = Ledger(tmp_path / "h.db"), 300

    async def cost(guests: Guests, ports: Ports) -> float:
        began = time.process_time()
        for number in range(count):
            await boot(guests, ports, f"s{number}")
        return (time.process_time() - began) / count

    costs = [await cost(ledger.guests(host), ledger.ports(host)) - await cost(Guests(), Ports()) for host in "abc"]
    assert min(costs) < 0.0002


async def test_hosts_that_start_together_report_one_after_another_and_come_back_as_they_were(tmp_path: Path) -> None:
    count = 60
    settings = msgspec.convert({"host": {"hosts": count, "name": "hollow"}, "compute": {"report_interval": 1000}}, Settings)
    bus = InProcessBus()
    facts: set[str] = set()
    agents: set[str] = set()
    reports: dict[str, HostReport] = {}

    async def hear(fact: HostFacts) -> None:
        facts.add(fact.host)

    async def hear_agent(fact: AgentFacts) -> None:
        agents.add(fact.host)

    async def take(report: HostReport) -> None:
        reports[report.host] = report

    bus.subscribe(from_hosts(HEARTBEAT), HostFacts, hear)
    bus.subscribe(from_hosts(AGENT), AgentFacts, hear_agent)
    bus.subscribe(from_hosts(REPORT), HostReport, take)

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        hosts = hollow_hosts(settings, tmp_path, bus, NoImages())
        for host in hosts:
            await host.start()
        yield
        for host in reversed(hosts):
            await host.close()

    async with running():
        await until(lambda: len(facts) == len(agents) == count)
        await until(lambda: len(reports) == count)
        at = sorted(report.at for report in reports.values())
        assert at[-1] - at[0] > 0.1  # 0.6 s in all
        desired = Desired("s", 1, "running", "create", spec("s"))
        await bus.publish(desired_subject("hollow-0007"), desired)
        await asyncio.sleep(0.2)
    reports.clear()
    async with running():
        await until(lambda: len(reports) == count)
        found = {host: list(report.guests) for host, report in reports.items() if report.guests}
        assert found == {"hollow-0007": ["s"]} and reports["hollow-0007"].guests["s"].power == "running"
    await bus.close()


def test_hosts_apart_need_an_address_for_images(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"host\.api_url is empty"):
        hollow_hosts(Settings(), tmp_path, InProcessBus())
