"""What a state folder's cloud has on this machine, read from the machine itself and not from Pileus."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path

from pileus.host.switch.daemons import namespace_name
from pileus.host.switch.tables import PORT_KIND, SET_KIND, cookie, kind_of

_SPECIAL = frozenset({"br-int", "lo", "ovs-netdev"})


def pids_with(word: str) -> list[int]:
    """Processes whose command line contains this."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in line:
                found.append(int(process.name))
    return found


def status_of(pid: int, field: str) -> str:
    found = re.search(rf"^{field}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def session_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[3])


class Machine:
    def __init__(self, state: Path) -> None:
        self.state = state
        self.switch = state / "switch"
        self.namespace = namespace_name(self.switch)

    def qemu(self, server_id: str) -> int:
        """The one process of a guest."""
        [pid] = self.qemus(server_id)
        return pid

    def qemus(self, server_id: str) -> list[int]:
        return [pid for pid in pids_with(server_id) if "qemu" in Path(f"/proc/{pid}/comm").read_text()]

    def daemon(self, program: str) -> int:
        """The process of a switch daemon; 0 while there is none."""
        try:
            return int((self.switch / f"{program}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def dnsmasq(self) -> list[int]:
        return pids_with(f"{self.state}/dhcp/")

    def guest_folders(self) -> list[str]:
        folder = self.state / "guests"
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def taps(self) -> list[str]:
        listed = _run("ip", "-n", self.namespace, "-o", "link", "show")
        names = re.findall(r"^\d+: ([^:@]+)", listed, re.MULTILINE)
        return sorted(name for name in names if name.startswith("tap"))

    def switch_ports(self) -> list[str]:
        return sorted(_run("ovs-vsctl", f"--db=unix:{self.switch}/db.sock", "--timeout=10", "list-ports", "br-int").split())

    def flows(self) -> list[str]:
        dumped = _run("ovs-ofctl", "-O", "OpenFlow14", "--timeout=10", "dump-flows", f"{self.switch}/br-int.mgmt")
        return [line for line in dumped.splitlines() if "cookie=" in line]

    def port_flows(self, port_id: str = "") -> list[str]:
        """Flows of this port; of any port without one."""
        if port_id:
            return [line for line, found in self._cookies() if found == cookie(PORT_KIND, port_id)]
        return self.flows_of_kind(PORT_KIND)

    def flows_of_kind(self, kind: int) -> list[str]:
        return [line for line, found in self._cookies() if kind_of(found) == kind]

    def _cookies(self) -> list[tuple[str, int]]:
        return [(line, int(match[1], 16)) for line in self.flows() if (match := re.search(r"cookie=(0x[0-9a-f]+)", line))]

    def dhcp_namespaces(self) -> list[str]:
        tag = hashlib.sha256(str(self.state / "dhcp").encode()).hexdigest()[:6]
        return [name for name in _namespaces() if name.startswith(f"pileus-{tag}-")]

    def guests_left(self) -> list[str]:
        """What servers leave when they go, while the cloud runs on: nothing."""
        left = [f"guest folder {name}" for name in self.guest_folders()]
        left += [f"process of {name}" for name in self.guest_folders() if self.qemus(name)]
        left += [f"device {name}" for name in self.taps()]
        left += [f"switch port {name}" for name in self.switch_ports()]
        left += [f"flow {line}" for kind in (PORT_KIND, SET_KIND) for line in self.flows_of_kind(kind)]
        left += [f"namespace {name}" for name in self.dhcp_namespaces()]
        return left + [f"dnsmasq {pid}" for pid in self.dnsmasq()]

    def everything_left(self) -> list[str]:
        """What is left on the machine after the cloud was taken down with its guests."""
        left = [f"process {pid}: {_words(pid)}" for pid in self.processes_left()]
        return left + [f"namespace {name}" for name in self.namespaces_left()]

    def processes_left(self) -> list[int]:
        servers = self.guest_folders() if (self.state / "guests").is_dir() else []
        return sorted({pid for word in (str(self.state), *servers) for pid in pids_with(word)})

    def namespaces_left(self) -> list[str]:
        return [name for name in _namespaces() if name == self.namespace] + self.dhcp_namespaces()

    def force_away(self) -> None:
        """So that a test that fails burdens no other."""
        for pid in self.processes_left():
            os.kill(pid, signal.SIGKILL)
        for name in self.namespaces_left():
            _run("ip", "netns", "delete", name)


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]
    except OSError:
        return "(ended)"


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.strip()]


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout
