"""Whatever ends a lab, its processes and folders are gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from pileus.errors import StartupError
from pileus.host import privileged
from pileus.host.switch import daemons
from pileus.hosts import missing_for_real
from pileus.lab import postgresql
from pileus.lab.janitor import MEMORY, swept
from pileus.lab.nats import NatsServer
from pileus.lab.postgresql import PostgresServer
from pileus.settings import Settings

LIMIT = 60.0
STORY = (sys.executable, "-m", "pileus", "lab", "story", "--plug-timeout", "5", "--servers", "20", "--hosts", "2", "--cases", "default")
OWNER = """
import sys, time
from pathlib import Path
from pileus.lab.janitor import swept
from pileus.lab.nats import NatsServer
from pileus.lab.postgresql import PostgresServer

with swept() as folder:
    postgres = PostgresServer(folder=folder, tied=True)
    postgres.start()
    server = NatsServer(folder / "nats", tied=True)
    server.start()
    print(folder, postgres.pid, server.pid, flush=True)
    time.sleep(600)
"""


def until(condition: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def of_lab(folder: Path) -> list[int]:
    """Processes that have this folder in their words or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if bytes(folder) in told and alive(int(path.name)) and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def folders(pid: int) -> list[Path]:
    """What the lab's process with this pid has made."""
    return [path for place in (MEMORY, Path("/tmp")) if place.is_dir() for path in place.glob(f"pileus-lab-{pid}-*")]


def test_engines_do_not_outlive_an_owner_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        assert Path(folder).is_dir()
        assert all(alive(int(pid)) for pid in pids)
        owner.kill()
    until(lambda: not any(alive(int(pid)) for pid in pids), "a server outlived its owner")
    until(lambda: not Path(folder).exists(), "the folder outlived its owner")


async def test_only_its_owner_is_a_superuser_of_a_database_server_that_lets_everybody_in() -> None:
    """A superuser runs programs, as who runs the server."""
    with PostgresServer() as server:
        await server.execute("SELECT pg_read_file('PG_VERSION')")
        for password in (None, "", "postgres"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(server.url(user="postgres"), password=password, timeout=LIMIT)
        connection = await asyncpg.connect(server.url(), timeout=LIMIT)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("COPY (SELECT 1) TO PROGRAM 'cat'")
        await connection.close()


def test_a_folder_goes_with_its_use() -> None:
    with swept() as folder:
        (folder / "a").mkdir()
        assert folder.stat().st_mode & 0o777 == 0o711
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_story_that_is_ended_in_the_middle_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        story = subprocess.Popen(STORY, stdout=file, stderr=file)
    try:
        until(lambda: folders(story.pid) or story.poll() is not None, "it made no folder")
        (folder,) = folders(story.pid)
        until(lambda: (folder / "lab_template" / "worker.log").exists(), f"its processes did not start: {log.read_text()}")
        story.send_signal(number)
        code = story.wait(LIMIT)
    finally:
        story.kill()
    assert code == (-9 if number is signal.SIGKILL else 130), log.read_text()
    assert "Traceback" not in log.read_text()
    until(lambda: not folder.exists(), "the folder is left")
    until(lambda: not of_lab(folder), "processes are left")


SWITCH = """
import asyncio, time
from pathlib import Path
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.lab import switchend
from pileus.lab.janitor import swept
from pileus.settings import Host

async def go(folder):
    await OpenVSwitch(folder / "switch", Host()).start()
    print(folder, flush=True)
    await asyncio.sleep(600)

with swept(memory=False, ending=lambda folder: switchend.command(folder / "switch")) as folder:
    asyncio.run(go(folder))
"""


@pytest.mark.skipif(missing_for_real(Settings()) is not None, reason="root and Open vSwitch")
def test_a_switch_does_not_outlive_a_calibration_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SWITCH], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        pids = [daemons.pid_of(folder / "switch", program) for program in ("ovs-vswitchd", "ovsdb-server")]
        namespace = daemons.namespace_name(folder / "switch")
        assert all(pids) and privileged.namespace_exists(namespace)
        owner.kill()
    until(lambda: not any(alive(pid) for pid in pids if pid), "the switch outlived its owner")
    until(lambda: not folder.exists() and not privileged.namespace_exists(namespace), "its folder or namespace is left")


def test_engines_that_are_not_installed_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgresql, "programs", lambda: None)
    with pytest.raises(StartupError, match="PostgreSQL is not installed"):
        PostgresServer()
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(StartupError, match="nats-server is not installed"):
        NatsServer(tmp_path).start()
