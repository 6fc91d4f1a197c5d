"""What can be done to a server, done to a guest that has an operating system: what it notices, and what stays."""

from __future__ import annotations

import time

from pileus.tinyguest import READY
from tests.real.conftest import Neighbours
from tests.real.rig import Rig, until


def test_a_life(cloud: Rig, neighbours: Neighbours) -> None:
    server_id = cloud.boot("life")
    cloud.become(server_id, "ACTIVE")
    cloud.shell_is_there(server_id)
    address = cloud.address(server_id)
    with cloud.console(server_id) as console:
        assert console.run("echo kept >/dev/vda && sync")[0] == 0
    first = cloud.machine.qemu(server_id)

    cloud.action(server_id, "pause")
    assert cloud.become(server_id, "PAUSED")["OS-EXT-STS:power_state"] == 3
    with cloud.console(neighbours.b) as console:
        assert console.run(f"ping -c 1 -W 1 {address}")[0] != 0
    cloud.action(server_id, "unpause")
    cloud.become(server_id, "ACTIVE")
    assert cloud.pings(neighbours.b, address)

    cloud.action(server_id, "reboot", {"type": "SOFT"})
    assert cloud.become(server_id, "ACTIVE")["OS-EXT-STS:task_state"] is None
    assert cloud.shell_is_there(server_id, times=2).count(READY) == 2
    assert cloud.machine.qemu(server_id) == first, "a soft reboot keeps the process"

    begun = time.monotonic()
    cloud.action(server_id, "os-stop")
    assert cloud.become(server_id, "SHUTOFF")["OS-EXT-STS:power_state"] == 4
    assert time.monotonic() - begun < 30, "the guest did not power off when asked, its patience of 60 s went by"
    assert not cloud.machine.qemus(server_id)
    [port] = cloud.ports(server_id)
    assert port["status"] == "DOWN" and not cloud.machine.port_flows(port["id"])

    cloud.action(server_id, "os-start")
    cloud.become(server_id, "ACTIVE")
    cloud.shell_is_there(server_id, times=3)
    assert cloud.address(server_id) == address
    with cloud.console(server_id) as console:
        assert console.run("head -c 4 /dev/vda")[1].strip().endswith("kept")
    assert cloud.pings(neighbours.b, address)
    second = cloud.machine.qemu(server_id)

    cloud.action(server_id, "reboot", {"type": "HARD"})
    cloud.become(server_id, "ACTIVE")
    assert cloud.machine.qemu(server_id) != second
    cloud.shell_is_there(server_id, times=4)

    cloud.action(server_id, "os-stop")
    cloud.become(server_id, "SHUTOFF")
    cloud.delete(server_id)
    assert server_id not in cloud.machine.guest_folders()
    assert cloud.ask("GET", f"/network/v2.0/ports/{port['id']}").status_code == 404


def test_deleted_while_paused_and_while_being_made(cloud: Rig) -> None:
    paused = cloud.create("paused")
    cloud.become(paused, "ACTIVE")
    cloud.action(paused, "pause")
    cloud.become(paused, "PAUSED")
    made = [cloud.create(f"hasty-{n}") for n in range(3)]
    cloud.delete(paused, *made)
    until(lambda: not [each for each in (paused, *made) if cloud.machine.qemus(each) or each in cloud.machine.guest_folders()])


def test_ten_at_once(cloud: Rig) -> None:
    answer = cloud.call(
        "POST",
        "/compute/v2.1/servers",
        {
            "server": {
                "name": "ten",
                "flavorRef": "1",
                "imageRef": "",
                "networks": [{"uuid": cloud.private}],
                "min_count": 10,
                "max_count": 10,
            }
        },
    )
    assert answer["server"]["id"]
    found = cloud.call("GET", "/compute/v2.1/servers?name=ten")["servers"]
    ids = [server["id"] for server in found]
    assert len(ids) == 10
    for server_id in ids:
        cloud.become(server_id, "ACTIVE", 60.0)
    pids = {cloud.machine.qemu(server_id) for server_id in ids}
    ports = [port["id"] for server_id in ids for port in cloud.ports(server_id)]
    assert len(pids) == len(ports) == 10
    assert {f"tap{port[:11]}" for port in ports} <= {*cloud.machine.taps()} & {*cloud.machine.switch_ports()}
    assert all(cloud.machine.port_flows(port) for port in ports)
    cloud.delete(*ids)
    assert not [server_id for server_id in ids if cloud.machine.qemus(server_id) or server_id in cloud.machine.guest_folders()]
    left = {*cloud.machine.taps(), *cloud.machine.switch_ports()}
    assert not [port for port in ports if cloud.machine.port_flows(port) or f"tap{port[:11]}" in left]
