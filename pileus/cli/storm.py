"""`pileus lab storm`: a storm against any OpenStack cloud, its progress, its table, its files."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pileus.cli.bars import terminal
from pileus.errors import StartupError
from pileus.lab import clouds, stormreport
from pileus.lab.api import Api
from pileus.lab.choosing import Chosen, choose
from pileus.lab.clouds import Access
from pileus.lab.markup import percent, rate, seconds
from pileus.lab.storm import Progress, Storm, Wish, storm

SAID_EVERY = 5.0
"""Seconds between two lines of progress where nobody sits at a terminal."""
INTERRUPTED = 130


def run(name: str | None, wish: Wish, wanted: dict[str, str | None], *, json: Path | None, html: Path | None) -> None:
    """Exit code 0: all ACTIVE; 1: not so; 130: ended before. Raises StartupError before anything is made."""
    access = clouds.find(name, os.environ, folder=Path.cwd(), home=Path.home())
    for file in (json, html):
        if file is not None and not file.absolute().parent.is_dir():
            raise StartupError(f"{file}: there is no folder {file.parent}")
    try:
        found = asyncio.run(_run(access, wish, wanted))
    except KeyboardInterrupt:
        print("pileus: left at once; servers whose names begin with storm- may still be there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for line in lines(found):
        terminal().print(line)
    try:
        if json is not None:
            json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        if html is not None:
            html.write_text(stormreport.render(found))
            terminal().print(f"The report: {html}", soft_wrap=True)
    except OSError as error:
        raise StartupError(f"{error.filename}: {error.strerror}") from None
    if found.interrupted:
        raise typer.Exit(INTERRUPTED)
    if found.active < found.created or (found.deletes.left and not wish.keep):
        raise typer.Exit(1)


async def _run(access: Access, wish: Wish, wanted: dict[str, str | None]) -> Storm:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Api(access) as api:
        chosen = await choose(api, image=wanted["image"], flavor=wanted["flavor"], network=wanted["network"])
        print(_plan(access, wish, chosen), file=sys.stderr)
        with _Teller() as tell:
            return await storm(api, wish, chosen, tell)


def _plan(access: Access, wish: Wish, chosen: Chosen) -> str:
    pace = f"{wish.rate:g} a second" if wish.rate else "all at once"
    made_of = f"image {chosen.image_name}, flavor {chosen.flavor_name}, network {chosen.network_name}"
    end = "they stay" if wish.keep else "all deleted at the end, also after Ctrl-C"
    return f"{wish.count} servers on {access.name}, {pace} ({made_of}); {end}."


class _Teller:
    """Progress on stderr: one line that changes at a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Any = None
        self._last = 0.0

    def __enter__(self) -> Callable[[Progress], None]:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self._tell

    def __exit__(self, *about: object) -> None:
        if self._status is not None:
            self._status.stop()

    def _tell(self, at: Progress) -> None:
        said = f"{at.seconds:.0f} s: {at.asked} asked for, {at.active} ACTIVE, {at.building} building, {at.failed} failed"
        if at.phase == "deleting":
            said = f"{at.seconds:.0f} s: deleting, {at.left} left"
        if self._status is not None:
            self._status.update(said)
        elif time.monotonic() - self._last >= SAID_EVERY:
            self._last = time.monotonic()
            print(said, file=sys.stderr, flush=True)


def lines(found: Storm) -> list[Any]:
    """What is printed in the end."""
    table = Table(
        "servers", "ACTIVE", "ERROR", "refused", "unfinished", "asked for", "made", "POST p50", "p50", "p95", "p99", "max", box=None
    )
    for column in table.columns:
        column.justify, column.header_style = "right", "dim"
    cells = [str(each) for each in (found.created, found.active, found.error, found.refused, found.unfinished)]
    cells += [rate(found.asked_per_s), rate(found.active_per_s), seconds(found.post_p50_s)]
    cells += [seconds(each) for each in (found.p50_s, found.p95_s, found.p99_s, found.max_s)]
    table.add_row(*(Text(cell) for cell in cells))
    verdict = f"{percent(found.active, found.created)} ACTIVE"
    told: list[Any] = [Text(stormreport.finding(found), "bold"), "", table, ""]
    told += [Text(f"  {fault.count} × {fault.outcome}: {fault.message}", "red") for fault in found.faults[:8]]
    if len(found.faults) > 8:
        told.append(Text(f"  and {len(found.faults) - 8} more reasons", "red"))
    gone = found.deletes
    if gone.kept:
        told.append(f"{verdict}; {gone.left} servers stay, as asked for.")
    elif gone.left:
        told.append(
            Text(f"{gone.left} servers are still there, though they were told to go: their names begin with {_prefix(found)}", "red")
        )
    else:
        told.append(f"All {gone.gone} that were made are deleted, in {seconds(gone.seconds)}.")
    return told


def _prefix(found: Storm) -> str:
    return found.servers[0].name.rpartition("-")[0] + "-" if found.servers else "storm-"
