"""`make bench-scale`: what a cloud of many processes bears, against its bars: storms, deletes, idle hosts, restarts.

Everything for real on this machine's loopback, the load generator included: PostgreSQL with each commit on the disk, NATS, the roles
as processes of their own, hollow hosts. CPU figures count all processes but the load generator. Each figure has a cloud of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvloop

from bench.figures import Figure, figure, show
from bench.storms import Boots, Cloud, cloud, percentile

RESULTS = Path(__file__).parent / "results" / "scale.json"
MS = 1000.0
MOST_DELETES = 150
"""A second: so many servers are kept ready for a window of deletes."""
SETTLE = 2.0
"""Seconds after which nothing of a storm is under way any more."""


@dataclass(frozen=True)
class Plan:
    """How much of everything. Seconds."""

    small: int = 1000
    small_hosts: int = 100
    small_runs: int = 3
    large: int = 5000
    large_hosts: int = 1000
    few: int = 100
    many: int = 10_000
    boots: int = 500
    boot_runs: int = 3
    ports: tuple[int, ...] = (250, 1000)
    port_runs: int = 3
    deletes: int = 500
    delete_pairs: int = 3
    delete_window: float = 12.0
    delete_rate: float = 15.0
    steady_rate: float = 2.0
    steady_seconds: float = 300.0
    steady_hosts: int = 200
    idle_seconds: float = 40.0
    restart_pairs: int = 3
    restart_window: float = 15.0
    restart_rate: float = 10.0
    restart_servers: int = 2000
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the cloud, beside those of every run here."""
    control: tuple[str, ...] = ("api", "worker", "network-rpc")


QUICK = Plan(
    small_runs=1,
    large=1000,
    many=1500,
    boots=200,
    boot_runs=1,
    port_runs=1,
    delete_pairs=1,
    delete_window=8.0,
    steady_seconds=20.0,
    idle_seconds=15.0,
    restart_pairs=1,
    restart_window=10.0,
    restart_servers=500,
)


async def storm_small(folder: Path, plan: Plan) -> list[Figure]:
    """The creates of a storm, all sent at once, several times."""
    name = f"{plan.small:,} creates at once over {plan.small_hosts} hollow hosts"
    runs = []
    async with started(folder, plan, plan.small_hosts) as c:
        await warm_up(c)
        await c.wire.warm(min(plan.small, 1000))
        spent = time.process_time()
        for _ in range(plan.small_runs):
            runs.append(await storm(c, plan.small))
            await c.clear(await c.alive())
        spent = (time.process_time() - spent) / (plan.small * plan.small_runs)
    return [
        figure(f"{name}: ACTIVE", [run.success for run in runs], "%", "≥ 100"),
        figure(f"{name}: rate until all are ACTIVE", [run.rate for run in runs], "/s", "≥ 50"),
        figure(f"{name}: service time, p99", [percentile(run.service, 99) for run in runs], "s", ""),
        figure(f"{name}: the load generator's CPU per create and delete", [spent * MS], "ms", ""),
    ]


async def storm_large(folder: Path, plan: Plan) -> list[Figure]:
    name = f"{plan.large:,} servers over {plan.large_hosts:,} hollow hosts, one storm"
    async with started(folder, plan, plan.large_hosts, hollow=2) as c:
        await warm_up(c)
        await c.wire.warm(min(plan.large, 1000))
        before = cpu_by_part(c)
        run = await storm(c, plan.large)
        used = {part: (now - before[part]) / plan.large for part, now in cpu_by_part(c).items()}
    return [
        figure(f"{name}: ACTIVE", [run.success], "%", "≥ 100"),
        figure(f"{name}: service time, p99", [percentile(run.service, 99)], "s", "≤ 1"),
        figure(f"{name}: service time", run.service, "s", ""),
        figure(f"{name}: queue time apart", run.queue, "s", ""),
        figure(f"{name}: rate until all are ACTIVE", [run.rate], "/s", ""),
        figure(f"{name}: CPU per boot", [sum(used.values()) * MS], "ms", ""),
        *of_it(f"{name}: CPU per boot", [used], MS, "ms"),
    ]


