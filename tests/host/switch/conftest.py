"""The switches under test as fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.host.switch.rigs import OvsRig, Rig, SimulatedRig


@pytest.fixture
async def ovs(tmp_path: Path) -> AsyncIterator[OvsRig]:
    """A real Open vSwitch of the test's own; afterwards nothing of it may be left."""
    rig = OvsRig(tmp_path / "switch")
    try:
        await rig.open()
        yield rig
    finally:
        await rig.close()


@pytest.fixture(params=["openvswitch", "simulated"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """Each implementation of the seam in turn."""
    made: Rig = OvsRig(tmp_path / "switch") if request.param == "openvswitch" else SimulatedRig()
    try:
        await made.open()
        yield made
    finally:
        await made.close()
