"""`pileus console SERVER`: a guest's serial console in this terminal, or fed from a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from pileus.cli.client import Client
from pileus.cli.statefolder import GUESTS, is_known
from pileus.errors import StartupError
from pileus.host.hypervisor.guestfolder import GuestFolder, connect_unix

LEAVE = b"\x1d"
"""Ctrl-]"""

QUIET = 2.0
"""After the end of piped input: seconds without a word from the guest, and we leave."""


def attach(state: Path, ref: str) -> None:
    """Join terminal and guest until Ctrl-], the end of the guest, or the end of piped input. Raises StartupError."""
    server = _on_this_host(state, ref) or _told_by_the_cloud(state, ref)
    with connect(state, server["id"], server["name"], server["status"]) as line:
        if not sys.stdin.isatty():
            _join(line, interactive=False)
            return
        with _raw(sys.stdin.fileno()):
            print(f"Connected to {server['name']}. Enter shows the prompt, Ctrl-] leaves.", end="\r\n", file=sys.stderr, flush=True)
            ended = _join(line, interactive=True)
        print("\nThe guest ended." if ended else f"\nLeft {server['name']}; it goes on.", file=sys.stderr)


def _on_this_host(state: Path, ref: str) -> dict[str, str] | None:
    """A guest by its server's id, where the folder is a host's that knows no cloud to ask (`pileus serve host`)."""
    if is_known(state) or ref != Path(ref).name or not (state / GUESTS / ref).is_dir():
        return None
    return {"id": ref, "name": ref, "status": "not running"}


def _told_by_the_cloud(state: Path, ref: str) -> dict[str, str]:
    if not is_known(state) and (state / GUESTS).is_dir():
        raise StartupError(f"there is no guest {ref} on this host; here servers are known by their ids")
    with Client.of_state(state) as client:
        told: dict[str, str] = client.get("pileus", f"/v1/servers/{quote(ref, safe='')}/timeline")["server"]
        return told


def connect(state: Path, server_id: str, name: str, status: str) -> socket.socket:
    """A connection to a guest's serial port. Raises StartupError in words where there is none."""
    folder = GuestFolder((state / GUESTS).absolute(), server_id)
    try:
        line = connect_unix(folder.console_socket)
    except PermissionError:
        raise StartupError(f"the console of {name} belongs to root; call `pileus console` as root") from None
    except FileNotFoundError:
        if (state / GUESTS).is_dir() and status != "ACTIVE":
            raise StartupError(f"{name} is {status}, so it has no console now") from None
        raise StartupError(f"{name} has no console: its guest is simulated") from None
    except OSError:
        raise StartupError(f"{name} is {status}: nothing answers at its console") from None
    line.setblocking(True)
    return line


def _join(line: socket.socket, *, interactive: bool) -> bool:
    """Carry bytes both ways. True: the guest's side ended."""
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    sources: list[int] = [line.fileno(), keyboard]
    while True:
        ready, _, _ = select.select(sources, [], [], None if keyboard in sources else QUIET)
        if not ready:
            return False
        if line.fileno() in ready:
            data = _received(line)
            if not data:
                return True
            _write_all(screen, data)
        if keyboard in ready:
            typed = os.read(keyboard, 4096)
            before, left, _ = typed.partition(LEAVE) if interactive else (typed, b"", b"")
            try:
                line.sendall(before)
            except OSError:
                return True
            if left:
                return False
            if not typed:
                sources.remove(keyboard)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(65536)
    except ConnectionError:
        return b""


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
