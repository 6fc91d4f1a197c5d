"""What settings should be, from what a cloud measured. Pure arithmetic: figures in, advice out, each line with its reason.

Little's law says how many of something are busy: arrivals a second times the seconds each one takes. So many are needed that they are
busy for no more than TARGET of their time and that no more than MOST_WAIT of the work finds all of them busy (Erlang's C formula). Each
line holds with the other settings as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

TARGET = 0.7
"""Part of its time that a connection, a worker or a slot may be busy."""
MOST_WAIT = 0.2
"""Part of the work that may find all of them busy."""
CORE = 0.7
"""Part of a core that one process may use: beyond it answers wait for its event loop."""
HEALING = 0.2
"""Refreshes of healing under way at once, in the mean, that are bearable: it is background work."""
INTERVALS = (60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)
LATE = 0.05
"""Part of the refreshes that may come late; more of them mean something only where healing is at least a quarter of what is bearable."""
UNEVEN = 2.0
"""A busy host has so many times the builds of the mean: hosts are chosen by chance among the better ones."""
FULL = 0.9
"""Busy for more than this part of the time: what is measured is what was possible, not what was wanted."""
MOST = 10_000


@dataclass(frozen=True)
class Flow:
    """Work that came: so many a second, each taking `service` seconds after `wait` seconds of waiting, in the mean."""

    per_s: float = 0.0
    service: float = 0.0
    wait: float = 0.0

    @property
    def busy(self) -> float:
        """Under way at once, in the mean: Little's law."""
        return self.per_s * self.service

    def wanted(self, window: float) -> float:
        """Arrivals a second, of which `per_s` were begun: what still waited, or had come before, is to be served within the window."""
        return self.per_s * (1 + self.wait / window) if window > 0 else self.per_s


@dataclass(frozen=True)
class Process:
    """One process's transactions, and its part of a core. `pool` None: no PostgreSQL. `role`: what it is, as far as its figures tell."""

    name: str
    role: str
    cpu: float = 0.0
    pool: int | None = None
    transactions: Flow = Flow()


@dataclass(frozen=True)
class Measured:
    """What a cloud measured within `window` seconds. `rpc` is of all rpc processes; `creates.service` from a create's turn to its end,
    `creates.wait` before; `heals` of healing alone."""

    window: float
    processes: Sequence[Process] = ()
    rpc: Flow = Flow()
    rpc_at_once: int = 0
    heals: Flow = Flow()
    heals_late: float = 0.0
    creates: Flow = Flow()
    hosts: int | None = None


@dataclass(frozen=True)
class Now:
    """The settings as they are."""

    heal_interval: float = 600.0
    max_concurrent_builds: int = 10
    max_builds: int = 256


class Advice(msgspec.Struct, frozen=True):
    """One setting. `sure` False: too little was measured, or the part was full, so that it is worth measuring again."""

    setting: str
    now: str
    advised: str
    because: str
    sure: bool = True


def advise(found: Measured, now: Now) -> list[Advice]:
    """All that the figures allow to say."""
    lines = [_workers(found), *(_pool(process, found.window) for process in found.processes if process.pool is not None)]
    lines += [_healing(found, now), _host_builds(found, now), _all_builds(found, now)]
    return [line for line in lines if line is not None]


def waiting(load: float, servers: int) -> float:
    """Part of what arrives that finds all of `servers` busy, `load` of them being so in the mean; Erlang's C."""
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def needed(load: float, least: int = 1) -> int:
    """The fewest that are busy for at most TARGET of the time and let at most MOST_WAIT of the work wait."""
    first = max(least, math.ceil(load / TARGET - 1e-9))
    return next((n for n in range(first, min(MOST, first) + 1000) if waiting(load, n) <= MOST_WAIT), first)


def _workers(found: Measured) -> Advice | None:
    processes = [process for process in found.processes if process.role == "network-rpc"]
    if not processes or not found.rpc_at_once or not found.rpc.per_s:
        return None
    arrivals = found.rpc.wanted(found.window)
    load = arrivals * found.rpc.service
    slots = needed(load)
    cpu = sum(process.cpu for process in processes) * (arrivals / found.rpc.per_s)
    for_slots, for_cpu = math.ceil(slots / found.rpc_at_once), max(1, math.ceil(cpu / CORE - 1e-9))
    limit = "slots decide" if for_slots >= for_cpu else "CPU decides"
    busy = found.rpc.busy / (len(processes) * found.rpc_at_once)
    because = (
        f"{_n(arrivals)} requests a second × {_s(found.rpc.service)} = {_n(load)} under way at once (Little); {_many(slots, 'slot')} "
        f"keep that under {TARGET:.0%} and let {waiting(load, slots):.0%} wait; a worker has {found.rpc_at_once} "
        f"(network.executor_thread_pool_size), so {for_slots}; they use {cpu:.2f} of a core, at most {CORE:g} each, so {for_cpu}: {limit}. "
        f"Requests wait {_s(found.rpc.wait)} for a worker now, whose slots are busy {busy:.0%} of the time"
    )
    return Advice(
        "network.rpc_workers",
        str(len(processes)),
        str(max(for_slots, for_cpu)),
        because + _full(busy),
        sure=_sure(found.rpc, found.window, busy),
    )


