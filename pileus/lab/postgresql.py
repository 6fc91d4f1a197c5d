"""A private PostgreSQL from its binaries, on a free loopback port: for the lab, and for tests, benches and chaos runs.

    with PostgresServer() as server:                 # or: async with; or start() … stop()
        server.url(NAME)                             # postgresql://pileus@127.0.0.1:PORT/NAME
        server.kill(); server.start()                # kill -9 of everything, then the same data on the same port
        server.pause(); server.resume()              # it does not answer for a while, without an error
        server.restart()                             # in good order

`server.execute(SQL, …)` runs statements as superuser, which takes a password that is made anew each time: a superuser runs programs.
Everybody else on this machine gets in without one: the data are for what may be lost.
`start`, `stop`, `kill` and `restart` block for up to a second. As root the server runs as the user `postgres`, else as who asks.
Without fsync the data are in memory where there is enough: a kill -9 of the server does not harm them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

from pileus.errors import StartupError
from pileus.lab.tied import tied

LIMIT = 30.0
"""Seconds in which a server must have started or ended."""
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
MEMORY_NEEDED = 1 << 30
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "60s",
    "logging_collector": "off",
}
HBA = "host all postgres 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust"
ROLES = """
CREATE ROLE pileus LOGIN CREATEDB;
GRANT pg_monitor TO pileus;
"""


def programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs; None: there is none."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists() and (path / "initdb").exists()]
    return max(found, key=lambda path: int(re.sub(r"\D.*", "", path.parent.name) or 0), default=None)


class PostgresServer:
    """See the module. `fsync`: whether a commit is on the disk; `settings`: more of postgresql.conf; `folder`: where its data go, in a
    folder of their own (the user `postgres` must get through); `tied`: it ends with the thread that starts it, whatever ends that.
    """

    hba, roles = HBA, ROLES

    def __init__(
        self, *, fsync: bool = False, settings: Mapping[str, str] | None = None, folder: Path | None = None, tied: bool = False
    ) -> None:
        found = programs()
        if found is None:
            raise StartupError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        self._programs = found
        self._settings = {**SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = folder
        self._password = secrets.token_urlsafe(18)
        self._tied = tied
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has said."""
        assert self._folder is not None, "never started"
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str = "postgres", *, user: str = "pileus") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when connections are taken. The first time data and port are made; later they are the same. Raises StartupError."""
        assert self._process is None, "started already"
        first = self._folder is None
        if first:
            self._initialise()
        self._run()
        if first:
            self._psql(self.roles)

    def stop(self) -> None:
        """End it (fast: connections are cut), and remove its data."""
        self._end(signal.SIGINT)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def restart(self) -> None:
        self._end(signal.SIGINT)
        self._run()

    def kill(self) -> None:
        """kill -9 of the server and all its processes; `start` goes on with the same data and port."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def cpu(self) -> float:
        """Seconds of CPU that the server's living processes and its ended children have used."""
        ticks = 0
        for pid in (self.pid, *self._children()):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += sum(int(field) for field in fields[11 : 15 if pid == self.pid else 13])
        return ticks / os.sysconf("SC_CLK_TCK")

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        """Each by itself, outside a transaction, as superuser."""
        connection = await asyncpg.connect(self.url(database, user="postgres"), password=self._password, timeout=LIMIT)
        try:
            for statement in statements:
                await connection.execute(statement, timeout=LIMIT)
        finally:
            await connection.close(timeout=LIMIT)

    def _initialise(self) -> None:
        # By itself not in the caller's folders: those may be closed to other users, and PostgreSQL is one.
        quick = self._settings["fsync"] == "off" and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
        self._folder = Path(tempfile.mkdtemp(prefix="pileus-postgresql-", dir=self._parent or (MEMORY if quick else None)))
        secret = self._folder / "password"
        secret.touch(0o600)
        secret.write_text(self._password)
        if self._as:
            for place in (self._folder, secret):
                shutil.chown(place, "postgres", "postgres")
        initdb = [
            str(self._programs / "initdb"),
            "-D",
            str(self._folder / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            f"--pwfile={secret}",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run(
            [*initdb, "--locale=C"], cwd=self._folder, check=True, timeout=LIMIT, stdout=subprocess.DEVNULL, env=self._environ(), **self._as
        )
        secret.unlink()
        (self._folder / "data" / "pg_hba.conf").write_text(self.hba + "\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def _environ(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}

    def _run(self) -> None:
        assert self._folder is not None
        data = self._folder / "data"
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", data, "-p", str(self.port), *options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ(),
                start_new_session=True,
                preexec_fn=tied(signal.SIGQUIT) if self._tied else None,
                **self._as,
            )
        limit = time.monotonic() + LIMIT
        while not self._ready(data / "postmaster.pid"):
            if self._process.poll() is not None or time.monotonic() > limit:
                said = self.log[-2000:]
                self._end(signal.SIGKILL)
                raise StartupError(f"PostgreSQL did not start:\n{said}")
            time.sleep(0.005)

    def _ready(self, file: Path) -> bool:
        """The file's first line is the server's pid, its eighth how it is."""
        with contextlib.suppress(OSError):
            lines = file.read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def _children(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in (self.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        children = self._children()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:  # the others would end by themselves a little later, and hold the data until then
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            self._process.wait(LIMIT)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait(LIMIT)
            self._process = None
        limit = time.monotonic() + LIMIT
        while any(_alive(pid) for pid in children) and time.monotonic() < limit:
            time.sleep(0.002)

    def _psql(self, script: str) -> None:
        command = [str(self._programs / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", self.url(user="postgres")]
        environ = self._environ() | {"PGPASSWORD": self._password}
        subprocess.run(command, input=script.encode(), check=True, timeout=LIMIT, stdout=subprocess.DEVNULL, env=environ)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
