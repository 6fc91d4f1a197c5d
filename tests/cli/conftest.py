"""The command as a user has it: a process of its own, and a simulated cloud that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pileus.cli.client import Client

LIMIT = 60.0
Run = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PILEUS_") and name != "COLUMNS"}
    return clean | more


def pileus(*arguments: str | Path, given: str = "", cwd: Path | None = None, **env: str) -> Run:
    """Run the command to its end."""
    command = [sys.executable, "-m", "pileus", *map(str, arguments)]
    return subprocess.run(command, input=given, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=LIMIT, check=False)


@dataclass
class Cloud:
    """A cloud under way. `make` makes a server and waits until it is no longer being built; its body."""

    state: Path
    process: subprocess.Popen[str]

    def run(self, *arguments: str | Path, given: str = "") -> Run:
        return pileus(*arguments, "--state", self.state, given=given)

    def client(self) -> Client:
        return Client.of_state(self.state)

    def make(self, name: str, **more: Any) -> dict[str, Any]:
        with self.client() as client:
            flavor = next(each["id"] for each in client.get("compute", "/flavors")["flavors"] if each["name"] == "m1.tiny")
            body = {"name": name, "flavorRef": flavor, "imageRef": "", "networks": "auto", **more}
            server_id = client.post("compute", "/servers", {"server": body})["server"]["id"]
            return self.settled(client, server_id)

    def settled(self, client: Client, server_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            server: dict[str, Any] = client.get("compute", f"/servers/{server_id}")["server"]
            if server["status"] != "BUILD" and server["OS-EXT-STS:task_state"] is None:
                return server
            time.sleep(0.01)
        raise AssertionError(f"server {server_id} is still {server['status']}")

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not true():
            assert time.monotonic() < deadline, true
            time.sleep(0.01)


@contextlib.contextmanager
def running(state: Path, hypervisor: str = "simulated", **env: str) -> Iterator[Cloud]:
    """`pileus up` until the end of the block."""
    command = [sys.executable, "-m", "pileus", "up", "--state", str(state), "--listen", "127.0.0.1:0", "--hypervisor", hypervisor]
    state.parent.mkdir(parents=True, exist_ok=True)
    with (state.parent / "up.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(**env))
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert "is up" in said, (state.parent / "up.log").read_text()
        yield Cloud(state, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LIMIT)
        finally:
            process.kill()
            process.stdout.close()


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One simulated cloud for all tests that do not end it."""
    with running(tmp_path_factory.mktemp("cloud") / "state") as started:
        yield started


@pytest.fixture
def one_line() -> Callable[[Run], str]:
    """Checks the law of refusals: exit code 1, one line on stderr that begins with the command's name; the line."""

    def check(run: Run) -> str:
        assert run.returncode == 1, run
        lines = run.stderr.splitlines()
        assert len(lines) == 1, run.stderr
        assert lines[0].startswith("pileus: ")
        return lines[0]

    return check
