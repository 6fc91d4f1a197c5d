"""The config drive, read back the way a guest does: by its label and its Rock Ridge names."""

from __future__ import annotations

import base64
import io
import json
import stat
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from pileus.host import configdrive
from pileus.messages import BootSource, FixedIP, GuestSpec, HostRoute, PortWiring, SubnetWiring

WITH_DHCP = SubnetWiring("s4", "10.0.0.0/24", 4, "10.0.0.1", True, "10.0.0.2", ["10.0.0.53"])
WITHOUT = SubnetWiring("s0", "10.1.0.0/16", 4, "10.1.0.1", False, None, ["9.9.9.9"], [HostRoute("10.2.0.0/16", "10.1.0.9")])
SIX = SubnetWiring("s6", "fd00::/64", 6, "fd00::1", False, None)


def port(subnet: SubnetWiring, *addresses: str) -> PortWiring:
    fixed = [FixedIP(subnet.id, address) for address in addresses]
    mac = "fa:16:3e:00:00:01"
    return PortWiring("0a1b2c3d-port", 1, "net", "local", None, None, 1450, mac, fixed, [subnet])


def spec(**changes: Any) -> GuestSpec:
    facts: dict[str, Any] = {
        "server_id": "5f3c1d52-7a14-4b3e-9f0f-0d8a5b8ff001",
        "name": "The Web",
        "hostname": "the-web",
        "project_id": "p1",
        "vcpus": 1,
        "memory_mb": 128,
        "disk_gb": 0,
        "boot": BootSource(),
        "ports": [port(WITH_DHCP, "10.0.0.5")],
    }
    return GuestSpec(**(facts | changes))


def read(path: Path, name: str) -> bytes:
    image = pycdlib.PyCdlib()
    image.open(str(path))
    try:
        data = io.BytesIO()
        image.get_file_from_iso_fp(data, rr_path=f"/openstack/{name}")
        return data.getvalue()
    finally:
        image.close()


def test_label_and_folders(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    configdrive.build(spec(), path)
    # ISO 9660, 8.4: the primary volume descriptor is sector 16, its volume identifier at 40.
    raw = path.read_bytes()
    assert raw[0x8001:0x8006] == b"CD001" and raw[0x8000 + 40 : 0x8000 + 72].rstrip() == b"config-2"
    assert read(path, "latest/meta_data.json") == read(path, "2020-10-14/meta_data.json")
    assert json.loads(read(path, "latest/vendor_data.json")) == {}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["config.iso"]


def test_meta_data(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    key = "ssh-ed25519 AAAA me@here"
    configdrive.build(spec(metadata={"role": "wéb"}, public_keys={"mine": key}, launch_index=3), path)
    found = json.loads(read(path, "latest/meta_data.json"))
    assert (found["uuid"], found["name"], found["hostname"]) == (spec().server_id, "The Web", "the-web")
    assert (found["project_id"], found["availability_zone"], found["launch_index"]) == ("p1", "nova", 3)
    assert found["meta"] == {"role": "wéb"}
    assert found["public_keys"] == {"mine": key}
    assert found["keys"] == [{"name": "mine", "type": "ssh", "data": key}]
    assert len(base64.b64decode(found["random_seed"])) == 512


def test_two_drives_have_two_seeds() -> None:
    assert configdrive.meta_data(spec())["random_seed"] != configdrive.meta_data(spec())["random_seed"]


def test_user_data_is_decoded_and_absent_when_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    script = b"#!/bin/sh\necho \xff\x00\n"
    configdrive.build(spec(user_data=base64.b64encode(script).decode()), path)
    assert read(path, "latest/user_data") == script
    configdrive.build(spec(), path)
    with pytest.raises(pycdlib.pycdlibexception.PyCdlibException):
        read(path, "latest/user_data")


def test_network_data_leaves_to_dhcp_what_dhcp_gives() -> None:
    assert configdrive.network_data([port(WITH_DHCP, "10.0.0.5")]) == {
        "links": [
            {
                "id": "tap0a1b2c3d-po",
                "vif_id": "0a1b2c3d-port",
                "type": "ovs",
                "mtu": 1450,
                "ethernet_mac_address": "fa:16:3e:00:00:01",
            }
        ],
        "networks": [{"id": "network0", "link": "tap0a1b2c3d-po", "network_id": "net", "type": "ipv4_dhcp"}],
        "services": [],
    }


def test_network_data_of_static_addresses() -> None:
    found = configdrive.network_data([port(WITHOUT, "10.1.2.3"), port(SIX, "fd00::5")])
    four, six = found["networks"]
    assert (four["type"], four["ip_address"], four["netmask"]) == ("ipv4", "10.1.2.3", "255.255.0.0")
    assert four["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
        {"network": "10.2.0.0", "netmask": "255.255.0.0", "gateway": "10.1.0.9"},
    ]
    assert four["services"] == found["services"] == [{"type": "dns", "address": "9.9.9.9"}]
    assert (six["id"], six["type"], six["ip_address"]) == ("network1", "ipv6", "fd00::5")
    assert six["netmask"] == "ffff:ffff:ffff:ffff::" and six["routes"][0] == {
        "network": "::",
        "netmask": "::",
        "gateway": "fd00::1",
    }


def test_a_full_disk_leaves_no_half_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rename(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", no_rename)
    with pytest.raises(OSError, match="No space left"):
        configdrive.build(spec(), tmp_path / "config.iso")
    assert list(tmp_path.iterdir()) == []
