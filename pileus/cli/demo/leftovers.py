"""What a cloud has on this machine, counted: processes, TAPs, switch ports, flows, namespaces, files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

from pileus.cli.statefolder import SWITCH
from pileus.errors import StartupError
from pileus.host import privileged
from pileus.host.privileged import Namespace
from pileus.host.switch.daemons import database_socket, namespace_name

LIMIT = 10.0


@dataclass(frozen=True)
class Count:
    """How many of each. The names of the fields are the words in the table."""

    processes: int = 0
    TAPs: int = 0
    switch_ports: int = 0
    flows: int = 0
    namespaces: int = 0
    files: int = 0

    @classmethod
    def kinds(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def count(home: Path, bridge: str, networks: Collection[str]) -> Count:
    """What the cloud whose files are all in `home` has right now. `networks`: ids, which its DHCP servers' namespaces are named by."""
    switch = home / "state" / SWITCH
    namespace = namespace_name(switch)
    ours = [name for name in privileged.list_namespaces() if name == namespace or any(each in name for each in networks)]
    taps = asyncio.run(_taps(namespace)) if privileged.namespace_exists(namespace) else 0
    ports, flows = _switch(switch, bridge)
    files = sum(len(names) for _, _, names in os.walk(home))
    return Count(len(processes(home)), taps, ports, flows, len(ours), files)


def processes(home: Path) -> list[int]:
    """Processes that name the folder on their command line or have a file in it open; not ourselves."""
    needle, own = str(home), os.getpid()
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [pid for pid in pids if pid != own and _belongs(pid, needle)]


def _belongs(pid: int, needle: str) -> bool:
    with contextlib.suppress(OSError):
        process = Path(f"/proc/{pid}")
        if needle.encode() in (process / "cmdline").read_bytes():
            return True
        return any(_target(link).startswith(needle) for link in (process / "cwd", *(process / "fd").iterdir()))
    return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


async def _taps(namespace: str) -> int:
    inside = Namespace(namespace)
    try:
        return len(await inside.run(privileged.list_taps))
    finally:
        inside.close()


def _switch(folder: Path, bridge: str) -> tuple[int, int]:
    """Ports and flows of the integration bridge; a switch that is not there has none."""
    if not database_socket(folder).exists():
        return 0, 0
    ports = _told(["ovs-vsctl", "--timeout=5", f"--db=unix:{database_socket(folder)}", "list-ports", bridge])
    flows = _told(["ovs-ofctl", "-O", "OpenFlow14", "dump-flows", f"unix:{folder / bridge}.mgmt"])
    return len(ports), sum("cookie=" in line for line in flows)


def _told(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise StartupError(f"{command[0]} does not tell what is on the switch: {str(said).strip()}") from None
    return done.stdout.splitlines()
