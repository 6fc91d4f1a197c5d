"""`python -m bench.security`: security groups on a real Open vSwitch, a group of 2,000 members first of all. Run as root."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import get_args

from bench.figures import Figure, figure, show
from pileus.host.switch import Filter, FlowDeletion, flows, tables
from pileus.host.switch.daemons import stop_daemons
from pileus.host.switch.openflow import Flow, Message
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.hosts import missing_for_real
from pileus.messages import FixedIP, PortWiring, SecurityRule
from pileus.settings import Settings

RESULTS = Path(__file__).parent / "results" / "security.json"
MEMBERS = 2000
STANDING = 20
"""Ports of the group that are on the host already."""
GROUP = "00000000-0000-0000-0000-00000000f200"
MS = 1000.0

SENDS = (SecurityRule("egress", 4), SecurityRule("egress", 6))
DEFAULT_GROUP = Filter(rules=(*SENDS, SecurityRule("ingress", 4, remote_set=GROUP), SecurityRule("ingress", 6, remote_set=GROUP)))
"""What a project's default group has: all goes out, and its members come in."""
OTHERS = Filter(rules=SENDS)


def addresses(count: int = MEMBERS) -> list[str]:
    return [f"10.250.{number >> 8}.{number & 255}" for number in range(count)]


def port(number: int) -> PortWiring:
    return PortWiring(
        port_id=str(uuid.uuid4()),
        generation=1,
        network_id="00000000-0000-0000-0000-00000000f100",
        network_type="local",
        physical_network=None,
        segmentation_id=None,
        mtu=1500,
        mac=f"fa:16:3e:fe:{number >> 8 & 255:02x}:{number & 255:02x}",
        fixed_ips=[FixedIP("bench", f"10.250.{number >> 8 & 255}.{number & 255}")],
        subnets=[],
    )


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[OpenVSwitch]:
    """A switch of its own."""
    switch = OpenVSwitch(folder / "switch", Settings().host)
    await switch.start()
    try:
        yield switch
    finally:
        await switch.close()
        await stop_daemons(folder / "switch")


async def plugged(switch: OpenVSwitch, number: int) -> PortWiring:
    made = port(number)
    os.close((await switch.open_tap(made.port_id, made.mtu)).fd)
    await switch.plug(made)
    return made


