"""tools/install-parts, with apt, dpkg and id replaced by small programs that note how they are called."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install-parts"
PARTS = ("qemu-system-x86", "qemu-utils", "openvswitch-switch", "dnsmasq-base", "iproute2")
ENGINES = ("postgresql", "nats-server", "systemd", "chromium")


@dataclass
class Machine:
    """A make-believe Debian: what is installed, what the package lists know, how often installing fails first."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        for name in ("installed", "known", "calls"):
            (self.folder / name).touch()
        self.program("id", "echo 0")
        self.program("python3", "exit 0")
        self.program("dpkg-query", 'for last; do :; done; grep -qx "$last" $D/installed && printf installed')
        self.program("apt-cache", 'grep -qx "$2" $D/known')
        self.program(
            "apt-get",
            'echo "$1" >>$D/calls\n'
            'if [ "$1" = update ]; then cp $D/all $D/known; exit 0; fi\n'
            "cp $POLICY_RC_D $D/policy-during\n"
            "cp $CREATECLUSTER_D/pileus.conf $D/cluster-during 2>/dev/null\n"
            "if [ -e $D/fail ]; then rm $D/fail; echo 'E: no such file'; exit 100; fi\n"
            'for each; do case "$each" in -*|install|*::*) ;; *) echo "$each" >>$D/installed ;; esac; done',
        )
        (self.folder / "all").write_text("\n".join((*PARTS, *ENGINES, "busybox-static", "python3-venv", "zstd")) + "\n")

    @property
    def policy(self) -> Path:
        return self.folder / "policy-rc.d"

    def program(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/sh\nD={self.folder}\n{text}\n")
        file.chmod(0o755)

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "POLICY_RC_D": str(self.policy),
            "CREATECLUSTER_D": str(self.folder / "createcluster.d"),
        }
        return subprocess.run([SCRIPT, *arguments], env=env, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_missing_is_listed_and_installed_without_starting_daemons(machine: Machine) -> None:
    machine.write("installed", "iproute2")
    machine.write("known", *PARTS, "busybox-static")
    done = machine.run()
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stderr.splitlines() if line.startswith("  ") and line.split()[0] in PARTS]
    assert listed == [part for part in PARTS if part != "iproute2"]
    assert sorted(machine.lines("installed")) == sorted(PARTS)
    assert machine.lines("calls") == ["install"]
    assert machine.lines("policy-during")[-1] == "exit 101"
    assert not machine.policy.exists()


def test_a_second_run_does_and_says_nothing(machine: Machine) -> None:
    machine.write("installed", *PARTS)
    machine.write("known", "busybox-static")
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr, machine.lines("calls")) == (0, "", "", [])


def test_package_lists_are_fetched_when_they_do_not_know_what_is_wanted(machine: Machine) -> None:
    assert machine.run().returncode == 0
    assert machine.lines("calls") == ["update", "install"]


def test_outdated_lists_are_fetched_anew_once(machine: Machine) -> None:
    machine.write("known", *PARTS, "busybox-static")
    machine.write("fail")
    assert machine.run().returncode == 0
    assert machine.lines("calls") == ["install", "update", "install"]


def test_the_machines_own_policy_comes_back_even_after_a_failure(machine: Machine) -> None:
    machine.write("known", *PARTS, "busybox-static")
    machine.write("policy-rc.d", "#!/bin/sh", "exit 104")
    machine.program("apt-get", "echo 'E: broken'; exit 100")
    done = machine.run()
    assert done.returncode != 0
    assert "E: broken" in done.stderr
    assert machine.lines("policy-rc.d") == ["#!/bin/sh", "exit 104"]
    assert [path.name for path in machine.folder.glob("policy-rc.d*")] == ["policy-rc.d"]


def test_a_policy_that_a_killed_run_left_is_not_kept(machine: Machine) -> None:
    machine.write("known", *PARTS, "busybox-static")
    machine.write("policy-rc.d", "#!/bin/sh", "# made by Pileus while it installs packages", "exit 101")
    machine.write("policy-rc.d.kept-by-pileus", "#!/bin/sh", "exit 104")
    assert machine.run().returncode == 0
    assert machine.lines("policy-rc.d") == ["#!/bin/sh", "exit 104"]


def test_who_is_not_root_gets_one_line(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "Not root: no packages are installed.\n")
    assert machine.run("python").stderr == ""
    assert machine.lines("calls") == []


def test_for_python_alone_only_what_makes_a_venv_is_installed(machine: Machine) -> None:
    machine.write("known", "python3-venv")
    machine.program("python3", "exit 1")
    done = machine.run("python")
    assert done.returncode == 0, done.stderr
    assert machine.lines("installed") == ["python3-venv"]


def test_the_engines_come_with_the_tests_only_and_without_a_cluster(machine: Machine) -> None:
    assert machine.run().returncode == 0
    assert sorted(machine.lines("installed")) == sorted(PARTS)
    assert not (machine.folder / "cluster-during").exists()
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    assert sorted(machine.lines("installed")) == sorted((*PARTS, *ENGINES))
    assert machine.lines("cluster-during")[-1] == "create_main_cluster = false"
    assert not (machine.folder / "createcluster.d").exists()
    assert machine.run("test").stderr == ""
