"""What the processes of a site tell Prometheus, read twice and subtracted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

from pileus.lab.proxy import Count
from pileus.lab.site import Site
from pileus.lab.wire import Wire

Sample = dict[str, float]
"""A series with its labels → value, all processes of a role together."""

_LINE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$")
WAITS = {
    "pool_wait_s": (("network-rpc", "network-api"), "pileus_db_wait_seconds"),
    "rpc_details_s": (("hosts",), "pileus_agent_details_seconds"),
    "rpc_report_s": (("hosts",), "pileus_agent_report_seconds"),
    "agent_turn_s": (("hosts",), "pileus_agent_turn_seconds"),
    "wire_wait_s": (("hosts",), "pileus_agent_wire_wait_seconds"),
}
"""Figure → whose histogram it is the mean of."""
HOLD = "pileus_db_run_seconds"
"""How long transactions had their connections."""
HEALED = 'pileus_compute_cache_reads_total{outcome="read",why="healing"}'
TOLD = 'pileus_compute_cache_reads_total{outcome="read",why="event"}'
BLOCKED = "pileus_agent_blocked_seconds_total"
NETWORK = "network"
"""The proxy's name of the network API's REST."""
OF_READING = (
    re.compile(r"GET .*/floatingips\?"),
    re.compile(r"GET .*/ports\?device_owner&network_id$"),
    re.compile(r"GET .*/subnets\?id$"),
    re.compile(r"GET .*/networks/\{id\}\?fields$"),
)
"""Kinds of requests that are made for nothing but reading a cache anew (pileus/compute/neutron_healing.py)."""
LAST_OF_READING = OF_READING[-1]


async def read(site: Site) -> dict[str, Sample]:
    """Role → sample. A process that does not answer is left out."""
    roles = list(site.metrics)
    found = await asyncio.gather(*[_of(site.metrics[role]) for role in roles])
    return dict(zip(roles, found, strict=True))


async def _of(ports: Sequence[int]) -> Sample:
    whole: Sample = {}
    for text in await asyncio.gather(*[_text(port) for port in ports]):
        for name, value in parsed(text).items():
            whole[name] = whole.get(name, 0.0) + value
    return whole


async def _text(port: int) -> str:
    wire = Wire("127.0.0.1", port, "none")
    try:
        async with asyncio.timeout(10):
            return (await wire.request("GET", "/metrics")).body.decode()
    except OSError:
        return ""
    finally:
        wire.close()


def parsed(text: str) -> Sample:
    found: Sample = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            name, labels, value = match.groups()
            inner = ",".join(sorted((labels or "").strip("{}").split(","))) if labels else ""
            found[f"{name}{{{inner}}}" if inner else name] = float(value)
    return found


def figures(before: Mapping[str, Sample], after: Mapping[str, Sample], *, seconds: float, hosts: int) -> Sample:
    """What the parts measured between two samples. `seconds` passed."""

    def delta(role: str, name: str) -> float:
        return max(0.0, after.get(role, {}).get(name, 0.0) - before.get(role, {}).get(name, 0.0))

    found: Sample = {}
    for figure, (roles, name) in WAITS.items():
        count = sum(delta(role, f"{name}_count") for role in roles)
        if count:
            found[figure] = sum(delta(role, f"{name}_sum") for role in roles) / count
    if "rpc_details_s" in found or "rpc_report_s" in found:
        found["rpc_wait_s"] = found.get("rpc_details_s", 0.0) + found.get("rpc_report_s", 0.0)
    minutes = max(seconds, 1e-9) / 60
    found["agent_blocked_s"] = delta("hosts", BLOCKED) / hosts / minutes
    found["healed_per_min"] = delta("worker", HEALED) / minutes
    found["read_for_events_per_min"] = delta("worker", TOLD) / minutes
    return found


def requests(before: Mapping[str, Count], after: Mapping[str, Count], *, seconds: float, healed: float) -> Sample:
    """REST requests a minute to the network API, as the proxy counted them: all, and those of healing. `healed`: the part of the caches
    read anew that nobody had said to be stale; the others are read in the same requests.

    Four of the six requests that read a cache (one port, one address) nobody makes for anything else; the other two, its ports and their
    networks, look like a boot's, and there is one of each for every last request of a reading.
    """
    minutes = max(seconds, 1e-9) / 60
    old, new = (counts.get(NETWORK, Count()).kinds for counts in (before, after))
    kinds = {kind: number - old.get(kind, 0) for kind, number in new.items()}
    own = sum(number for kind, number in kinds.items() if any(word.match(kind) for word in OF_READING))
    readings = sum(number for kind, number in kinds.items() if LAST_OF_READING.match(kind))
    return {
        "rest_requests_per_min": sum(kinds.values()) / minutes,
        "heal_requests_per_min": (own + 2 * readings) / minutes * healed,
    }