async def timed(work: Awaitable[object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * MS


async def join(switch: OpenVSwitch, made: PortWiring) -> None:
    """What a host does for a port of the group: tell the set, wire."""
    await switch.address_set(GROUP, addresses())
    await switch.wire(made, DEFAULT_GROUP)


async def leave(switch: OpenVSwitch, made: PortWiring, *, last: bool) -> None:
    await switch.unplug([made.port_id])
    if last:
        await switch.drop_sets([GROUP])


async def of_large_group(switch: OpenVSwitch, rounds: int) -> list[Figure]:
    """Ports of the group come and go: the first and last of the host, and one of many."""
    numbers = iter(range(MEMBERS))
    cold, warm, removed, removed_last, changed = [], [], [], [], []
    for _ in range(rounds):
        first = await plugged(switch, next(numbers))
        cold.append(await timed(join(switch, first)))
        removed_last.append(await timed(leave(switch, first, last=True)))
    standing = [await plugged(switch, next(numbers)) for _ in range(STANDING)]
    for made in standing:
        await join(switch, made)
    for turn in range(3 * rounds):
        made = await plugged(switch, next(numbers))
        warm.append(await timed(join(switch, made)))
        changed.append(await timed(switch.address_set(GROUP, addresses(MEMBERS - 1 + turn % 2))))
        removed.append(await timed(leave(switch, made, last=False)))
    await switch.unplug([made.port_id for made in standing])
    await switch.drop_sets([GROUP])
    return [
        figure(f"wire into a group of {MEMBERS:,}: first port of the host", cold, "ms", "≤ 50"),
        figure(f"wire into a group of {MEMBERS:,}: one of many", warm, "ms", "≤ 50"),
        figure(f"remove from a group of {MEMBERS:,}: one of many", removed, "ms", "≤ 50"),
        figure(f"remove from a group of {MEMBERS:,}: last port of the host", removed_last, "ms", "≤ 50"),
        figure(f"one member joins or leaves a group of {MEMBERS:,}", changed, "ms", ""),
    ]


async def of_others(switch: OpenVSwitch, rounds: int) -> list[Figure]:
    """How long another group's port takes, alone and while the large group comes to the host and goes."""
    other = await plugged(switch, 0)
    alone = [await timed(switch.wire(other, OTHERS)) for _ in range(50 * rounds)]
    beside = []
    for number in range(1, rounds + 1):
        first = await plugged(switch, number)

        async def comes_and_goes(first: PortWiring = first) -> None:
            await join(switch, first)
            await switch.drop_sets([GROUP])

        work = asyncio.create_task(comes_and_goes())
        while not work.done():
            beside.append(await timed(switch.wire(other, OTHERS)))
        await work
        await switch.unplug([first.port_id])
    await switch.unplug([other.port_id])
    return [
        figure("another port's wiring, alone", alone, "ms", ""),
        figure(f"another port's wiring while a group of {MEMBERS:,} comes and goes", beside, "ms", "≤ 10"),
        figure(f"another port's wiring while a group of {MEMBERS:,} comes and goes: longest", [max(beside)], "ms", "≤ 50"),
    ]


async def of_deletion(switch: OpenVSwitch, rounds: int) -> list[Figure]:
    """The flows of a port, each by a call of its own or all in one bundle, and what one more costs: a port with few less one with many."""
    many = Filter(rules=(*SENDS, *(SecurityRule("ingress", 4, 17, number, number) for number in range(1, 2001, 4))))
    more = len(port_flows(many)) - len(port_flows(DEFAULT_GROUP))
    figures = []
    for deletion in get_args(FlowDeletion)[1:]:
        few_flows: list[float] = []
        many_flows: list[float] = []
        for number in range(2 * rounds):
            for rules, found in ((DEFAULT_GROUP, few_flows), (many, many_flows)):
                made = await plugged(switch, number)
                await switch.wire(made, rules)
                found.append(await timed(switch.unplug([made.port_id], deletion=deletion)))
        each = [(heavy - statistics.median(few_flows)) / more for heavy in many_flows]
        figures.append(figure(f"remove a port, its flows {deletion}", few_flows, "ms", ""))
        figures.append(figure(f"one flow more, {deletion}", each, "ms", ""))
    await switch.drop_sets([GROUP])
    return figures


def port_flows(rules: Filter | None) -> list[Message]:
    """A port's own flows, its marker left out."""
    changes = flows.add_port(port(1), 1, 1, rules, {GROUP: 100})
    return [change for change in changes if isinstance(change, Flow) and change.table != tables.MARKER]


def of_a_port() -> Iterator[Figure]:
    yield figure("flows of a port before any rule (Neutron: 43)", [len(port_flows(Filter()))], "", "≤ 43")
    yield figure("flows of a port in its project's default group", [len(port_flows(DEFAULT_GROUP))], "", "≤ 43")


async def measure(rounds: int) -> list[Figure]:
    """All of it, on a switch that is made for it."""
    found = list(of_a_port())
    parts: list[Callable[[OpenVSwitch, int], Awaitable[list[Figure]]]] = [of_large_group, of_others, of_deletion]
    with tempfile.TemporaryDirectory(prefix="pileus-bench-") as folder:
        async with opened(Path(folder)) as switch:
            for part in parts:
                found += await part(switch, rounds)
    return found


def main() -> None:
    """`--quick`: fewer samples, and nothing is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, nothing is written")
    quick = parser.parse_args().quick
    missing = missing_for_real(Settings())
    if missing:
        print(f"bench.security needs a real switch: {missing}")
        return
    show(asyncio.run(measure(2 if quick else 10)), RESULTS, written=not quick)


if __name__ == "__main__":
    main()