def _pool(process: Process, window: float) -> Advice | None:
    flow, size = process.transactions, process.pool
    if not flow.per_s or size is None:
        return None
    arrivals = flow.wanted(window)
    load = arrivals * flow.service
    wanted = needed(load)
    busy = flow.busy / size
    because = (
        f"{process.name} ({process.role}): {_n(arrivals)} transactions a second × {_s(flow.service)} = {_n(load)} connections busy at once "
        f"(Little); of {wanted} they are {load / wanted:.0%}, and {waiting(load, wanted):.0%} of the transactions wait. "
        f"They wait {_s(flow.wait)} now"
    )
    return Advice("database.max_pool_size", str(size), str(wanted), because + _full(busy), sure=_sure(flow, window, busy))


def _healing(found: Measured, now: Now) -> Advice | None:
    setting, is_now = "compute.heal_instance_info_cache_interval", f"{now.heal_interval:g}"
    if now.heal_interval <= 0:
        return Advice(setting, "off", "off", "events alone keep the caches; 600 costs little where events may be lost")
    if not found.heals.per_s:
        return None
    late = min(1.0, found.heals_late / found.heals.per_s)
    is_late = late > LATE and found.heals.busy >= HEALING / 4
    factor = max(found.heals.busy / HEALING, 2.0 if is_late else 0.0)
    wanted = now.heal_interval * factor
    advised = now.heal_interval if factor <= 1 else next((step for step in INTERVALS if step >= wanted - 1e-9), INTERVALS[-1])
    because = (
        f"{_n(found.heals.per_s)} servers a second × {_s(found.heals.service)} of the network API = {_n(found.heals.busy)} refreshes "
        f"under way at once (Little); background work should be at most {HEALING:g}"
    )
    if is_late:
        because += f"; {late:.0%} of them came late"
    if factor > 1:
        because += f", so the interval grows by {_n(factor)} ×, to {_n(wanted)} s or the next longer one"
    return Advice(setting, is_now, f"{max(advised, now.heal_interval):g}", because, sure=_sure(found.heals, found.window, 0.0))


def _host_builds(found: Measured, now: Now) -> Advice | None:
    if found.hosts is None or not found.hosts or not found.creates.per_s:
        return None
    arrivals = found.creates.wanted(found.window)
    mean = arrivals * found.creates.service / found.hosts
    wanted = needed(mean * UNEVEN)
    because = (
        f"{_n(arrivals)} creates a second × {_s(found.creates.service)} = {_n(arrivals * found.creates.service)} being built at "
        f"once (Little), {_n(mean)} on each of {found.hosts} hosts, {UNEVEN:g} × that on a busy one; "
        f"{_enough(wanted, now.max_concurrent_builds)}. Creates wait {_s(found.creates.wait)} for their turn now"
    )
    is_now = str(now.max_concurrent_builds or "no limit")
    advised = str(max(wanted, now.max_concurrent_builds)) if now.max_concurrent_builds else is_now
    busy = found.creates.busy / found.hosts / now.max_concurrent_builds if now.max_concurrent_builds else 0.0
    return Advice("compute.max_concurrent_builds", is_now, advised, because + _full(busy), sure=_sure(found.creates, found.window, busy))


def _all_builds(found: Measured, now: Now) -> Advice | None:
    if not found.creates.per_s or not now.max_builds:
        return None
    arrivals = found.creates.wanted(found.window)
    load = arrivals * found.creates.service
    wanted = needed(load)
    busy = found.creates.busy / now.max_builds
    because = f"{_n(arrivals)} creates a second × {_s(found.creates.service)} = {_n(load)} being built at once (Little)"
    because += f"; {_enough(wanted, now.max_builds)}"
    return Advice(
        "compute.max_builds",
        str(now.max_builds),
        str(max(wanted, now.max_builds)),
        because + _full(busy),
        sure=_sure(found.creates, found.window, busy),
    )


def _enough(wanted: int, limit: int) -> str:
    """A limit that is higher than it must be is left alone: a mean says nothing of the next storm."""
    return f"{wanted} would do, and the limit is not below" if not limit or limit >= wanted else f"that needs {wanted}"


def _sure(flow: Flow, window: float, busy: float) -> bool:
    """A hundred of them were seen, and the part was not full."""
    return flow.per_s * window >= 100 and busy <= FULL


def _full(busy: float) -> str:
    return "; it was full, so more may have been wanted than could be measured: change it and look again" if busy > FULL else ""


def _n(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _s(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
