"""KVM only where it is proven, and TCG meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pileus import configuration
from pileus.errors import StartupError
from pileus.host.hypervisor import Capacity, HypervisorError, acceleration
from pileus.host.hypervisor.acceleration import READY, Accelerator
from tests.host.hypervisor.parts import QemuHarness, guest

CAPACITY = Capacity("QEMU", 7002022, 2, 1024, 10, {"model": "a CPU"})
GUEST = (Path("/kernel"), Path("/ramdisk"))


class Boots:
    """Stands for the proof guest: what it says on its console, and how often it was booted."""

    def __init__(self, *said: bytes, ends: bool = False, error: Exception | None = None) -> None:
        self.said, self.ends, self.error = said, ends, error
        self.open = self.count = 0

    @contextlib.asynccontextmanager
    async def __call__(self, kernel: Path, ramdisk: Path) -> AsyncIterator[asyncio.StreamReader]:
        self.count += 1
        if self.error is not None:
            raise self.error
        reader = asyncio.StreamReader()
        for part in self.said:
            reader.feed_data(part)
        if self.ends:
            reader.feed_eof()
        self.open += 1
        try:
            yield reader
        finally:
            self.open -= 1


@pytest.fixture(autouse=True)
def kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A /dev/kvm that opens."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(acceleration, "KVM", device)
    return device


def accelerator(
    folder: Path, boots: Boots, wish: str = "auto", proof_guest: Callable[[], tuple[Path, Path] | None] = lambda: GUEST
) -> Accelerator:
    host = configuration.load(environ={}, flags={"host.acceleration": wish})[0].host
    return Accelerator(folder, host, boots, proof_guest)


async def test_kvm_is_taken_once_the_guest_has_reached_userspace(tmp_path: Path) -> None:
    boots = Boots(b"booting\r\n", READY[:5], READY[5:] + b"\r\n")
    chooser = accelerator(tmp_path, boots)
    await chooser.start(CAPACITY)
    assert chooser.current.name == "tcg"
    assert "being proven" in chooser.current.reason
    await chooser.settled()
    assert chooser.current.name == "kvm"
    assert boots.open == 0


@pytest.mark.parametrize(
    ("boots", "reason"),
    [
        (Boots(b"panic", ends=True), "died before"),
        (Boots(b"silence"), "did not reach userspace within 0.05 s"),
        (Boots(error=HypervisorError("no MSR")), "did not start: no MSR"),
        (Boots(error=OSError(1, "not permitted")), "did not start"),
    ],
)
async def test_tcg_stays_where_the_proof_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boots: Boots, reason: str) -> None:
    monkeypatch.setattr(acceleration, "PROOF_LIMIT", 0.05)
    chooser = accelerator(tmp_path, boots)
    await chooser.start(CAPACITY)
    await chooser.settled()
    assert chooser.current.name == "tcg"
    assert reason in chooser.current.reason
    assert boots.open == 0


async def test_a_result_holds_for_the_same_kernel_qemu_and_cpu(tmp_path: Path) -> None:
    first = Boots(READY)
    for _ in range(2):
        chooser = accelerator(tmp_path, first)
        await chooser.start(CAPACITY)
        await chooser.settled()
        assert chooser.current.name == "kvm"
    assert first.count == 1
    other = Boots(ends=True)
    chooser = accelerator(tmp_path, other)
    await chooser.start(Capacity("QEMU", 8000000, 2, 1024, 10, {"model": "a CPU"}))
    await chooser.settled()
    assert (chooser.current.name, other.count) == ("tcg", 1)


async def test_without_the_proof_guest_tcg_is_taken_and_nothing_is_kept(tmp_path: Path) -> None:
    chooser = accelerator(tmp_path, Boots(READY), proof_guest=lambda: None)
    await chooser.start(CAPACITY)
    await chooser.settled()
    assert chooser.current.name == "tcg"
    assert "not on this machine" in chooser.current.reason
    chooser = accelerator(tmp_path, Boots(READY))
    await chooser.start(CAPACITY)
    await chooser.settled()
    assert chooser.current.name == "kvm"


async def test_the_setting_decides_where_it_says_so(tmp_path: Path, kvm: Path) -> None:
    for wish in ("tcg", "kvm"):
        boots = Boots(READY)
        chooser = accelerator(tmp_path, boots, wish)
        await chooser.start(CAPACITY)
        await chooser.settled()
        assert (chooser.current.name, boots.count) == (wish, 0)
        assert "host.acceleration" in chooser.current.reason
    kvm.unlink()  # noqa: ASYNC240
    with pytest.raises(StartupError, match="no /dev/kvm"):
        await accelerator(tmp_path, Boots(), "kvm").start(CAPACITY)
    chooser = accelerator(tmp_path, Boots())
    await chooser.start(CAPACITY)
    assert (chooser.current.name, chooser.current.reason) == ("tcg", "this machine has no /dev/kvm")


async def test_closing_ends_a_proof_under_way(tmp_path: Path) -> None:
    boots = Boots(b"silence")
    chooser = accelerator(tmp_path, boots)
    await chooser.start(CAPACITY)
    while boots.open == 0:
        await asyncio.sleep(0)
    await chooser.close()
    assert boots.open == 0


async def test_a_real_proof_comes_to_a_result_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the machine's own KVM, where it has one: whichever way it goes, guests start with what was chosen."""
    monkeypatch.setattr(acceleration, "KVM", Path("/dev/kvm"))
    harness = QemuHarness(tmp_path, acceleration="auto")
    assert harness.images.kernel is not None
    harness.proof_guest = (harness.images.kernel, harness.images.kernel)
    hypervisor = harness.make()
    await hypervisor.start()
    try:
        assert hypervisor.acceleration().name == "tcg"
        assert await hypervisor.found() == []
        await hypervisor.acceleration_settled()
        assert hypervisor.acceleration().reason
        assert "ermission" not in hypervisor.acceleration().reason, "guests are given the device, whoever owns it"
        assert harness.leftovers() == []
        spec = guest()
        await hypervisor.create(spec, 1, harness.images, {})
        await hypervisor.resume(spec.server_id)
        await harness.booted(hypervisor, spec.server_id)
        await hypervisor.destroy(spec.server_id)
    finally:
        await hypervisor.close()
