"""A cloud that was ended, or killed, and started again on the same state folder."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.blackbox.cloud import Cloud, running


def test_what_it_says_of_its_guests(cloud: Cloud) -> None:
    assert "3 simulated hosts (asked for)" in cloud.greeting
    assert "its simulated guests end with it" in cloud.greeting


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_everything_written_down_is_still_there(tmp_path: Path, how: signal.Signals) -> None:
    with running(tmp_path) as first:
        admin = first.admin()
        network = admin.network("10.80.0.0/24")
        image_id = admin.image(b"kept")
        server = admin.server(networks=[{"uuid": network["id"]}], imageRef=image_id)
        address = first.url.removeprefix("http://")
        yaml = first.clouds_yaml.read_text()
        first.process.send_signal(how)
        assert first.process.wait(60) == (0 if how is signal.SIGTERM else -how)
    with running(tmp_path, "--listen", address) as second:
        assert second.clouds_yaml.read_text() == yaml
        assert admin.get("network", f"/v2.0/networks/{network['id']}")["network"]["name"] == network["name"], "an old token is good"
        assert admin.call("GET", "image", f"/v2/images/{image_id}/file").content == b"kept"
        assert admin.get("compute", f"/v2.1/servers/{server['id']}")["server"]["addresses"] == server["addresses"]
        assert len(admin.get("compute", "/v2.1/flavors")["flavors"]) == 5, "a first start happens once"
        admin.ask("POST", "compute", f"/v2.1/servers/{server['id']}/action", {"reboot": {"type": "HARD"}})
        assert admin.settled(server["id"])["status"] == "ACTIVE", "its guest is gone with the process; a hard reboot brings it back"
        admin.gone(server["id"])
        assert admin.get("placement", f"/allocations/{server['id']}")["allocations"] == {}
        admin.delete("network", f"/v2.0/networks/{network['id']}")
