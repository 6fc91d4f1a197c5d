"""Starts that cannot be: one clear line, an exit code, no traceback, nothing left running."""

from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.rig import Rig, command, ended_with, environment, free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, and for anybody: Open vSwitch's sockets allow no long paths."""
    made = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


def up(state: Path, *more: str, port: int | None = None) -> list[str]:
    return command("up", "--state", str(state), "--hypervisor", "qemu", "--listen", f"127.0.0.1:{port or free_port()}", *more)


def refused(arguments: list[str], *words: str, settings: dict[str, str] | None = None) -> None:
    code, said = ended_with(arguments, settings)
    assert code > 0, said
    assert len(said.strip().splitlines()) == 1, said
    for word in words:
        assert word in said, said


def test_port_taken(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(up(folder / "s", port=port), f"127.0.0.1:{port}", "--listen")


def test_state_folder_in_use(cloud: Rig) -> None:
    refused(up(cloud.state), str(cloud.state), "in use", str(cloud.pid))
    assert cloud.call("GET", "/compute/v2.1/servers") is not None


def test_state_folder_of_a_newer_version(folder: Path) -> None:
    state = folder / "s"
    state.mkdir()
    database = sqlite3.connect(state / "pileus.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    refused(up(state), "pileus.db", "newer")


def test_state_folder_that_cannot_be_made(folder: Path) -> None:
    (folder / "file").write_text("")
    refused(up(folder / "file" / "s"), str(folder / "file"))


def test_emulator_missing(folder: Path) -> None:
    refused(up(folder / "s"), "qemu-system-none", settings={"PILEUS_HOST__GUEST_EMULATOR": "qemu-system-none"})
    assert not (folder / "s").exists()


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""Another user, who may read this checkout wherever it is, and no more."""


def test_not_root(folder: Path) -> None:
    refused([*NOBODY, *up(folder / "s")], "not root")


def test_not_root_and_whatever_is_possible(folder: Path) -> None:
    """`auto` takes simulated guests, and says why in one line."""
    port = free_port()
    arguments = [*NOBODY, *command("up", "--state", str(folder / "s"), "--listen", f"127.0.0.1:{port}")]
    process = subprocess.Popen(arguments, env=environment({}), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "1 simulated host (not root)" in process.stdout.readline()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_setting_that_cannot_be(folder: Path) -> None:
    refused(up(folder / "s"), "host.delete_concurrency", settings={"PILEUS_HOST__DELETE_CONCURRENCY": "none"})
