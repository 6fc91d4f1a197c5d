"""The console, with a socket in the place of a guest's serial port."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pileus.cli.console import connect
from pileus.errors import StartupError
from pileus.host.hypervisor.guestfolder import listen_unix
from tests.cli.conftest import Cloud, environment


@contextmanager
def serial_port(state: Path, server_id: str) -> Iterator[list[bytes]]:
    """A guest that answers each line with `got` and itself, and ends on `bye`; what it was sent."""
    folder = state / "guests" / server_id
    folder.mkdir(parents=True)
    received: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        line, _ = listener.accept()
        with line, suppress(ConnectionError):  # a console that leaves may not have read the last answer
            while data := line.recv(4096):
                received.append(data)
                line.sendall(b"got " + data)
                if b"bye" in data:
                    return

    with ExitStack() as opened:
        listener = opened.enter_context(listen_unix(folder / "console.sock"))
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield received
        thread.join(10)


def test_piped_input_is_typed_and_answers_are_shown(cloud: Cloud) -> None:
    server = cloud.make("piped")
    with serial_port(cloud.state, server["id"]) as received:
        told = cloud.run("console", "piped", given="uname\nbye\n")
    assert (told.returncode, told.stdout) == (0, "got uname\nbye\n")
    assert b"".join(received) == b"uname\nbye\n"


def test_without_more_input_it_leaves_when_the_guest_is_quiet(cloud: Cloud) -> None:
    server = cloud.make("quiet")
    with serial_port(cloud.state, server["id"]):
        told = cloud.run("console", "quiet", given="hello\n")
    assert (told.returncode, told.stdout) == (0, "got hello\n")


def test_at_a_terminal_ctrl_bracket_leaves(cloud: Cloud) -> None:
    server = cloud.make("typed")
    keyboard, terminal = pty.openpty()
    with serial_port(cloud.state, server["id"]) as received, os.fdopen(keyboard, "wb", buffering=0) as keys:
        command = [sys.executable, "-m", "pileus", "console", "typed", "--state", str(cloud.state)]
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, stdin=terminal, env=environment(), **pipe) as process:
            assert process.stderr is not None and process.stdout is not None
            watchdog = threading.Timer(20, process.kill)
            watchdog.start()
            try:
                assert b"Ctrl-] leaves" in process.stderr.readline()
                keys.write(b"\x03ls\r")
                assert process.stdout.read(8) == b"got \x03ls\r"
                keys.write(b"not\x1dsent")
                assert process.wait() == 0
                assert b"it goes on" in process.stderr.read()
            finally:
                watchdog.cancel()
                process.kill()
        os.close(terminal)
    assert b"".join(received) == b"\x03ls\rnot"


def test_a_simulated_guest_has_none(cloud: Cloud) -> None:
    cloud.make("hollow")
    told = cloud.run("console", "hollow")
    assert (told.returncode, told.stderr) == (1, "pileus: hollow has no console: its guest is simulated\n")


def test_a_stopped_real_guest_has_none_now(tmp_path: Path) -> None:
    (tmp_path / "guests").mkdir()
    with pytest.raises(StartupError, match="web is SHUTOFF, so it has no console now"):
        connect(tmp_path, "5e5e", "web", "SHUTOFF")
