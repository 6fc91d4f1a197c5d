"""A `pileus serve …` as a child process: started, ended, killed, frozen, and what CPU it used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pileus.errors import StartupError
from pileus.lab.tied import tied

LIMIT = 60.0
"""Seconds in which a process must be ready, or have ended."""
READY = b"Ctrl-C ends it."
OURS = ("PILEUS_", "OS_", "NOTIFY_")
"""Variables of this process that its children must not heed."""


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a process that is to have these settings (dotted keys) and none of ours."""
    rest = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    return rest | {"PILEUS_" + key.upper().replace(".", "__"): str(value) for key, value in settings.items()}


class Process:
    """One `pileus serve …` with its children. It is started again with the same words. `tied`: it ends with the thread that starts it,
    whatever ends that; `module`: what of ours is run."""

    def __init__(
        self, name: str, words: Sequence[str], log: Path, environ: Mapping[str, str], *, module: str = "pileus", tied: bool = False
    ) -> None:
        self.name = name
        self.log = log
        self._words = list(words)
        self._environ = dict(environ)
        self._module = module
        self._tied = tied
        self._process: subprocess.Popen[bytes] | None = None
        self._spent = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns at once; `ready` waits."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._said = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
                preexec_fn=tied(signal.SIGTERM) if self._tied else None,
            )

    async def ready(self) -> None:
        """Until it says so. Raises StartupError with its log where it ends instead, TimeoutError."""
        async with asyncio.timeout(LIMIT):
            while READY not in self.news():
                if not self.running:
                    raise StartupError(f"{self.name} did not start: {self.news()[-3000:].decode(errors='replace')}")
                await asyncio.sleep(0.01)

    def kill(self) -> None:
        """kill -9 of it and all its children."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self.running:
            assert self._process is not None
            self._process.terminate()
        self._reap()

    def end(self) -> None:
        """SIGTERM; `stop` waits for what follows."""
        self.tell(signal.SIGTERM)

    def wait(self) -> int:
        """Until it ends by itself: its exit code."""
        assert self._process is not None
        code = self._process.wait(LIMIT)
        self._process = None
        return code

    def used(self, seconds: float) -> None:
        """CPU of an earlier life."""
        self._spent += seconds

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def tell(self, number: signal.Signals) -> None:
        """A signal to it, and not to its children."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    def restart_agents(self) -> None:
        """Of a host: its network agents begin anew, as after an update."""
        self.tell(signal.SIGUSR1)

    def pids(self) -> list[int]:
        """It and its descendants, but those in sessions of their own: a host's guests and switch are no part of its process."""
        if not self.running:
            return []
        assert self._process is not None
        found = [self._process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
                found += [child for child in children if os.getsid(child) == self._process.pid]
        return found

    def cpu(self) -> float:
        """Seconds of CPU that it and its children have used in all their lives."""
        return self._spent + self._cpu_now()

    def _cpu_now(self) -> float:
        return sum(cpu_seconds(pid) for pid in self.pids())

    def news(self) -> bytes:
        """What it has said since its start."""
        with self.log.open("rb") as file:
            file.seek(self._said)
            return file.read()

    def _signal(self, number: signal.Signals) -> None:
        if number is signal.SIGKILL:
            self._spent += self._cpu_now()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None


def cpu_seconds(pid: int) -> float:
    """Seconds that a process has used, with those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
