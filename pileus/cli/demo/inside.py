"""Looking from inside: a guest's shell on its serial console."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from pileus.cli.client import Client
from pileus.cli.console import connect
from pileus.errors import StartupError
from pileus.tinyguest import ADDRESS, ECHO_PORT, READY

BOOT_LIMIT = 120.0
ANSWER_LIMIT = 30.0
LOOK_EVERY = 0.05


class NotProved(StartupError):
    """Something is not as it was said to be."""


def wait_for_boot(client: Client, server: dict[str, Any]) -> None:
    """Until the guest says on its serial console that it is in userspace and has its address. Raises NotProved."""
    deadline = time.monotonic() + BOOT_LIMIT
    log = ""
    while time.monotonic() < deadline:
        log = client.post("compute", f"/servers/{server['id']}/action", {"os-getConsoleOutput": {}})["output"]
        if READY in log and ADDRESS in log:
            return
        time.sleep(LOOK_EVERY)
    last = "\n    ".join(log.strip().splitlines()[-8:]) or "(nothing)"
    missing = "an address from DHCP" if READY in log else "life"
    raise NotProved(f"{server['name']} has shown no sign of {missing} within {BOOT_LIMIT:.0f} s; the end of its console:\n    {last}")


class Shell:
    """The root shell that the small guest has on its serial port."""

    def __init__(self, state: Path, server: dict[str, Any]) -> None:
        self.name = server["name"]
        self._line: socket.socket = connect(state, server["id"], server["name"], server["status"])

    def close(self) -> None:
        self._line.close()

    def ask(self, command: str) -> tuple[int, str]:
        """Run a command in the guest: its exit code and what it wrote. Raises NotProved when it does not answer."""
        mark = secrets.token_hex(4)
        # The shell echoes what is typed: the quotes keep the marks in the command from looking like those in its output.
        self._line.sendall(f"echo 'B''{mark}'; {command}; echo 'E''{mark}' $?\n".encode())
        found = re.search(rf"B{mark}\r?\n(.*?)E{mark} (\d+)", self._read_until(f"E{mark} ", command), re.DOTALL)
        if found is None:
            raise NotProved(f"{self.name} answered {command!r} with what cannot be read")
        return int(found[2]), found[1].replace("\r", "").strip()

    def addresses(self) -> set[str]:
        """The IPv4 addresses of its first network device."""
        _, text = self.ask("ip -4 -o addr show dev eth0")
        return set(re.findall(r"inet (\d+(?:\.\d+){3})/", text))

    def ping(self, address: str) -> float:
        """Average round trip in milliseconds of three pings, all of which must be answered. Raises NotProved."""
        ipaddress.ip_address(address)
        _, text = self.ask(f"ping -c 3 -i 0.2 -W 2 {address}")
        received = re.search(r"(\d+) packets received", text)
        times = re.search(r"= [\d.]+/([\d.]+)/[\d.]+ ms", text)
        if received is None or received[1] != "3" or times is None:
            raise NotProved(f"{self.name} does not reach {address} by ping: {text.splitlines()[-1] if text else 'no answer'}")
        return float(times[1])

    def tcp(self, address: str) -> None:
        """What is sent to the other guest's echo port must come back. Raises NotProved."""
        ipaddress.ip_address(address)
        word = f"hello-{secrets.token_hex(4)}"
        _, text = self.ask(f"echo {word} | timeout 10 nc -w 5 {address} {ECHO_PORT}")
        if text != word:
            raise NotProved(f"{self.name} does not reach {address} by TCP: sent {word!r}, got {text!r}")

    def _read_until(self, end: str, command: str) -> str:
        data, deadline = b"", time.monotonic() + ANSWER_LIMIT
        wanted = re.compile(re.escape(end).encode() + rb"\d+\r?\n")
        while not wanted.search(data):
            self._line.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                more = self._line.recv(65536)
            except TimeoutError:
                more = b""
            if not more:
                raise NotProved(
                    f"{self.name} did not answer {command!r} within {ANSWER_LIMIT:.0f} s: {data[-200:].decode(errors='replace')!r}"
                )
            data += more
        return data.decode(errors="replace")
