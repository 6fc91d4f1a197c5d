"""The commands on real guests: guests outlive the cloud, `down --guests` ends all, and the next `up` finds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pileus import tinyguest
from pileus.cli.demo.cloud import chunks
from pileus.cli.demo.leftovers import count, processes
from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.cli.conftest import Cloud, pileus, running

pytestmark = pytest.mark.skipif(
    missing_for_real(Settings()) is not None, reason=f"real guests are not possible here: {missing_for_real(Settings())}"
)


def boot(cloud: Cloud, name: str) -> dict[str, Any]:
    """A tiny guest with a 1 GiB disk of its own, up."""
    guest = tinyguest.build(tinyguest.default_folder())
    with cloud.client() as client:

        def upload(kind: str, data: Any, **more: str) -> str:
            image = client.post("image", "/v2/images", {"name": kind, "disk_format": kind, "container_format": kind, **more})
            media = {"Content-Type": "application/octet-stream"}
            client.request("PUT", "image", f"/v2/images/{image['id']}/file", content=data, headers=media)
            return str(image["id"])

        names = {"kernel_id": upload("aki", chunks(guest.kernel)), "ramdisk_id": upload("ari", chunks(guest.ramdisk))}
        image = upload("ami", [bytes(1 << 20)], os_command_line=tinyguest.COMMAND_LINE, **names)
    server = cloud.make(name, imageRef=image)
    assert server["status"] == "ACTIVE", server
    return server


def test_console_down_adopt_and_down_with_guests(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    home, state = tmp_path, tmp_path / "state"
    quick = {"PILEUS_HOST__ACCELERATION": "tcg"}
    with running(state, "qemu", **quick) as cloud:
        server = boot(cloud, "tiny")
        networks = [port["network_id"] for port in _ports(cloud, server["id"])]
        there = count(home, "br-int", networks)
        assert (there.TAPs, there.namespaces) == (1, 2)
        told = cloud.run("console", "tiny", given="echo 'from''inside'; ip -4 -o addr show dev eth0\n")
        assert told.returncode == 0, told.stderr
        assert "tcg: " in cloud.run("status").stdout
        assert cloud.run("down").returncode == 0
    assert len(processes(home)) >= 4  # guest, both daemons of the switch, DHCP
    with running(state, "qemu", **quick) as cloud, cloud.client() as client:
        assert cloud.settled(client, server["id"])["status"] == "ACTIVE"
        address = next(each["addr"] for addresses in server["addresses"].values() for each in addresses)
        for _ in range(60):
            told = cloud.run("console", "tiny", given="echo 'from''inside'; ip -4 -o addr show dev eth0\n")
            if "frominside" in told.stdout and f"inet {address}/" in told.stdout:
                break
        assert "frominside" in told.stdout
        assert f"inet {address}/" in told.stdout
    told = pileus("down", "--guests", "--state", state)
    assert told.returncode == 0, told.stderr
    assert re.search(r"1 guest powered off, 1 DHCP server, 1 switch port, the switch's daemons and its namespace", told.stdout)
    left = count(home, "br-int", networks)
    assert (left.processes, left.TAPs, left.switch_ports, left.flows, left.namespaces) == (0, 0, 0, 0, 0)
    with running(state, "qemu", **quick) as cloud, cloud.client() as client:
        for _ in range(500):
            if cloud.settled(client, server["id"])["status"] == "SHUTOFF":
                break
        client.request("POST", "compute", f"/servers/{server['id']}/action", json={"os-start": None})
        assert cloud.settled(client, server["id"])["status"] == "ACTIVE"
        cloud.process.kill()
        cloud.process.wait()
    told = pileus("down", "--guests", "--state", state)
    assert told.stdout.startswith(f"no cloud runs in {state}\n")
    assert "\nended: 1 guest powered off" in told.stdout
    left = count(home, "br-int", networks)
    assert (left.processes, left.TAPs, left.namespaces) == (0, 0, 0)


def _ports(cloud: Cloud, server_id: str) -> list[dict[str, Any]]:
    with cloud.client() as client:
        found: list[dict[str, Any]] = client.get("network", "/v2.0/ports", device_id=server_id)["ports"]
    return found
