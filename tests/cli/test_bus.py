"""`pileus bus` and `pileus host`: from an empty folder to a host on a real nats-server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pileus import configuration
from pileus.bus.opening import open_bus
from tests.cli.conftest import Run, pileus
from tests.engines.nats import NatsServer, free_port


def done(run: Run) -> str:
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


async def test_from_nothing_to_a_host_on_the_bus(tmp_path: Path) -> None:
    folder, installed, port = tmp_path / "bus", tmp_path / "installed", free_port()
    told = done(pileus("bus", "setup", folder, "--listen", f"127.0.0.1:{port}", "--tls-name", "localhost", "--installed", installed))
    assert str(folder / "nats.conf") in told
    cloud = tmp_path / "cloud.toml"
    cloud.write_text(
        '[api]\npublic_url = "http://api.example:8774"\n[compute]\nplug_signal = "callback"\nvif_plugging_timeout = 60.5\n'
        '[host]\nname = "not this one"\nbridge_mappings = {physnet1 = "eth1"}\n[identity]\ntoken_lifetime = 60\n'
    )
    told = done(
        pileus(
            "host",
            "add",
            "h1",
            "--bus-dir",
            folder,
            "--config",
            cloud,
            "--installed",
            installed,
            "--expires",
            "30",
            "--tunnel-address",
            "198.51.100.11/24",
            "--tunnel-device",
            "eth1",
            PILEUS_STATE="x",
        )
    )
    assert "not set" not in told
    assert "host.api_url is not set" in done(pileus("host", "add", "lab", "--hollow", "--bus-dir", folder, "--installed", installed))
    listed = done(pileus("host", "list", "--bus-dir", folder)).splitlines()
    assert [line.split()[0] for line in listed] == ["h1", "lab"]
    assert "until" in listed[0]
    assert "--hollow" in listed[1]
    installed.mkdir()
    for file in (folder / "control.creds", folder / "hosts" / "h1.creds"):
        shutil.copy(file, installed)
    shutil.copy(folder / "tls" / "ca.pem", installed / "bus-ca.pem")
    found, origins = configuration.load(folder / "hosts" / "h1.toml", environ={})
    assert (found.host.name, found.host.api_url, found.host.bridge_mappings) == ("h1", "http://api.example:8774", {"physnet1": "eth1"})
    assert (found.host.tunnel_address, found.host.tunnel_device) == ("198.51.100.11/24", "eth1")
    assert (found.compute.plug_signal, found.compute.vif_plugging_timeout) == ("callback", 60.5)
    assert not [key for key in origins if key.startswith(("identity.", "api.", "state"))]
    with NatsServer(tmp_path, port=port, file=folder / "nats.conf"):
        host = await open_bus(found, name="host", host=found.host.name)
        control = await open_bus(configuration.load(folder / "control.toml", environ={})[0], name="control")
        await host.close()
        await control.close()
    assert "SIGHUP" in done(pileus("host", "remove", "h1", "--bus-dir", folder))
    assert "h1" not in done(pileus("host", "list", "--bus-dir", folder))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bus", "setup", "{old}"), ("holds a bus already",)),
        (("bus", "setup", "{new}", "--listen", "4222"), ("--listen 4222", "ADDR:PORT")),
        (("bus", "setup", "{new}", "--tls-name", "a b"), ("--tls-name", "'a b'")),
        (("bus", "setup", "{old}/hosts.json"), ("hosts.json",)),
        (("host", "add", "h1", "--bus-dir", "{new}"), ("pileus bus setup", "No such file")),
        (("host", "add", "a b", "--bus-dir", "{old}"), ("'a b'", "no name for a host")),
        (("host", "add", "../x", "--bus-dir", "{old}"), ("no name for a host",)),
        (("host", "add", "there", "--bus-dir", "{old}"), ("has credentials already", "pileus host remove there")),
        (("host", "add", "h1", "--bus-dir", "{old}", "--api-url", "nowhere"), ("host.api_url",)),
        (("host", "remove", "h1", "--bus-dir", "{old}"), ("no host h1", "pileus host list")),
        (("host", "list", "--bus-dir", "{new}"), ("pileus bus setup",)),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, one_line: Callable[[Run], str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    done(pileus("bus", "setup", old, "--listen", "127.0.0.1:4222"))
    done(pileus("host", "add", "there", "--bus-dir", old))
    line = one_line(pileus(*[each.format(old=old, new=new) for each in arguments]))
    assert all(word in line for word in words), line
