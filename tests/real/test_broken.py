"""A host whose QEMU does not start, and one whose disk is full: what the user is told, and that nothing stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.real.rig import Rig, rig

QEMU = shutil.which("qemu-system-x86_64") or "qemu-system-x86_64"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Path]:
    """A program that says it is QEMU; how it ends otherwise is written in by the tests. Where anybody may run it."""
    folder = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder / "qemu-broken"
    shutil.rmtree(folder)


def write(emulator: Path, does: str) -> None:
    emulator.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {QEMU} --version\n{does}\n')
    emulator.chmod(0o755)


@pytest.fixture(scope="module")
def broken(emulator: Path) -> Iterator[Rig]:
    write(emulator, "exit 1")
    with rig(
        {"PILEUS_HOST__GUEST_EMULATOR": str(emulator), "PILEUS_COMPUTE__START_LIMIT": "1.5", "PILEUS_COMPUTE__PLUG_LIMIT": "2"}
    ) as made:
        yield made


@pytest.mark.parametrize(
    ("does", "cause"),
    [
        ("echo 'qemu-broken: the moon is in the wrong phase' >&2; exit 1", "the moon is in the wrong phase"),
        ("exec sleep 1000", "1.5 s"),
        ("kill -SEGV $$", "SIGSEGV"),
    ],
    ids=["says why", "hangs", "crashes"],
)
def test_qemu_that_does_not_start(broken: Rig, emulator: Path, does: str, cause: str) -> None:
    write(emulator, does)
    host = broken.call("GET", "/compute/v2.1/os-hypervisors")["hypervisors"][0]["hypervisor_hostname"]
    server_id = broken.create("fails")
    fault = broken.become(server_id, "ERROR")["fault"]["message"]
    assert "paused failed" in fault and f"on host {host}" in fault and cause in fault
    broken.nothing_runs()
    assert broken.ports(server_id) == []
    provider = broken.call("GET", "/placement/resource_providers")["resource_providers"][0]["uuid"]
    assert broken.call("GET", f"/placement/resource_providers/{provider}/allocations")["allocations"] == {}
    write(emulator, f'exec {QEMU} "$@"')
    again = broken.create("works")
    broken.become(again, "ACTIVE")
    broken.delete(server_id, again)
    broken.nothing_runs()


def test_switch_that_hangs(broken: Rig, emulator: Path) -> None:
    """It answers nothing: the create fails within its limits, and what it left is removed when the switch is back."""
    write(emulator, f'exec {QEMU} "$@"')
    there = broken.create("there")
    broken.become(there, "ACTIVE")
    switch = broken.machine.daemon("ovs-vswitchd")
    os.kill(switch, signal.SIGSTOP)
    try:
        server_id = broken.create("hangs")
        fault = broken.become(server_id, "ERROR", 25.0)["fault"]["message"]
        assert "plugged failed on host" in fault and "not done within 2 s" in fault
        assert broken.server(there)["status"] == "ACTIVE" and broken.machine.qemu(there)
    finally:
        os.kill(switch, signal.SIGCONT)
    broken.delete(there, server_id)
    broken.nothing_runs()


@pytest.fixture(scope="module")
def small() -> Iterator[Rig]:
    """Image store, image cache and guests on small disks of their own."""

    def prepare(state: Path) -> None:
        for name, size in (("images", "48m"), ("cache", "48m"), ("guests", "8m")):
            (state / name).mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "tmpfs", state / name], check=True)

    with rig(prepare=prepare) as made:
        yield made


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A disk without a byte of room while this lasts."""
    filler = folder / ".filler"
    try:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError), filler.open("ab", buffering=0) as file:
                while file.write(bytes(size)) == size:
                    pass
        yield
    finally:
        filler.unlink(missing_ok=True)


def test_image_store_full(small: Rig) -> None:
    body = {"name": "big", "disk_format": "raw", "container_format": "bare"}
    image = small.call("POST", "/image/v2/images", body)["id"]
    with full(small.state / "images"):
        answer = small.ask("PUT", f"/image/v2/images/{image}/file", content=bytes(4 << 20))
        assert answer.status_code in (413, 503, 507) and "full" in answer.text
        assert small.call("GET", f"/image/v2/images/{image}")["status"] == "queued"
        assert [path.name for path in (small.state / "images").rglob("*") if path.is_file()] == [".filler"]
    assert small.ask("PUT", f"/image/v2/images/{image}/file", content=bytes(4 << 20)).status_code == 204
    assert small.call("GET", f"/image/v2/images/{image}")["status"] == "active"
    small.call("DELETE", f"/image/v2/images/{image}")


@pytest.mark.parametrize("where", ["cache", "guests"])
def test_host_disk_full(small: Rig, where: str) -> None:
    step = {"cache": "image", "guests": "paused"}[where]
    image = small.upload("blank", "raw", bytes(1 << 20))
    with full(small.state / where):
        server_id = small.create("full", imageRef=image)
        fault = small.become(server_id, "ERROR")["fault"]["message"]
        assert f"{step} failed on host" in fault and "full" in fault
        small.nothing_runs()
    again = small.create("room", imageRef=image)
    small.become(again, "ACTIVE")
    small.delete(server_id, again)
    small.nothing_runs()


def test_database_full() -> None:
    """What cannot be written down is refused as such; what runs goes on, and so does the cloud when there is room again."""

    def prepare(state: Path) -> None:
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=0711", "tmpfs", state], check=True)

    with rig(prepare=prepare) as cloud:
        there = cloud.create("there")
        cloud.become(there, "ACTIVE")
        with full(cloud.state):
            body = {"server": {"name": "more", "flavorRef": "1", "imageRef": "", "networks": "none"}}
            for method, path, asked in (("POST", "", body), ("DELETE", f"/{there}", None)):
                answer = cloud.ask(method, f"/compute/v2.1/servers{path}", asked)
                assert answer.status_code == 503 and "database or disk is full" in answer.text
            assert [each["status"] for each in cloud.call("GET", "/compute/v2.1/servers/detail")["servers"]] == ["ACTIVE"]
            assert cloud.machine.qemu(there)
        again = cloud.create("again")
        cloud.become(again, "ACTIVE")
        cloud.delete(there, again)
        cloud.nothing_runs()
