"""A private nats-server on a free loopback port: for the lab, and for tests, benches and chaos runs.

    with NatsServer(folder) as server:              # folder: a temporary one of the caller's
        settings.Bus(url=server.url)
        server.kill()                               # kill -9; `stop()` ends it politely
        server.start()                              # again, on the same port
        server.freeze(); server.thaw()              # SIGSTOP, SIGCONT

`NatsServer(folder, config="…")` adds lines to its configuration; `NatsServer(folder, file=path)` runs a whole configuration of the
caller's, whose `listen` must be `server.address`: so make it with `NatsServer(folder, port=free_port(), file=path)`. All methods are
synchronous and return when what they say is so; `start()` raises StartupError with the server's own log when it does not come up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from pileus.errors import StartupError
from pileus.lab.tied import tied

LIMIT = 10.0
"""Seconds that the server may take to start, or to end."""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program() -> str:
    """The nats-server to run. Raises StartupError where there is none."""
    found = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise StartupError("nats-server is not installed (Debian: apt-get install nats-server)")
    return found


class NatsServer:
    """See the module. `url` is where clients connect, `pid` the process (None: not running), `log` the server's log file. `tied`: it
    ends with the thread that starts it, whatever ends that."""

    def __init__(self, folder: Path, *, config: str = "", file: Path | None = None, port: int = 0, tied: bool = False) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"nats://{self.address}"
        self.log = folder / "nats.log"
        self._config = config
        self._file = file
        self._tied = tied
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Run it, and return when it takes clients. Does nothing where it runs already."""
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file
        if file is None:
            file = self.folder / "nats.conf"
            file.write_text(f'listen: "{self.address}"\n{self._config}\n')
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program(), "-c", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._tied,  # a Ctrl-C is for who tied it
                preexec_fn=tied(signal.SIGKILL) if self._tied else None,
            )
        ends = time.monotonic() + LIMIT
        while not self._greets():
            if self._process.poll() is not None or time.monotonic() > ends:
                self.kill()
                raise StartupError(f"nats-server did not start: {self.log.read_text()}")
            time.sleep(0.002)

    def stop(self) -> None:
        """End it as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def reload(self) -> None:
        """Let it read its configuration again (SIGHUP), and return when it says that it has."""
        before = self.log.read_text().count("Reloaded server configuration")
        self._signal(signal.SIGHUP)
        ends = time.monotonic() + LIMIT
        while self.log.read_text().count("Reloaded server configuration") <= before:
            if time.monotonic() > ends:
                raise StartupError(f"nats-server did not reload: {self.log.read_text()}")
            time.sleep(0.002)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _greets(self) -> bool:
        """Whether it says INFO: then it takes clients."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as probe:
            return probe.recv(4) == b"INFO"
        return False
