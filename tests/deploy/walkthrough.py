"""docs/MANY-MACHINES.md, carried out: its blocks of shell, in order, on the machines that their first lines name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.machines import ROOT, Machine
from tests.engines.postgresql import programs

DOCUMENT = ROOT / "docs" / "MANY-MACHINES.md"
ADDRESSES = {"control": "192.0.2.10", "compute1": "192.0.2.11", "compute2": "192.0.2.12"}
HOSTS = ("compute1", "compute2")
STATE = Path("var/lib/pileus-host")

PROGRAMS = {
    "pileus": 'exec {python} -m pileus "$@"',
    "openstack": 'exec {python} -m openstackclient.shell "$@"',
    "systemctl": 'exec {python} -m tests.deploy.systemctl "$@"',
    # `scp FILE root@ADDRESS:/etc/pileus/NAME`
    "scp": 'to=${{2#root@}}; address=${{to%%:*}}; cp "$1" "$(readlink {folder}/of-$address)/etc/${{to#*:/etc/pileus/}}"',
}


@dataclass(frozen=True)
class Block:
    machines: tuple[str, ...]
    script: str


def blocks() -> list[Block]:
    """Those that name machines."""
    found = re.findall(r"^```sh ([a-z0-9 ]+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(tuple(names.split()), script) for names, script in found]


@dataclass
class ThreeMachines:
    folder: Path
    machines: dict[str, Machine]
    left: list[Block] = field(default_factory=blocks)
    said: str = ""

    @property
    def control(self) -> Machine:
        return self.machines["control"]

    def follow(self, until: str) -> None:
        """Carry out the document up to the next block in which this stands; `said` is what that printed."""
        self.said = ""
        while until not in self.left[0].script:
            self._carry_out(self.left.pop(0))

    def take(self, word: str) -> None:
        """Carry out the one block in which this stands, whatever is before it; `said` is what that printed."""
        [block] = [block for block in self.left if word in block.script]
        self.left.remove(block)
        self.said = ""
        self._carry_out(block)

    def _carry_out(self, block: Block) -> None:
        with ThreadPoolExecutor() as beside:
            self.said += "".join(beside.map(lambda name: self._run(self.machines[name], block), block.machines))

    def _run(self, machine: Machine, block: Block) -> str:
        said = machine.run("".join(machine.exports) + block.script)
        machine.exports += re.findall(r"^export .*\n", block.script, re.MULTILINE)
        return said


@contextmanager
def three_machines(folder: Path) -> Iterator[ThreeMachines]:
    """Cabled, installed, and with an empty PostgreSQL on control. They vanish at the end."""
    (folder / "programs").mkdir()
    for name, text in PROGRAMS.items():
        file = folder / "programs" / name
        file.write_text("#!/bin/bash\nset -eu\n" + text.format(python=sys.executable, folder=folder) + "\n")
        file.chmod(0o755)
    for name, address in ADDRESSES.items():
        (folder / f"of-{address}").symlink_to(folder / name)
    with ExitStack() as stack:
        machines = {}
        for name in ("wire", *ADDRESSES):
            machines[name] = Machine(name, folder)
            stack.callback(machines[name].close)
        _cable(machines)
        _install_postgresql(machines["control"])
        for name in HOSTS:  # as `systemctl edit` would: no proof of KVM beside the test, it would take a core for seconds
            unit = machines[name].root / "etc/systemd/system/pileus-host.service"
            unit.write_text(unit.read_text().replace("[Install]", "Environment=PILEUS_HOST__ACCELERATION=tcg\n[Install]"))
        yield ThreeMachines(folder, machines)


def _cable(machines: dict[str, Machine]) -> None:
    """eth0 of all in one network, eth1 of the hosts in another; the bridges are the fourth machine's."""
    wire = machines["wire"]
    wire.run("for name in lan tunnels; do ip link add $name type bridge; ip link set $name up; done")
    for name, address in ADDRESSES.items():
        for device, bridge in (("eth0", "lan"), ("eth1", "tunnels"))[: 2 if name in HOSTS else 1]:
            port = f"{name}-{device[-1]}"
            words = ["nsenter", f"--target={wire.pid}", "--net", "ip", "link", "add", port, "type", "veth", "peer", "name", device]
            subprocess.run([*words, "netns", str(machines[name].pid)], check=True, capture_output=True)
            wire.run(f"ip link set {port} master {bridge} up")
        machines[name].run(f"ip address add {address}/24 dev eth0; ip link set eth0 up")


def _install_postgresql(machine: Machine) -> None:
    """What Debian's package makes of it: it answers on 127.0.0.1 with passwords, on its socket to who is the user."""
    folder = programs()
    assert folder is not None
    machine.run(
        f"""
        install -d -o postgres -g postgres /var/lib/pileus-postgresql /run/postgresql
        cd /var/lib/pileus-postgresql
        runuser -u postgres -- {folder}/initdb -D data -A peer --no-sync -E UTF8 --locale=C >/dev/null
        echo 'local all postgres peer
        host all all 127.0.0.1/32 scram-sha-256' >data/pg_hba.conf
        setsid runuser -u postgres -- {folder}/postgres -D data -p 5432 -c fsync=off -c unix_socket_directories=/run/postgresql \
            -c listen_addresses=127.0.0.1 </dev/null >log 2>&1 &
        for ((turn = 0; turn < 500; turn++)); do
            runuser -u postgres -- psql -qc 'select 1' >/dev/null 2>&1 && exit
            sleep 0.02
        done
        cat log; exit 1
        """
    )


def programs_missing() -> str:
    """What else the walk-through needs beside a real host's parts; empty: it is there."""
    gone = [name for name in ("nats-server", "nsenter", "unshare", "psql", "runuser") if shutil.which(name, path=_path()) is None]
    return ", ".join([*gone, *(["postgresql"] if programs() is None else [])])


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