async def cpu(folder: Path, plan: Plan) -> list[Figure]:
    """The same boots beside few servers and beside many, in one cloud."""
    async with started(folder, plan, plan.small_hosts) as c:
        await warm_up(c)
        await c.fill(plan.few)
        few = [await cpu_per_boot(c, plan.boots) for _ in range(plan.boot_runs)]
        await c.fill(plan.many)
        await asyncio.sleep(SETTLE)
        many = [await cpu_per_boot(c, plan.boots) for _ in range(plan.boot_runs)]
    ratio = statistics.median(sum(run.values()) for run in many) / statistics.median(sum(run.values()) for run in few)
    return [
        figure(f"CPU per boot, beside {plan.few:,} servers", [sum(run.values()) * MS for run in few], "ms", "≤ 20"),
        *of_it("CPU per boot", few, MS, "ms"),
        figure(f"CPU per boot, beside {plan.many:,} servers", [sum(run.values()) * MS for run in many], "ms", ""),
        figure(f"CPU per boot, beside {plan.many:,} over beside {plan.few:,}", [ratio], "×", "≤ 1.2"),
    ]


async def ports(folder: Path, plan: Plan) -> list[Figure]:
    figures, twice = [], 0
    async with started(folder, plan, 2) as c:
        for count, bar in zip(plan.ports, ("≤ 3", "≤ 10"), strict=True):
            await c.wire.warm(count)
            took = []
            for _ in range(plan.port_runs):
                seconds, addresses = await ports_at_once(c, count)
                took.append(seconds)
                twice += len(addresses) - len(set(addresses))
            figures.append(figure(f"{count:,} ports at once on one network", took, "s", bar))
    return [*figures, figure("… addresses given twice", [twice], "", "≤ 0")]


async def deletes(folder: Path, plan: Plan) -> list[Figure]:
    """Windows of steady creates, in turns without and with deletes in flight."""
    ratios, rates, without, with_them = [], [], [], []
    needed = round((plan.deletes + MOST_DELETES * plan.delete_window) * plan.delete_pairs)
    async with started(folder, plan, plan.small_hosts) as c:
        await warm_up(c)
        await c.fill(needed)
        victims = await c.alive()
        await asyncio.sleep(SETTLE)
        for _ in range(plan.delete_pairs):
            calm = await window(c, plan.delete_rate, plan.delete_window)
            keeping = asyncio.create_task(keep_deleting(c, victims, plan.deletes))
            while await c.open_deletes() < plan.deletes * 0.9:
                await asyncio.sleep(0.02)
                if keeping.done():
                    keeping.result()
            begun = time.time()
            busy = await window(c, plan.delete_rate, plan.delete_window, drained=False)
            ended = min(time.time(), begun + plan.delete_window)
            rates.append(await c.deleted(begun, ended) / (ended - begun))
            if keeping.done():
                keeping.result()
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await c.clear([])
            without.append(percentile(calm.service, 95))
            with_them.append(percentile(busy.service, 95))
            ratios.append(with_them[-1] / without[-1])
            if busy.success < 100 or calm.success < 100:
                raise RuntimeError(f"creates failed beside deletes: {busy.active} of {busy.asked}, {calm.active} of {calm.asked}")
            await asyncio.sleep(SETTLE)
    name = f"creates with {plan.deletes} deletes in flight"
    return [
        figure(f"{name}: service p95 over without", ratios, "×", "≤ 1.25"),
        figure(f"{name}: deletes that end", rates, "/s", "≥ 20"),
        figure("… service p95 without", [s * MS for s in without], "ms", ""),
        figure("… service p95 with them", [s * MS for s in with_them], "ms", ""),
    ]


async def steady(folder: Path, plan: Plan) -> list[Figure]:
    name = f"steady {plan.steady_rate:g} creates/s over {plan.steady_hosts} hollow hosts for {plan.steady_seconds:g} s"
    async with started(folder, plan, plan.steady_hosts) as c:
        await warm_up(c)
        run = await window(c, plan.steady_rate, plan.steady_seconds)
    return [
        figure(f"{name}: ACTIVE", [run.success], "%", "≥ 100"),
        figure(f"{name}: POST to ACTIVE, p99", [percentile(run.whole, 99)], "s", "≤ 1"),
        figure(f"{name}: POST to ACTIVE", run.whole, "s", ""),
    ]


