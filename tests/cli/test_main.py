from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import pileus as package
from pileus.configuration import describe
from pileus.settings import Settings
from tests.cli.conftest import Cloud, Run, environment, pileus


def test_help_lists_the_commands() -> None:
    told = pileus("--help")
    assert told.returncode == 0
    for command in ("up", "down", "status", "why", "console", "config", "demo", "serve", "db", "bus", "host"):
        assert f"\n  {command} " in told.stdout


@pytest.mark.parametrize(
    ("group", "commands"),
    [("serve", ("api", "worker", "network-rpc", "host")), ("db", ("upgrade",)), ("bus", ("setup",)), ("host", ("add",))],
)
def test_help_of_a_group_lists_its_commands(group: str, commands: tuple[str, ...]) -> None:
    told = pileus(group, "--help")
    assert told.returncode == 0
    for command in commands:
        assert f"\n  {command} " in told.stdout


ELSEWHERE = {"alembic", "asyncpg", "nats", "nkeys", "prometheus_client", "sqlalchemy.ext.asyncio"}
"""What only PostgreSQL, NATS or /metrics need: half a second and many megabytes."""


def test_up_on_sqlite_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pileus.choice import Choice
from pileus.cli import main, up
from pileus.configuration import load
settings, _ = load(None, flags={{"state": {str(tmp_path / "state")!r}, "api.listen": "127.0.0.1:0"}})
async def run():
    cloud = up.Cloud(settings, Choice("simulated", "a test"))
    await cloud.start()
    await cloud.close()
asyncio.run(run())
print(*sorted({ELSEWHERE!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_version() -> None:
    assert pileus("--version").stdout == f"pileus {package.__version__}\n"


def test_a_wrong_option_is_a_usage_error() -> None:
    told = pileus("up", "--hosts", "many")
    assert told.returncode == 2
    assert "--hosts" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[compute]\nplug_signall = 'local'\n", ("compute.plug_signall", "pileus config")),
        ("[compute]\nplug_signal = 'post'\n", ("compute.plug_signal", "local | callback")),
        ("[api\n", ("settings file",)),
    ],
)
def test_a_bad_settings_file_is_one_line(tmp_path: Path, one_line: Callable[[Run], str], text: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text(text)
    line = one_line(pileus("up", "--config", file, "--state", tmp_path / "state"))
    assert all(word in line for word in (*words, str(file)))


def test_a_bad_flag_names_its_setting(tmp_path: Path, one_line: Callable[[Run], str]) -> None:
    line = one_line(pileus("up", "--state", tmp_path / "state", "--hypervisor", "xen"))
    assert "host.hypervisor" in line
    assert "auto | qemu | simulated" in line


def test_up_refuses_a_folder_in_use(cloud: Cloud, one_line: Callable[[Run], str]) -> None:
    line = one_line(cloud.run("up", "--listen", "127.0.0.1:0", "--hypervisor", "simulated"))
    assert str(cloud.process.pid) in line


def test_config_shows_every_setting_and_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text("[network]\nmtu = 1400\n")
    told = pileus("config", "--config", file, "--state", "elsewhere", PILEUS_HOST__CONSOLE_CAP="8192")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in told.stdout.splitlines()}
    assert list(rows) == [item.key for item in describe(Settings(), {})]
    assert rows["network.mtu"][:2] == ["1400", str(file)]
    assert rows["host.console_cap"][:2] == ["8192", "environment PILEUS_HOST__CONSOLE_CAP"]
    assert rows["state"][:2] == ['"elsewhere"', "command line"]
    assert rows["compute.plug_signal"] == [
        '"local"',
        "default",
        "Who tells a host that a port is ready: the agent beside it, or OpenStack's way by RPC, REST and RPC.",
        "local | callback",
    ]


def test_config_values_are_toml() -> None:
    told = pileus("config", PILEUS_HOST__BRIDGE_MAPPINGS="physnet=eth1")
    for line in told.stdout.splitlines():
        key, value = line.split("\t")[:2]
        assert "value" in tomllib.loads(f"value = {value}"), key


def test_config_as_json() -> None:
    told = json.loads(pileus("config", "--json").stdout)
    assert {"key": "network.mtu", "value": 1500, "origin": "default"}.items() <= {each["key"]: each for each in told}["network.mtu"].items()


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "pileus", "config"], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert "Traceback" not in done.stderr
