"""Tests with real guests on a real switch: root on a machine that has the parts. Elsewhere they are not collected, and it is said why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.real.rig import Rig, rig

MISSING = missing_for_real(Settings())
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MISSING:
        terminalreporter.write_line(f"tests/real was not collected, it needs real guests: {MISSING}")


@dataclass(frozen=True)
class Neighbours:
    """Two tiny guests on the first network, a stranger on another of the same address range."""

    a: str
    b: str
    stranger: str
    a_address: str
    b_address: str


STRANGER_ADDRESS = "10.0.9.9"
USER_DATA = "IyEvYmluL3NoCmVjaG8gInVzZXIgZGF0YSByYW4gb24gJChob3N0bmFtZSkiID4vZGV2L3R0eVMwCg=="
"""#!/bin/sh: say so on the console."""


@pytest.fixture(scope="session")
def cloud() -> Iterator[Rig]:
    """The cloud that tests share: each leaves it as it was, and all that they made leaves nothing."""
    with rig() as made:
        yield made
        made.delete(*(server["id"] for server in made.call("GET", "/compute/v2.1/servers")["servers"]))
        made.nothing_runs()


@pytest.fixture(scope="session")
def neighbours(cloud: Rig) -> Neighbours:
    elsewhere = cloud.network("elsewhere", "10.0.0.0/20")
    a = cloud.boot("a", config_drive=True, user_data=USER_DATA, metadata={"colour": "blue"})
    b = cloud.boot("b")
    stranger = cloud.boot("stranger", networks=[{"uuid": elsewhere, "fixed_ip": STRANGER_ADDRESS}])
    for server_id in (a, b, stranger):
        cloud.become(server_id, "ACTIVE")
        cloud.shell_is_there(server_id)
    return Neighbours(a, b, stranger, cloud.address(a), cloud.address(b))
