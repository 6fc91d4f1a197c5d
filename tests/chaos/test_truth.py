"""What a run excuses, and what it does not: against a machine and an API that are made up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from pileus.host.privileged import tap_name
from pileus.host.switch.tables import NETWORK_KIND, PORT_KIND, cookie
from tests.chaos.load import Load
from tests.chaos.real import compared
from tests.chaos.truth import Told
from tests.real.machine import Machine

PORT, NETWORK, SERVER = "9f1c2d3e-0000-4000-8000-000000000001", "9f1c2d3e-0000-4000-8000-000000000002", "server"


@dataclass
class MadeUp:
    """A host with one DHCP server, and what else is said."""

    state: Path
    folders: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    def guest_folders(self) -> list[str]:
        return self.folders

    def qemus(self, server_id: str) -> list[int]:
        return [1]

    def taps(self) -> list[str]:
        return [tap_name(port) for port in self.ports]

    switch_ports = taps

    def flows(self) -> list[str]:
        cookies = [cookie(PORT_KIND, port) for port in self.ports] + [cookie(NETWORK_KIND, network) for network in self.networks]
        return [f" cookie={one:#x}, table=0" for one in cookies]

    def dnsmasq(self) -> list[int]:
        return [1]

    def dhcp_namespaces(self) -> list[str]:
        return ["one"]


def wrong(machine: MadeUp, told: Told) -> set[str]:
    return {what for what, (here, there) in compared(cast(Machine, machine), "h1", told).items() if here != there}


def told(**server: Any) -> Told:
    row = {"id": SERVER, "host": "h1", "generation": 1, "vm_state": "active", "power": "running"} | server
    bound = {"host": "h1", "level": "wired"} if row["vm_state"] == "active" else {"host": "", "level": "unbound"}
    return Told([row], [{"id": PORT, "generation": 1, "network_id": NETWORK, "vm_state": row["vm_state"], **bound}])


def test_a_guest_that_an_evacuation_left_where_it_was_may_have_its_port_and_its_network(tmp_path: Path) -> None:
    there = MadeUp(tmp_path, [SERVER], [PORT], [NETWORK])
    assert wrong(there, told(vm_state="error")) == set()
    assert wrong(MadeUp(tmp_path, [SERVER], [], [NETWORK]), told(vm_state="error")) == {
        "flows of networks",
        "DHCP servers",
        "DHCP namespaces",
    }
    assert wrong(MadeUp(tmp_path, [SERVER], [PORT], [NETWORK, "another"]), told(vm_state="error")) == {"flows of networks"}


def test_a_guest_of_an_active_server_has_its_port_and_its_network(tmp_path: Path) -> None:
    (tmp_path / "dhcp" / "net" / "hosts").mkdir(parents=True)
    (tmp_path / "dhcp" / "net" / "hosts" / f"{PORT}.4").touch()
    assert wrong(MadeUp(tmp_path, [SERVER], [PORT], [NETWORK]), told()) == set()
    assert wrong(MadeUp(tmp_path, [SERVER], [], [NETWORK]), told()) == {"TAPs", "switch ports", "flows of ports"}


@pytest.mark.parametrize(("answer", "lost"), [(None, set()), (503, set()), (204, set()), (404, set()), (409, {SERVER})])
async def test_a_server_whose_delete_was_not_answered_may_be_gone(answer: int | None, lost: set[str]) -> None:
    """The API was killed, or lost its database, when it had done it."""

    def respond(request: httpx.Request) -> httpx.Response:
        if answer is None:
            raise httpx.ReadError("killed")
        return httpx.Response(answer)

    load = Load("http://api", "", random.Random(1), httpx.MockTransport(respond))
    load.known.add(SERVER)
    await load.delete(SERVER)
    assert load.lost([]) == lost and load.lost([SERVER]) == set()
    await load.close()
