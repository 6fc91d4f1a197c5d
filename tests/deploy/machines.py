"""Machines made of namespaces: each has its own network, processes, host name, /run, and writes of its own over /etc, /opt and /var/lib.

All of a machine ends with its first process: kill that, and no process, mount, namespace or device of it is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 60.0

FIRST_PROCESS = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
os.write(1, b"!")
while True:
    signal.sigwait({signal.SIGCHLD})
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""

BECOME = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
layers=$1/layers
mkdir $layers
mount -t tmpfs tmpfs $layers
for place in etc opt var/lib; do
    mkdir -p $layers/$place/up $layers/$place/work
    mount -t overlay overlay -o lowerdir=/$place,upperdir=$layers/$place/up,workdir=$layers/$place/work /$place
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /etc/pileus /etc/systemd/system /var/lib/pileus-host /opt/pileus/bin /run/netns /run/lock
mkdir $1/etc
mount --bind $1/etc /etc/pileus
hostname $2
ip link set lo up
cp $1/../programs/* /opt/pileus/bin/
cp $3/deploy/systemd/*.service /etc/systemd/system/
exec $4 -c "$5"
"""


class Machine:
    """`folder`: what it shares with the test, `etc` in it is its /etc/pileus."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.exports: list[str] = []
        words = [
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            BECOME,
            "sh",
        ]
        words += [str(self.folder), name, str(ROOT), sys.executable, FIRST_PROCESS]
        self._outer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._outer.stdout is not None and self._outer.stderr is not None
        if self._outer.stdout.read(1) != b"!":
            raise RuntimeError(f"machine {name}: {self._outer.stderr.read().decode()}")
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        self.pid = int(children[0])

    @property
    def root(self) -> Path:
        """Its files, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def run(self, script: str, *, limit: float = LIMIT, environ: Mapping[str, str] | None = None) -> str:
        """Run a script of bash as root; what it printed. Fails with its errors."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", "--wd=/root"]
        given = {
            "PATH": f"/opt/pileus/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "HOME": "/root",
        }
        done = subprocess.run(
            [*enter, "bash", "-euc", script],
            env={**given, **(environ or {})},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {script}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """The end of what its units have said."""
        return "\n".join(
            f"--- {self.name} {file.name}\n{file.read_text()[-1500:]}" for file in sorted((self.root / "run/units").glob("*.log"))
        )

    def pids(self, word: str) -> list[int]:
        """Its processes whose command line contains this, by the numbers that they have in it."""
        listed = self.run("for each in /proc/[0-9]*; do echo ${each#/proc/} $(tr '\\0' ' ' <$each/cmdline 2>/dev/null); done")
        return [int(line.split()[0]) for line in listed.splitlines() if word in line and " bash -euc " not in line]

    def close(self) -> None:
        """As if the power failed. Nothing where it has already."""
        if self._outer.poll() is not None:
            return
        os.kill(self.pid, signal.SIGKILL)
        self._outer.wait(LIMIT)
        for pipe in (self._outer.stdout, self._outer.stderr):
            assert pipe is not None
            pipe.close()