async def heartbeats(folder: Path, plan: Plan) -> list[Figure]:
    """The control plane's part: everything but the hosts themselves."""
    async with started(folder, plan, plan.large_hosts, hollow=2) as c:
        await asyncio.sleep(SETTLE + 10)  # one whole round of heartbeats, and the start's own work is over
        runs = []
        for _ in range(3):
            before, begun = cpu_by_part(c), time.perf_counter()
            await asyncio.sleep(plan.idle_seconds / 3)
            passed = time.perf_counter() - begun
            runs.append({part: (now - before[part]) / passed for part, now in cpu_by_part(c).items()})
    control = [100 * sum(share for part, share in run.items() if part != "hosts") for run in runs]
    return [
        figure(f"heartbeats of {plan.large_hosts:,} idle hosts: control plane", control, "% of a core", "≤ 5"),
        *of_it("heartbeats", runs, 100, "% of a core"),
    ]


async def restarts(folder: Path, plan: Plan) -> list[Figure]:
    """Windows of steady creates, in turns without and with a restart of every host's agent at its beginning."""
    ratios, without, with_it = [], [], []
    async with started(folder, plan, plan.large_hosts, hollow=2) as c:
        await warm_up(c)
        await c.fill(plan.restart_servers)
        await asyncio.sleep(SETTLE)
        for _ in range(plan.restart_pairs):
            calm = await window(c, plan.restart_rate, plan.restart_window)
            restart_agents(c)
            shaken = await window(c, plan.restart_rate, plan.restart_window)
            without.append(percentile(calm.whole, 99))
            with_it.append(percentile(shaken.whole, 99))
            ratios.append(with_it[-1] / without[-1])
            if shaken.success < 100 or calm.success < 100:
                raise RuntimeError(f"creates failed beside restarts: {shaken.active} of {shaken.asked}")
            await asyncio.sleep(SETTLE)
    name = f"all {plan.large_hosts:,} hosts' agents restarted at once"
    return [
        figure(f"{name}: create p99 over without", ratios, "×", "≤ 2"),
        figure("… create p99 without", [s * MS for s in without], "ms", ""),
        figure("… create p99 with the restart", [s * MS for s in with_it], "ms", ""),
    ]


Measure = Callable[[Path, Plan], Awaitable[list[Figure]]]
FIGURES: dict[str, Measure] = {
    "storm-small": storm_small,
    "storm-large": storm_large,
    "cpu": cpu,
    "ports": ports,
    "deletes": deletes,
    "steady": steady,
    "heartbeats": heartbeats,
    "restarts": restarts,
}


def started(folder: Path, plan: Plan, hosts: int, *, hollow: int = 1) -> AbstractAsyncContextManager[Cloud]:
    return cloud(folder, hosts, hollow=hollow, settings=plan.settings, control=plan.control)


async def warm_up(c: Cloud) -> None:
    """What a process does once only is no part of any figure."""
    begun = time.time()
    await c.creates("warm", 50)
    await c.settled(begun)
    await c.clear(await c.alive())
    await asyncio.sleep(SETTLE)


async def storm(c: Cloud, count: int) -> Boots:
    begun = time.time()
    await c.creates("storm", count)
    return await c.settled(begun)


async def window(c: Cloud, rate: float, seconds: float, *, drained: bool = True) -> Boots:
    """Steady creates; what became of them. Their servers are deleted afterwards if `drained`."""
    begun = time.time()
    before = set(await c.alive()) if drained else set()
    await c.steady("steady", rate, seconds)
    run = await c.settled(begun)
    if drained:
        await c.clear([server_id for server_id in await c.alive() if server_id not in before])
        await asyncio.sleep(SETTLE)
    return run


async def cpu_per_boot(c: Cloud, count: int) -> dict[str, float]:
    """Part of the cloud → CPU seconds of one of `count` boots, 16 requests at a time. The servers are deleted afterwards, uncounted."""
    before = set(await c.alive())
    await asyncio.sleep(SETTLE)
    spent, begun = cpu_by_part(c), time.time()
    numbers = iter(range(count))

    async def some() -> None:
        for n in numbers:
            await c.create(f"boot-{n}")

    await asyncio.gather(*[some() for _ in range(16)])
    run = await c.settled(begun)
    await asyncio.sleep(SETTLE)  # what follows a boot, reports and their rows, belongs to it
    used = {part: (now - spent[part]) / count for part, now in cpu_by_part(c).items()}
    if run.active != count:
        raise RuntimeError(f"{run.active} of {count} boots were ACTIVE")
    await c.clear([server_id for server_id in await c.alive() if server_id not in before])
    return used


