"""What the demo prints while it runs: a line a step, with a spinner at a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from pileus.cli.bars import duration, terminal


class Step:
    """A step under way. `done` may be set to what came of it."""

    def __init__(self, doing: str) -> None:
        self.done = doing


class Show:
    def __init__(self) -> None:
        self.console = terminal()

    @contextlib.contextmanager
    def step(self, doing: str) -> Iterator[Step]:
        """Say what is being done, then what came of it and how long it took. An exception marks it as failed and goes on up."""
        step = Step(doing)
        begun = time.perf_counter()
        waiting = self.console.status(Text(f"{doing} …")) if self.console.is_terminal else contextlib.nullcontext()
        try:
            with waiting:
                yield step
        except BaseException as error:
            word = "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
            self._line("✗", "red", f"{doing}: {word}", time.perf_counter() - begun)
            raise
        self._line("✓", "green", step.done, time.perf_counter() - begun)

    def say(self, what: RenderableType = "") -> None:
        self.console.print(what, markup=False)

    def heading(self, text: str) -> None:
        self.say()
        self.say(Text(text, "bold"))

    def _line(self, mark: str, colour: str, text: str, seconds: float) -> None:
        line = Text(f"  {mark} ", colour)
        line.append(f"{text} ", "")
        line.append(f"({duration(seconds)})", "dim")
        self.say(line)
