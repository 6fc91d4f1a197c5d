"""deploy/systemd and deploy/settings: what they say is known to the program, and what a host's guests live by."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pileus import configuration
from pileus.bus import authority
from pileus.cli.main import app
from tests.deploy.units import FOLDER, read

ROOT = FOLDER.parents[1]
UNITS = sorted(FOLDER.glob("*.service"))
HOSTS = ("pileus-host", "pileus-host-compute", "pileus-host-network")
CONTROL = ("pileus-api", "pileus-worker", "pileus-network-rpc")
PROGRAM = "/opt/pileus/bin/pileus"
EXAMPLES = {"control": "control.toml", "host": "host.toml"}
"""Settings file of a unit → the example of it."""

OF_A_MOUNT_NAMESPACE = (
    "DynamicUser|LoadCredential|SetCredential|MountFlags|BindPaths|BindReadOnlyPaths|ReadWritePaths|ReadOnlyPaths|InaccessiblePaths|ExecPaths|"
    "NoExecPaths|TemporaryFileSystem|RootDirectory|RootImage|MountImages|ExtensionImages|ExtensionDirectories|ProcSubset|"
    "Private[A-Za-z]+|Protect(System|Home|Proc|KernelTunables|KernelModules|KernelLogs|ControlGroups|Clock)"
)
"""Options that give a unit a mount namespace of its own, or a list of devices. Source: systemd.exec(5)."""


def parse(words: list[str]) -> dict[str, Any]:
    """What the program makes of a command line; nothing is run. Raises click's error for what it does not know."""
    command: Any = typer.main.get_command(app)
    rest, context = words, command.context_class(command, info_name="pileus")
    while hasattr(command, "commands"):
        name, found, rest = command.resolve_command(context, rest)
        command, context = found, found.context_class(found, info_name=name, parent=context)
    given: dict[str, Any] = command.make_context(command.name, rest).params
    return given


def command_of(name: str) -> list[str]:
    program, *words = shlex.split(read(FOLDER / f"{name}.service").last("ExecStart"))
    assert program == PROGRAM
    return words


def test_there_is_a_unit_for_each_role() -> None:
    assert {unit.stem for unit in UNITS} == {*HOSTS, *CONTROL, "pileus-nats"}
    roles = {command_of(name)[1] for name in (*HOSTS, *CONTROL)}
    program: Any = typer.main.get_command(app)
    assert roles == set(program.commands["serve"].commands)


@pytest.mark.parametrize("name", [*HOSTS, *CONTROL])
def test_a_units_command_is_one_of_ours(name: str) -> None:
    given = parse(command_of(name))
    config = Path(given["config"])
    assert config.parent == Path("/etc/pileus")
    assert config.stem in EXAMPLES
    if "state" in given:
        assert str(given["state"]) == f"/var/lib/{read(FOLDER / f'{name}.service').last('StateDirectory')}"


def test_a_command_that_is_not_ours_is_noticed() -> None:
    for wrong in (["serve", "everything"], ["serve", "worker", "--state", "/x"], ["serve", "host", "--part"]):
        with pytest.raises(Exception, match=r"No such|requires an argument"):
            parse(wrong)


@pytest.mark.parametrize("name", [*HOSTS, *CONTROL])
def test_what_every_role_needs(name: str) -> None:
    unit = read(FOLDER / f"{name}.service")
    assert (unit.last("Type"), unit.last("Restart"), unit.last("StartLimitIntervalSec")) == ("notify", "always", "0")
    assert unit.last("NoNewPrivileges") == "yes"
    assert int(unit.last("LimitNOFILE")) >= 65536
    for word in unit.all("Environment"):
        configuration.load(environ=dict([word.split("=", 1)]))


@pytest.mark.parametrize("name", HOSTS)
def test_a_hosts_unit_ends_no_guest(name: str) -> None:
    unit = read(FOLDER / f"{name}.service")
    assert (unit.last("KillMode"), unit.last("OOMPolicy"), unit.last("TasksMax")) == ("process", "continue", "infinity")
    assert [option for option in unit.options if re.fullmatch(OF_A_MOUNT_NAMESPACE, option)] == []
    harm = {"MemoryMax", "RuntimeMaxSec", "User", "CapabilityBoundingSet", "SystemCallFilter", "DeviceAllow", "UMask"}
    assert not harm & set(unit.options)


@pytest.mark.parametrize("name", CONTROL)
def test_a_control_role_has_no_rights(name: str) -> None:
    unit = read(FOLDER / f"{name}.service")
    assert (unit.last("DynamicUser"), unit.last("ProtectSystem"), unit.all("CapabilityBoundingSet")) == ("yes", "strict", [""])
    assert unit.last("EnvironmentFile") == "/etc/pileus/control.env"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, sys.executable).replace("/usr/sbin/nats-server", sys.executable)
        (tmp_path / unit.name).write_text(text)
    words = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.service")))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "pileus-" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("file", sorted((ROOT / "deploy" / "settings").glob("*.toml")), ids=lambda file: str(file.stem))
def test_the_examples_are_settings(file: Path) -> None:
    found, origins = configuration.load(file, environ={})
    assert found.bus.url.startswith("tls://") and found.bus.ca == f"/etc/pileus/{authority.CA}"
    assert "database.url" not in origins


def test_the_hosts_example_is_what_the_commands_write(tmp_path: Path) -> None:
    from tests.cli.conftest import pileus

    bus, examples = tmp_path / "bus", ROOT / "deploy" / "settings"
    assert pileus("bus", "setup", bus, "--tls-name", "192.0.2.10").returncode == 0
    more = ("--tunnel-device", "eth1", "--tunnel-address", "198.51.100.11/24", "--config", examples / "control.toml")
    assert pileus("host", "add", "compute1", "--bus-dir", bus, *more).returncode == 0
    assert configuration.load(bus / "hosts" / "compute1.toml", environ={})[0] == configuration.load(examples / "host.toml", environ={})[0]
    written = configuration.load(bus / "control.toml", environ={})[0].bus
    assert written == configuration.load(examples / "control.toml", environ={})[0].bus
