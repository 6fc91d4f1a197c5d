"""`pileus lab story` and `pileus lab calibrate`: their progress, their table, their files."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import uvloop
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pileus.cli.bars import terminal
from pileus.errors import StartupError
from pileus.lab import calibrate, report, story
from pileus.lab.cases import BY_NAME
from pileus.lab.markup import number, rate, seconds
from pileus.lab.plan import Options, Tell
from pileus.lab.results import Case, Experiment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

T = TypeVar("T")

SAID_EVERY = 10.0
"""Seconds between two lines of one case's progress where nobody sits at a terminal."""
KEPT = 6
"""Lines of what is done, that a terminal shows beside what is under way."""
STORY_TIMEOUT = 300.0
FRESH = 4.0
"""Times a second that a terminal is painted."""


def options(names: Sequence[str], *, plug_timeout: float, **more: Any) -> Options:
    """With what is less than the story had, in words. `names` empty: all cases."""
    shortened = []
    if plug_timeout != STORY_TIMEOUT:
        shortened.append(f"The plug timeout was {plug_timeout:g} s and not {STORY_TIMEOUT:g} s: loads are held for shorter, too.")
    if (rung := more.get("rung")) is not None and rung < plug_timeout:
        shortened.append(
            f"Each load was held for {rung:g} s and not for {plug_timeout:g} s: queues had less time to grow, so knees are higher."
        )
    if names and list(names) != list(BY_NAME):
        shortened.append(f"Only some cases were run: {', '.join(names)}.")
    return Options(cases=tuple(names or BY_NAME), plug_timeout=plug_timeout, shortened=tuple(shortened), **more)


def show_cases() -> None:
    for case in BY_NAME.values():
        print(f"{case.name:16} {case.words}")


def run_story(options: Options, calibration: Path | None, *, json: Path | None, html: Path | None) -> None:
    """Until it is over. Ctrl-C ends it, and nothing of it is left. Raises StartupError."""
    for file in (json, html):
        if file is not None and not file.absolute().parent.is_dir():
            raise StartupError(f"{file}: there is no folder {file.parent}")
        if file is not None and (file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK)):
            raise StartupError(f"{file}: cannot be written")  # said now, and not in some hours
    costs = calibrate.load(calibration)
    for line in options.shortened:
        terminal().print(line, soft_wrap=True)
    with _telling(options.cases) as tell:
        found = _run(story.run(options, costs, tell))
    terminal().print(table(found))
    for case in found.cases:
        terminal().print(Text(_why(case)), soft_wrap=True)
    try:
        if json is not None:
            json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        if html is not None:
            html.write_text(report.render(found))
            terminal().print(f"The report: {html}", soft_wrap=True)
    except OSError as error:
        raise StartupError(f"{error.filename}: {error.strerror}") from None


def run_calibrate(output: Path | None) -> None:
    """Raises StartupError."""
    file = output or calibrate.place()
    found = _run(calibrate.measure(story.machine(), lambda text: terminal().print(text)))
    calibrate.save(found, file)
    terminal().print(found.words(), soft_wrap=True)
    terminal().print(f"a statement: {found.statement * 1000:.2f} ms. Kept in {file}", soft_wrap=True)


def table(found: Experiment) -> Table:
    """What each case came to."""
    made = Table(title=f"at {found.load_per_s:.2f} creates a second, plug timeout {found.plug_timeout_s:g} s", title_justify="left")
    for name in ("case", "ACTIVE", "plug timeouts", "p50", "p99", "knee", "predicted", "limited by"):
        made.add_column(name, justify="left" if name in ("case", "limited by") else "right", overflow="fold")
    for case in found.cases:
        made.add_row(
            case.name,
            f"{case.active} of {case.created}",
            number(case.plug_timeouts),
            seconds(case.p50_s),
            seconds(case.p99_s),
            rate(case.knee_per_s) if case.knee_per_s else "",
            rate(case.predicted_knee_per_s),
            case.limited_by,
        )
    return made


def _why(case: Case) -> str:
    note = f" {case.note[0].upper()}{case.note[1:]}." if case.note else ""
    return f"{case.name}: {case.limited_by} is the limit. {case.arithmetic}.{note}"


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Raises KeyboardInterrupt for SIGTERM, too."""
    try:
        return uvloop.run(_ended_by_signals(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _ended_by_signals(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM as Ctrl-C: so that everything is put away."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


@contextmanager
def _telling(names: Sequence[str]) -> Iterator[Tell]:
    """At a terminal a picture that changes, else lines now and then."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(console)
        return
    picture = _Picture(names)
    with Live(get_renderable=picture.show, console=console, refresh_per_second=FRESH, transient=True):
        yield picture.tell


def _lines(console: Console) -> Tell:
    last: dict[str, float] = {}

    def tell(who: str, text: str) -> None:
        passing = " of " in text and "failed" in text
        if passing and time.monotonic() - last.get(who, 0.0) < SAID_EVERY:
            return
        last[who] = time.monotonic()
        console.print(Text(f"{who}: {text}" if who else text), soft_wrap=True)

    return tell


class _Picture:
    def __init__(self, names: Sequence[str]) -> None:
        self._now = dict.fromkeys(names, "")
        self._said: list[str] = []
        self._begun = time.monotonic()

    def tell(self, who: str, text: str) -> None:
        if who in self._now:
            self._now[who] = text
        else:
            self._said = [*self._said, text][-KEPT:]

    def show(self) -> RenderableType:
        passed = time.monotonic() - self._begun
        made = Table(show_header=False, box=None)
        made.add_column(no_wrap=True)
        made.add_column(overflow="fold")
        for line in self._said:
            made.add_row("", Text(line, style="dim"))
        for name, text in self._now.items():
            made.add_row(name, text)
        return Group(Text(f"{passed // 60:.0f} min {passed % 60:02.0f} s. Ctrl-C ends it."), made)
