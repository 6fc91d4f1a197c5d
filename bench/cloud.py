"""`make bench`: the figures of one cloud on one machine, against their bars. Run as root for the real ones."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import floor
from bench.figures import Figure, figure, show
from bench.process import Up, up
from pileus.hosts import missing_for_real
from pileus.settings import Settings

RESULTS = Path(__file__).parent / "results" / "cloud.json"
HOLLOW = ("--hypervisor", "simulated")
CALLBACK = {"PILEUS_COMPUTE__PLUG_SIGNAL": "callback", "PILEUS_NETWORK__SEND_EVENTS_INTERVAL": "0"}
MS = 1000.0


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def boots(cloud: Up, network: str, count: int, image: str = "") -> list[float]:
    """Seconds from POST to ACTIVE, one after the other, each deleted afterwards."""
    found = []
    for n in range(count):
        started = time.perf_counter()
        server_id = await cloud.create(f"boot-{n}", network, image)
        found.append(await cloud.active(server_id) - started)
        await cloud.delete(server_id)
    return found


async def storm(cloud: Up, network: str, count: int, image: str = "") -> float:
    """Seconds until all of `count` creates at once are ACTIVE; they are deleted afterwards."""
    started = time.perf_counter()
    ids = await asyncio.gather(*[cloud.create(f"storm-{n}", network, image) for n in range(count)])
    waiting = set(ids)
    while waiting:
        found = (await cloud.ask("GET", "/compute/v2.1/servers/detail?name=storm-&limit=1000"))["servers"]
        bad = [server for server in found if server["status"] == "ERROR"]
        if bad:
            raise RuntimeError(f"{len(bad)} of {count} ended in ERROR: {bad[0]['fault']['message']}")
        waiting -= {server["id"] for server in found if server["status"] == "ACTIVE"}
        await asyncio.sleep(0.02)
    took = time.perf_counter() - started
    await asyncio.gather(*[cloud.delete(server_id) for server_id in ids])
    return took


async def network_of(cloud: Up) -> str:
    return str((await cloud.ask("GET", "/network/v2.0/networks"))["networks"][0]["id"])


async def simulated(folder: Path) -> list[Figure]:
    figures = []
    async with up(folder / "local", *HOLLOW) as cloud:
        figures.append(figure("up until the first answer, first ever", [cloud.ready], "s", "≤ 4"))
        network = await network_of(cloud)
        await boots(cloud, network, 10)
        figures.append(figure("simulated: POST to ACTIVE", [s * MS for s in await boots(cloud, network, 60)], "ms", "≤ 30"))
        before = cloud.cpu()
        await boots(cloud, network, 100)
        figures.append(figure("CPU per simulated boot + delete", [(cloud.cpu() - before) * MS / 100], "ms", "≤ 25"))
        figures += await api(cloud, network)
    async with up(folder / "callback", *HOLLOW, settings=CALLBACK) as cloud:
        network = await network_of(cloud)
        await boots(cloud, network, 10)
        figures.append(figure("simulated, callback: POST to ACTIVE", [s * MS for s in await boots(cloud, network, 60)], "ms", "≤ 60"))
    async with up(folder / "storm", *HOLLOW, "--hosts", "10") as cloud:
        network = await network_of(cloud)
        await boots(cloud, network, 10)
        rates = [100 / await storm(cloud, network, 100) for _ in range(5)]
        figures.append(figure("100 creates at once: rate until all are ACTIVE", rates, "/s", "≥ 40"))
    async with up(folder / "local", *HOLLOW) as cloud:
        warm = [cloud.ready]
        await asyncio.sleep(2)
        idle = cloud.pss()
    for _ in range(2):
        async with up(folder / "local", *HOLLOW) as cloud:
            warm.append(cloud.ready)
    figures.append(figure("up until the first answer, warm", warm, "s", "≤ 1.5"))
    figures.append(figure("idle memory (Pss)", [idle], "MB", "≤ 120"))
    return figures


async def api(cloud: Up, network: str) -> list[Figure]:
    ids = await asyncio.gather(*[cloud.create(f"api-{n}", network) for n in range(100)])
    for server_id in ids:
        await cloud.active(server_id)
    detail = [await timed(lambda: cloud.client.request("GET", "/compute/v2.1/servers/detail")) for _ in range(60)]
    await asyncio.gather(*[cloud.delete(server_id) for server_id in ids])
    ports: list[str] = []

    async def port() -> None:
        ports.append((await cloud.ask("POST", "/network/v2.0/ports", {"port": {"network_id": network}}))["port"]["id"])

    posted = [await timed(port) for _ in range(60)]
    for port_id in ports:
        await cloud.ask("DELETE", f"/network/v2.0/ports/{port_id}")
    subject = {"X-Subject-Token": cloud.client.headers["X-Auth-Token"]}
    validated = [await timed(lambda: cloud.client.request("GET", "/identity/v3/auth/tokens?nocatalog", None, subject)) for _ in range(200)]
    return [
        figure("GET servers/detail of 100", [s * MS for s in detail], "ms", "≤ 8"),
        figure("POST port", [s * MS for s in posted], "ms", "≤ 6"),
        figure("a token's validation", [s * MS for s in validated], "ms", "≤ 1"),
    ]


async def blank_image(cloud: Up) -> str:
    new = {"name": "blank", "disk_format": "raw", "container_format": "bare"}
    image = (await cloud.ask("POST", "/image/v2/images", new))["id"]
    headers = {"Content-Type": "application/octet-stream"}
    answer = await cloud.client.request("PUT", f"/image/v2/images/{image}/file", bytes(1 << 20), headers)
    assert answer.status == 204, answer
    return str(image)


async def real(folder: Path) -> list[Figure]:
    figures = []
    async with up(folder / "real", "--hypervisor", "qemu", settings={"PILEUS_HOST__BRIDGE": "br-bench"}) as cloud:
        network, image = await network_of(cloud), await blank_image(cloud)
        async with floor.opened(folder / "floor", Settings()) as raw:
            await boots(cloud, network, 3, image)
            # A guest of its own keeps the network's DHCP server: the figure is a boot's, not a first boot's.
            keeper = await cloud.create("keeper", network, image)
            await cloud.active(keeper)
            floors, ours, over = [], [], []
            # In turns of five: one switch is not yet done with what it removed when the other one's next boot begins.
            for _ in range(6):
                least = [await floor.one(raw) for _ in range(5)]
                booted = await boots(cloud, network, 5, image)
                floors += least
                ours += booted
                over.append(statistics.median(booted) / statistics.median(least))
            figures.append(figure("raw floor of a real guest", [s * MS for s in floors], "ms", ""))
            figures.append(figure("real: POST to ACTIVE", [s * MS for s in ours], "ms", ""))
            figures.append(figure("real guest over the floor of the same run", over, "×", "≤ 1.4"))
            rates = []
            for _ in range(3):
                raw_rate = 20 / await floor.several(raw, 20)
                rates.append(20 / await storm(cloud, network, 20, image) / raw_rate)
            figures.append(figure("20 real guests at once over 20 raw", rates, "×", "≥ 0.8"))
    callback = {"PILEUS_HOST__BRIDGE": "br-bench", **CALLBACK}
    async with up(folder / "real-callback", "--hypervisor", "qemu", settings=callback) as cloud:
        network, image = await network_of(cloud), await blank_image(cloud)
        await boots(cloud, network, 3, image)
        waits = []
        for n in range(20):
            server_id = await cloud.create(f"callback-{n}", network, image)
            await cloud.active(server_id)
            stamps = await cloud.timeline(server_id)
            # A guest that is not paused yet is not what the signal waits for.
            waits.append((stamps["resumed"] - max(stamps["wired"], stamps["paused"])) * MS)
            await cloud.delete(server_id)
        figures.append(figure("real, callback: port wired to guest resumed", waits, "ms", "≤ 30"))
    return figures


async def run(only: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pb-"))
    figures: list[Figure] = []
    try:
        if only in ("all", "simulated"):
            figures += await simulated(folder)
        missing = missing_for_real(Settings())
        if missing:
            print(f"The real figures are left out: {missing}.")
        elif only in ("all", "real"):
            figures += await real(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(figures, RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=("all", "simulated", "real"), default="all")
    asyncio.run(run(parser.parse_args().only))
