"""What processes show on /metrics, looked at twice: how much came, how long it took and how long it waited between the looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pileus.errors import StartupError
from pileus.lab.advise import Flow, Measured, Process

LIMIT = 10.0
"""Seconds for one look at one process."""
Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True)
class Look:
    """One process's figures at one moment (Unix seconds)."""

    at: float
    series: Series

    def sum(self, name: str, **labels: str) -> float:
        """All series of the name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (known, has), value in self.series.items() if known == name and wanted <= set(has))

    def has(self, name: str) -> bool:
        return any(known == name and value for (known, _), value in self.series.items())


async def looks(urls: Sequence[str], transport: httpx.AsyncBaseTransport | None = None) -> list[Look]:
    """One look at each. Raises StartupError where one does not answer or shows something else."""
    async with httpx.AsyncClient(timeout=LIMIT, transport=transport, trust_env=False) as client:
        return list(await asyncio.gather(*(_look(client, url) for url in urls)))


async def measure(
    urls: Sequence[str], window: float, tell: Callable[[str], None], *, hosts: int | None, transport: httpx.AsyncBaseTransport | None = None
) -> Measured:
    """Two looks, `window` seconds apart. Raises StartupError."""
    before = await looks(urls, transport)
    tell(f"{len(urls)} {'process' if len(urls) == 1 else 'processes'} looked at; again in {window:g} s")
    await asyncio.sleep(window)
    return between(urls, before, await looks(urls, transport), hosts=hosts)


def between(urls: Sequence[str], before: Sequence[Look], after: Sequence[Look], *, hosts: int | None) -> Measured:
    """What happened from the one to the other. A process that was started anew meanwhile counts from its start."""
    window = max(1e-9, sum(b.at - a.at for a, b in zip(before, after, strict=True)) / len(after)) if after else 0.0
    pairs = list(zip(before, after, strict=True))

    def change(name: str, **labels: str) -> float:
        return sum(_grown(a, b, name, **labels) for a, b in pairs)

    rpc = _flow(window, change("pileus_network_rpc_seconds_count"), change("pileus_network_rpc_seconds_sum"))
    waits = _flow(window, change("pileus_network_rpc_wait_seconds_count"), change("pileus_network_rpc_wait_seconds_sum"))
    builds = _flow(window, *(change(f"pileus_compute_service_seconds_{part}", action="create") for part in ("count", "sum")))
    queue = _flow(window, *(change(f"pileus_compute_queue_seconds_{part}") for part in ("count", "sum")))
    heals = [
        change("pileus_compute_cache_reads_total", why="healing", outcome="read"),
        change("pileus_compute_cache_read_seconds_total", why="healing"),
    ]
    at_once = [b.sum("pileus_network_rpc_at_once") for b in after]
    return Measured(
        window=window,
        processes=[_process(url, a, b) for url, (a, b) in zip(urls, pairs, strict=True)],
        rpc=Flow(max(rpc.per_s, waits.per_s), rpc.service, waits.service),
        rpc_at_once=int(max(at_once, default=0.0)),
        heals=_flow(window, *heals),
        heals_late=change("pileus_compute_heals_late_total") / window if window else 0.0,
        creates=Flow(max(builds.per_s, queue.per_s), builds.service, queue.service),
        hosts=hosts,
    )


def parsed(text: str) -> Series:
    """Prometheus's text. Raises ValueError."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[(sample.name, tuple(sorted(sample.labels.items())))] = sample.value
    return found


async def _look(client: httpx.AsyncClient, url: str) -> Look:
    place = url if "://" in url else f"http://{url}"
    if urlsplit(place).path in ("", "/"):
        place = place.rstrip("/") + "/metrics"
    try:
        _ = urlsplit(place).port  # ValueError where it is none
        answer = await client.get(place)
        answer.raise_for_status()
        series = parsed(answer.text)
    except httpx.HTTPStatusError as error:
        raise StartupError(
            f"{place}: HTTP {error.response.status_code}, not a process's figures; metrics.listen says where they are"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StartupError(f"{place} cannot be reached: {error or type(error).__name__}; metrics.listen says where figures are") from None
    except ValueError as error:
        raise StartupError(f"{place} does not show figures for Prometheus: {error}") from None
    if not any(name.startswith("pileus_") for name, _ in series):
        raise StartupError(f"{place} shows figures, but not those of Pileus")
    return Look(time.time(), series)


def _process(url: str, before: Look, after: Look) -> Process:
    window = max(1e-9, after.at - before.at)

    def flow(name: str) -> Flow:
        return _flow(window, *(_grown(before, after, f"{name}_{part}") for part in ("count", "sum")))

    run, wait = flow("pileus_db_run_seconds"), flow("pileus_db_wait_seconds")
    pool = int(after.sum("pileus_db_pool_size"))
    cpu = _grown(before, after, "process_cpu_seconds_total") / window
    transactions = Flow(max(run.per_s, wait.per_s), run.service, wait.service)
    return Process(url.split("://")[-1].split("/")[0], _role(after), cpu, pool or None, transactions)


def _role(look: Look) -> str:
    """By what a process counts."""
    if look.has("pileus_network_rpc_at_once"):
        return "network-rpc"
    return "worker" if look.has("pileus_compute_service_seconds_count") or look.has("pileus_compute_queue_seconds_count") else "api or host"


def _grown(before: Look, after: Look, name: str, **labels: str) -> float:
    now, then = after.sum(name, **labels), before.sum(name, **labels)
    return now - then if now >= then else now


def _flow(window: float, count: float, seconds: float) -> Flow:
    return Flow(count / window, seconds / count) if count and window else Flow()
