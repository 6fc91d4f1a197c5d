"""OpenStack's own way of the plug signal, on real parts: agent, RPC, network service, REST, compute API, host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.real.rig import Rig, rig, until

SETTINGS = {
    "PILEUS_COMPUTE__PLUG_SIGNAL": "callback",
    "PILEUS_NETWORK__SEND_EVENTS_INTERVAL": "0",
    "PILEUS_COMPUTE__SHUTDOWN_TIMEOUT": "1",
}
"""Blank machines hear no power button, so nobody waits long for them."""


@pytest.fixture(scope="module")
def by_callback() -> Iterator[Rig]:
    with rig(SETTINGS) as made:
        yield made


def test_active_when_the_network_said_so(by_callback: Rig) -> None:
    """Nobody but the agent's watch of the switch's database tells it of the port: without it this would not become ACTIVE."""
    server_id = by_callback.create("signalled")
    by_callback.become(server_id, "ACTIVE")
    stamps = by_callback.stamps(server_id)
    assert stamps["plugged"] <= stamps["wired"] <= stamps["signalled"] <= stamps["resumed"]
    assert stamps["paused"] <= stamps["resumed"]
    [port] = by_callback.ports(server_id)
    assert port["status"] == "ACTIVE"
    by_callback.delete(server_id)
    by_callback.nothing_runs()


def test_stopped_and_started(by_callback: Rig) -> None:
    """A start waits for the network as a create does: the port's level must be that of this start."""
    server_id = by_callback.create("again")
    by_callback.become(server_id, "ACTIVE")
    by_callback.action(server_id, "os-stop")
    by_callback.become(server_id, "SHUTOFF")
    by_callback.action(server_id, "os-start")
    by_callback.become(server_id, "ACTIVE")
    stamps = by_callback.stamps(server_id)
    assert stamps["plugged"] <= stamps["wired"] <= stamps["signalled"] <= stamps["resumed"]
    by_callback.delete(server_id)
    by_callback.nothing_runs()


def test_killed_and_started(by_callback: Rig) -> None:
    """Its port was wired for the guest that is dead: that must not count for the next one."""
    server_id = by_callback.create("dies")
    by_callback.become(server_id, "ACTIVE")
    os.kill(by_callback.machine.qemu(server_id), signal.SIGKILL)
    by_callback.become(server_id, "SHUTOFF", 2.0)
    by_callback.action(server_id, "os-start")
    by_callback.become(server_id, "ACTIVE")
    stamps = by_callback.stamps(server_id)
    assert stamps["accepted"] <= stamps["plugged"] <= stamps["wired"] <= stamps["signalled"] <= stamps["resumed"]
    by_callback.delete(server_id)
    by_callback.nothing_runs()


@pytest.mark.parametrize("moment", ["accepted", "made"])
def test_killed_in_the_middle(by_callback: Rig, moment: str) -> None:
    ids = [by_callback.create(f"middle-{n}") for n in range(3)]
    if moment == "made":
        until(lambda: any(by_callback.machine.qemus(server_id) for server_id in ids), every=0.001)
    by_callback.restart(signal.SIGKILL)
    for server_id in ids:
        by_callback.become(server_id, "ACTIVE")
        assert len(by_callback.machine.qemus(server_id)) == 1
    by_callback.delete(*ids)
    by_callback.nothing_runs()
