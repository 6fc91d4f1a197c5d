"""`pileus lab advise`: two looks at a running cloud's figures, and what its settings should be."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from pileus import configuration
from pileus.errors import StartupError
from pileus.lab import clouds
from pileus.lab.advise import Advice, Measured, Now, advise
from pileus.lab.api import Api, Refused
from pileus.lab.scrape import measure

NEWEST = 20
"""Servers whose timelines are looked at."""


class Told(msgspec.Struct, frozen=True):
    """What `--json` prints. `steps`: mean seconds of the newest servers' creates; empty without `--os-cloud`."""

    window: float
    hosts: int | None
    advice: list[Advice]
    steps: dict[str, float]


def run(urls: list[str], window: float, config: Path | None, name: str | None, *, as_json: bool) -> None:
    """Print the advice. Raises StartupError."""
    settings, _ = configuration.load(config)
    now = Now(settings.compute.heal_instance_info_cache_interval, settings.compute.max_concurrent_builds, settings.compute.max_builds)
    found, steps = asyncio.run(_look(urls, window, name))
    told = Told(found.window, found.hosts, advise(found, now), steps)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    from pileus.cli.bars import terminal

    for line in _lines(told):
        terminal().print(line)


async def _look(urls: list[str], window: float, name: str | None) -> tuple[Measured, dict[str, float]]:
    hosts: int | None = None
    if name is not None:
        hosts = len([host for host in (await _ask(name, "/v1/status"))["hosts"] if host["up"]])
    found = await measure(urls, window, lambda said: print(said, file=sys.stderr), hosts=hosts)
    return found, await _steps(name) if name is not None else {}


async def _ask(name: str, path: str) -> Any:
    """The operator's API, which stands beside Keystone and in no catalogue."""
    async with _api(name) as api:
        _add_operator(api)
        return await _get(api, path)


async def _steps(name: str) -> dict[str, float]:
    """Mean seconds of each step of the newest servers' creates."""
    sums: dict[str, list[float]] = {}
    async with _api(name) as api:
        _add_operator(api)
        newest = await api.get("compute", "/servers", limit=str(NEWEST), sort_key="created_at", sort_dir="desc")
        stories = await asyncio.gather(*(_get(api, f"/v1/servers/{server['id']}/timeline") for server in newest["servers"]))
    for story in stories:
        for action in story["actions"]:
            if action["action"] == "create" and action["state"] == "done":
                for span in action["spans"]:
                    sums.setdefault(span["step"], []).append(span["seconds"])
    return {step: sum(found) / len(found) for step, found in sums.items()}


def _api(name: str) -> Api:
    return Api(clouds.find(name, os.environ, folder=Path.cwd(), home=Path.home()))


def _add_operator(api: Api) -> None:
    api.urls["pileus"] = api.access.auth_url.removesuffix("/v3").rsplit("/", 1)[0] + "/pileus"


async def _get(api: Api, path: str) -> Any:
    try:
        return await api.get("pileus", path)
    except Refused as refused:
        if refused.status == 404:
            raise StartupError(f"cloud {api.access.name} is no Pileus: it has no operator's API at {api.urls['pileus']}") from None
        raise


def _lines(told: Told) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    if not told.advice:
        return [
            f"Nothing happened within {told.window:.0f} s that advice could be made of: look while there is load, or for longer (--window)."
        ]
    table = Table("setting", "now", "advised", "because", box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for line in told.advice:
        changed = line.advised != line.now
        because = line.because + ("" if line.sure else " (not sure: little was measured, or it was full)")
        table.add_row(Text(line.setting), Text(line.now), Text(line.advised, "bold yellow" if changed else "green"), Text(because))
    said: list[Any] = [table]
    if told.steps:
        longest = sorted(told.steps.items(), key=lambda step: -step[1])[:3]
        words = ", ".join(f"{step} {seconds * 1000:.0f} ms" for step, seconds in longest)
        said += ["", f"The newest servers' creates spent their time in: {words}."]
    said += ["", f"Measured for {told.window:.0f} s; it holds for times like these, so look at the busiest."]
    if told.hosts is None:
        said += ["", "How many builds a host should take is said with --os-cloud NAME, which tells how many hosts are up."]
    return said