async def ports_at_once(c: Cloud, count: int) -> tuple[float, list[str]]:
    """Seconds until the last of them was answered, and their addresses; the network is new and goes afterwards."""
    network = (await c.ask("POST", "/network/v2.0/networks", {"network": {"name": "ports"}}))["network"]["id"]
    subnet = {"network_id": network, "ip_version": 4, "cidr": "10.200.0.0/21"}
    await c.ask("POST", "/network/v2.0/subnets", {"subnet": subnet})
    body = b'{"port":{"network_id":"%s"}}' % network.encode()
    begun = time.perf_counter()
    replies = await asyncio.gather(*[c.wire.request("POST", "/network/v2.0/ports", body) for _ in range(count)])
    took = time.perf_counter() - begun
    bad = [reply for reply in replies if reply.status != 201]
    if bad:
        raise RuntimeError(f"{len(bad)} of {count} ports: {bad[0].status} {bad[0].body[:300]!r}")
    made = (await c.ask("GET", f"/network/v2.0/ports?network_id={network}&device_owner="))["ports"]
    for port in made:
        await c.wire.request("DELETE", f"/network/v2.0/ports/{port['id']}")
    await c.ask("DELETE", f"/network/v2.0/networks/{network}")
    return took, [fixed["ip_address"] for port in made for fixed in port["fixed_ips"]]


async def keep_deleting(c: Cloud, victims: list[str], in_flight: int) -> None:
    """Have so many deletes under way until cancelled. Raises RuntimeError when there is nothing left to delete."""
    while True:
        missing = in_flight - await c.open_deletes()
        if missing > len(victims):
            raise RuntimeError("no servers are left to delete: raise MOST_DELETES")
        now = [victims.pop() for _ in range(max(0, missing))]
        await asyncio.gather(*[c.delete(server_id) for server_id in now])
        await asyncio.sleep(0.1)


def restart_agents(c: Cloud) -> None:
    """SIGUSR1: each hollow host's network agent ends, forgets all, and starts anew."""
    for name, process in c.cluster.processes.items():
        if name.startswith("hollow"):
            os.kill(process.pids()[0], signal.SIGUSR1)


def of_it(name: str, runs: Sequence[Mapping[str, float]], factor: float, unit: str) -> list[Figure]:
    """The parts of a figure of CPU."""
    return [figure(f"{name}: of it {part}", [run[part] * factor for run in runs], unit, "") for part in runs[0]]


def cpu_by_part(c: Cloud) -> dict[str, float]:
    """CPU seconds of everything but the load generator."""
    found: dict[str, float] = {}
    for name, process in c.cluster.processes.items():
        part = "hosts" if name.startswith("hollow") else name.partition("@")[0]
        found[part] = found.get(part, 0.0) + process.cpu()
    known = sum(found.values())
    found["PostgreSQL"] = c.cluster.postgres.cpu()
    found["NATS"] = max(0.0, c.cluster.cpu() - known - found["PostgreSQL"])
    return found


async def run(names: Sequence[str], plan: Plan, *, keep: bool) -> list[Figure]:
    figures: list[Figure] = []
    folder = Path(tempfile.mkdtemp(prefix="ps-"))
    try:
        for name in names:
            begun = time.perf_counter()
            found = await FIGURES[name](folder / name, plan)
            figures += found
            for one in found:
                print(f"{name}: {one.name}: {one.value:g} {one.unit} {one.bar and f'(bar {one.bar})'}", flush=True)
            print(f"{name}: took {time.perf_counter() - begun:.0f} s", flush=True)
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"some of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="less of everything, in five minutes; nothing is written down")
    parser.add_argument("--steady-seconds", type=float, metavar="S", help="how long the steady creates go on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the cloud")
    parser.add_argument(
        "--control", action="append", metavar="ROLE", help='a role of the control plane in place of the three: "api --workers 2"'
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with everybody's logs and say where it is")
    given = parser.parse_args()
    unknown = set(given.figures) - set(FIGURES)
    if unknown:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    if not all("=" in word for word in given.set):
        parser.error("--set KEY=VALUE")
    plan = QUICK if given.quick else Plan()
    plan = replace(plan, settings=dict(word.split("=", 1) for word in given.set), control=tuple(given.control or plan.control))
    if given.steady_seconds:
        plan = replace(plan, steady_seconds=given.steady_seconds)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures = uvloop.run(run(given.figures or list(FIGURES), plan, keep=given.keep))
    show(figures, RESULTS, beside=bool(given.figures), written=not (given.quick or given.set or given.control))


if __name__ == "__main__":
    main()
