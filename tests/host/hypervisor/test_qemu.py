"""What only real guests have: users, sandbox, sessions, disks, logs, and QEMU's own ways to fail."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pileus import settings
from pileus.errors import StartupError
from pileus.host.hypervisor import HypervisorError, Images, guestfolder, monitor, qemu
from pileus.host.hypervisor.guestfolder import GuestFolder
from pileus.host.hypervisor.machine import processes_of
from pileus.host.hypervisor.monitor import Guest
from pileus.host.hypervisor.qcow2 import read_header, write_overlay
from pileus.host.hypervisor.qemu import Qemu
from pileus.host.switch import Tap
from pileus.messages import BootSource, PowerState
from tests.host.hypervisor.parts import QemuHarness, guest, pid_of, type_in, until
from tests.host.hypervisor.test_arguments import port

MIB = 1 << 20


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[QemuHarness]:
    harness = QemuHarness(tmp_path)
    yield harness
    harness.end_all()


@pytest.fixture
async def hypervisor(harness: QemuHarness) -> AsyncIterator[Qemu]:
    hypervisor = harness.make()
    await hypervisor.start()
    yield hypervisor
    for server_id in harness.leftovers():
        await hypervisor.destroy(server_id)
    await hypervisor.close()


@pytest.fixture
def tap() -> Iterator[Tap]:
    """A TAP without vnet header (linux/if_tun.h: TUNSETIFF, IFF_TAP | IFF_NO_PI)."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    name = f"tapt{os.getpid()}"
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))
    yield Tap(name, fd)
    os.close(fd)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def opened_by(server_id: str) -> list[str]:
    """What a guest's process has open."""
    return [str(path.readlink()) for path in Path(f"/proc/{pid_of(server_id)}/fd").iterdir()]


def reaped(pid: int) -> bool:
    """Whether this child of ours has ended; it is gone for good after this. (`subprocess` may have seen to that before.)"""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run(*arguments: str | Path) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


async def test_each_guest_has_a_user_and_a_sandbox_of_its_own(harness: QemuHarness, hypervisor: Qemu) -> None:
    one, two = guest(), guest()
    for spec in (one, two):
        await hypervisor.create(spec, 1, Images(), {})
    seen = set()
    for spec in (one, two):
        pid = pid_of(spec.server_id)
        now = status(pid)
        uid = int(now["Uid"].split()[0])
        seen.add(uid)
        assert now["Uid"].split() == now["Gid"].split() == [str(uid)] * 4
        assert harness.host.guest_uid_base <= uid < harness.host.guest_uid_base + harness.host.guest_uid_count
        assert (now["Groups"], now["Seccomp"], now["NoNewPrivs"]) == ("", "2", "1")
        assert int(now["CapEff"], 16) == int(now["CapPrm"], 16) == 0
        assert os.getsid(pid) == pid
        assert environment(pid) == b""
        folder = GuestFolder(harness.folder, spec.server_id)
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert folder.blank.stat().st_uid == uid
        assert folder.blank.stat().st_mode & 0o777 == 0o600
    assert len(seen) == 2


async def test_a_guest_inherits_what_it_was_given_and_no_more(harness: QemuHarness, hypervisor: Qemu, tmp_path: Path) -> None:
    secret = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(secret, True)
    try:
        spec = guest()
        await hypervisor.create(spec, 1, harness.images, {})
    finally:
        os.close(secret)
    files = {Path(target).name for target in opened_by(spec.server_id) if target.startswith(str(tmp_path))}
    assert files == {"tiny-kernel", "disk.raw", "console.log", "qemu.log"}


async def test_destroyed_guests_give_their_user_ids_back(tmp_path: Path) -> None:
    harness = QemuHarness(tmp_path, guest_uid_count=1)
    hypervisor = harness.make()
    await hypervisor.start()
    try:
        one, two = guest(), guest()
        await hypervisor.create(one, 1, Images(), {})
        with pytest.raises(HypervisorError, match="guest_uid_count"):
            await hypervisor.create(two, 1, Images(), {})
        await hypervisor.destroy(one.server_id)
        await hypervisor.create(two, 1, Images(), {})
        assert status(pid_of(two.server_id))["Uid"].split()[0] == str(harness.host.guest_uid_base)
        await hypervisor.destroy(two.server_id)
    finally:
        await hypervisor.close()


async def test_a_user_id_is_kept_over_stop_and_restart(harness: QemuHarness, hypervisor: Qemu) -> None:
    one = guest()
    await hypervisor.create(one, 1, Images(), {})
    uid = status(pid_of(one.server_id))["Uid"]
    await hypervisor.stop(one.server_id, hard=True)
    await hypervisor.close()
    again = harness.make()
    await again.start()
    try:
        await again.found()
        for spec in (guest(), guest()):
            await again.create(spec, 1, Images(), {})
            assert status(pid_of(spec.server_id))["Uid"] != uid
            await again.destroy(spec.server_id)
        await again.create(one, 1, Images(), {})
        assert status(pid_of(one.server_id))["Uid"] == uid
        await again.destroy(one.server_id)
    finally:
        await again.close()


async def test_a_port_is_a_network_device_of_the_guest(hypervisor: Qemu, tap: Tap) -> None:
    spec = guest(ports=[port("p1")])
    await hypervisor.create(spec, 1, Images(), {"p1": tap})
    await hypervisor.resume(spec.server_id)
    assert "/dev/net/tun" in opened_by(spec.server_id)
    os.fstat(tap.fd)  # still ours to close


async def test_a_qemu_that_cannot_start_says_why_and_leaves_nothing(harness: QemuHarness, hypervisor: Qemu) -> None:
    bad = harness.folder.parent / "bad-kernel"
    bad.write_bytes(b"not a kernel" * 1000)
    bad.chmod(0o644)
    told: list[object] = []
    hypervisor.on_exit = lambda *exit: told.append(exit)
    spec = guest(boot=BootSource(command_line="x"))
    with pytest.raises(HypervisorError, match="invalid kernel header"):
        await hypervisor.create(spec, 1, Images(kernel=bad), {})
    assert harness.leftovers() == []
    assert await hypervisor.power(spec.server_id) == "absent"
    assert told == []
    with pytest.raises(KeyError):
        pid_of(spec.server_id)


async def test_a_full_disk_is_named_and_leaves_nothing(harness: QemuHarness) -> None:
    harness.folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", harness.folder)
    try:
        (harness.folder / ".ballast").write_bytes(bytes(16384))
        hypervisor = harness.make()
        await hypervisor.start()
        with pytest.raises(HypervisorError, match="disk is full"):
            await hypervisor.create(guest(), 1, Images(), {})
        assert harness.leftovers() == []
        await hypervisor.close()
    finally:
        run("umount", "-l", harness.folder)


def raw_image(path: Path, size: int) -> Path:
    path.write_bytes(b"base")
    os.truncate(path, size)
    return path


async def test_a_root_disk_grows_over_its_image_and_is_kept(harness: QemuHarness, hypervisor: Qemu) -> None:
    base = raw_image(harness.folder.parent / "base", 3 * MIB)
    grown, same, blank, none = guest(disk_gb=2), guest(disk_gb=0), guest(disk_gb=3), guest(disk_gb=0)
    for spec, images in ((grown, Images(disk=base)), (same, Images(disk=base)), (blank, Images()), (none, Images())):
        await hypervisor.create(spec, 1, images, {})
        await hypervisor.stop(spec.server_id, hard=True)
    for spec, size in ((grown, 2 << 30), (same, 3 * MIB)):
        path = GuestFolder(harness.folder, spec.server_id).overlay
        told = run("qemu-img", "info", "--output=json", path)
        assert f'"virtual-size": {size}' in told
        assert '"backing-filename-format": "raw"' in told
        run("qemu-img", "check", path)
    disk = GuestFolder(harness.folder, blank.server_id).blank.stat()
    assert (disk.st_size, disk.st_blocks) == (3 << 30, 0)
    assert not list(GuestFolder(harness.folder, none.server_id).path.glob("disk.*"))

    path = GuestFolder(harness.folder, grown.server_id).overlay
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", path)
    await hypervisor.create(grown, 2, Images(), {})
    await hypervisor.stop(grown.server_id, hard=True)
    assert "Pattern verification failed" not in run("qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 64k", path)


async def test_an_image_larger_than_the_flavor_is_refused(harness: QemuHarness, hypervisor: Qemu) -> None:
    base = raw_image(harness.folder.parent / "base", (1 << 30) + 512)
    with pytest.raises(HypervisorError, match=r"larger than the flavor's 1 GiB"):
        await hypervisor.create(guest(disk_gb=1), 1, Images(disk=base), {})
    assert harness.leftovers() == []


async def test_an_image_that_names_another_file_is_refused(harness: QemuHarness, hypervisor: Qemu) -> None:
    base, image = raw_image(harness.folder.parent / "base", MIB), harness.folder.parent / "image"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image)
    with pytest.raises(HypervisorError, match="refers to another file"):
        await hypervisor.create(guest(), 1, Images(disk=image, disk_format="qcow2"), {})
    assert harness.leftovers() == []


async def test_a_base_image_that_went_is_named(harness: QemuHarness, hypervisor: Qemu) -> None:
    base = raw_image(harness.folder.parent / "base", MIB)
    spec = guest()
    await hypervisor.create(spec, 1, Images(disk=base), {})
    await hypervisor.stop(spec.server_id, hard=True)
    base.unlink()
    with pytest.raises(HypervisorError, match=r"base image .* is not there any more"):
        await hypervisor.create(spec, 2, Images(), {})
    assert await hypervisor.power(spec.server_id) == "stopped"


async def test_a_config_drive_is_made_and_attached_where_it_is_wanted(harness: QemuHarness, hypervisor: Qemu) -> None:
    for wanted in (True, False):
        spec = guest(config_drive=wanted)
        await hypervisor.create(spec, 1, Images(), {})
        config = GuestFolder(harness.folder, spec.server_id).config
        assert (str(config) in opened_by(spec.server_id)) is wanted
        assert config.exists() is wanted


async def test_a_guest_deaf_to_the_power_button_is_ended(harness: QemuHarness) -> None:
    harness.compute = settings.Compute(shutdown_timeout=0.1)
    hypervisor = harness.make()
    await hypervisor.start()
    spec = guest()
    try:
        await hypervisor.create(spec, 1, Images(), {})
        await hypervisor.resume(spec.server_id)
        assert not await hypervisor.reset(spec.server_id, hard=False)
        assert await hypervisor.power(spec.server_id) == "running"
        await hypervisor.stop(spec.server_id, hard=False)
        assert await hypervisor.power(spec.server_id) == "stopped"
    finally:
        await hypervisor.destroy(spec.server_id)
        await hypervisor.close()


async def test_a_guest_still_booting_is_asked_again(harness: QemuHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The firmware misses the first press; the kernel after it hears a later one, long before our patience ends."""
    monkeypatch.setattr(monitor, "PRESS_INTERVAL", 0.05)
    harness.compute = settings.Compute(shutdown_timeout=60)
    hypervisor = harness.make()
    await hypervisor.start()
    spec = guest()
    try:
        for end in (hypervisor.reset, hypervisor.stop):
            await hypervisor.create(spec, 1, harness.images, {})
            await hypervisor.reset(spec.server_id, hard=True)
            async with asyncio.timeout(20):
                await end(spec.server_id, hard=False)
        assert await hypervisor.power(spec.server_id) == "stopped"
    finally:
        await hypervisor.destroy(spec.server_id)
        await hypervisor.close()


async def test_nobody_waits_for_a_soft_stop_to_run_out(harness: QemuHarness) -> None:
    harness.compute = settings.Compute(shutdown_timeout=60)
    hypervisor = harness.make()
    await hypervisor.start()
    spec = guest()
    try:
        await hypervisor.create(spec, 1, Images(), {})
        await hypervisor.resume(spec.server_id)
        for patient in (hypervisor.stop(spec.server_id, hard=False), hypervisor.reset(spec.server_id, hard=False)):
            waiting = asyncio.ensure_future(patient)
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
            async with asyncio.timeout(5):
                await hypervisor.destroy(spec.server_id)
                await waiting
            await hypervisor.create(spec, 1, Images(), {})
            await hypervisor.resume(spec.server_id)
    finally:
        await hypervisor.destroy(spec.server_id)
        await hypervisor.close()


async def test_a_guest_that_ends_after_a_soft_stop_was_given_up_is_told_of(harness: QemuHarness) -> None:
    harness.compute = settings.Compute(shutdown_timeout=60)
    hypervisor = harness.make()
    await hypervisor.start()
    told: list[tuple[str, PowerState, str]] = []
    hypervisor.on_exit = lambda *exit: told.append(exit)
    spec = guest()
    try:
        await hypervisor.create(spec, 1, Images(), {})
        await hypervisor.resume(spec.server_id)
        waiting = asyncio.create_task(hypervisor.stop(spec.server_id, hard=False))
        await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        os.kill(pid_of(spec.server_id), signal.SIGKILL)

        async def crashed() -> bool:
            return bool(told)

        assert await until(crashed) < 2
        assert told == [(spec.server_id, "crashed", "QEMU was ended by SIGKILL")]
    finally:
        await hypervisor.destroy(spec.server_id)
        await hypervisor.close()


async def test_a_guest_that_resets_itself_just_boots_again(harness: QemuHarness, hypervisor: Qemu) -> None:
    spec = guest()
    told: list[object] = []
    hypervisor.on_exit = lambda *exit: told.append(exit)
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    await type_in(hypervisor, spec.server_id, b"r")

    async def twice() -> bool:
        return (await hypervisor.console(spec.server_id, None)).count("READY") == 2

    await until(twice)
    assert await hypervisor.power(spec.server_id) == "running"
    assert told == []


async def test_the_serial_log_is_cut_while_the_guest_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "TRIM_INTERVAL", 0.02)
    harness = QemuHarness(tmp_path, console_cap=16384)
    hypervisor = harness.make()
    await hypervisor.start()
    spec = guest()
    try:
        await hypervisor.create(spec, 1, harness.images, {})
        await hypervisor.resume(spec.server_id)
        await harness.booted(hypervisor, spec.server_id)
        await type_in(hypervisor, spec.server_id, b"f")
        log = GuestFolder(harness.folder, spec.server_id).console

        async def written() -> bool:
            return log.stat().st_size > 100_000 and "READY" in await hypervisor.console(spec.server_id, 1)

        await until(written)

        async def cut() -> bool:
            return log.stat().st_blocks * 512 <= 16384 + 4096

        await until(cut)
        text = await hypervisor.console(spec.server_id, None)
        assert len(text) <= 16384
        assert "fff" in text
        assert text.count("READY") == 1
        assert text.endswith("READY\r\n")
    finally:
        await hypervisor.destroy(spec.server_id)
        await hypervisor.close()


async def test_half_made_guests_are_ended_and_removed(harness: QemuHarness, hypervisor: Qemu) -> None:
    spec = guest()
    await hypervisor.create(spec, 1, Images(), {})
    pid = pid_of(spec.server_id)
    await hypervisor.close()
    GuestFolder(harness.folder, spec.server_id).spec.write_bytes(b"{ cut off")
    (harness.folder / "00000000-aaaa-bbbb-cccc-000000000000").mkdir()
    again = harness.make()
    await again.start()
    try:
        assert await again.found() == []
        assert harness.leftovers() == []
        assert reaped(pid)
    finally:
        await again.close()


async def test_a_guest_left_halted_by_a_reset_that_we_did_not_finish(harness: QemuHarness, hypervisor: Qemu) -> None:
    spec = guest()
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    await hypervisor.close()
    process = Guest(pid_of(spec.server_id), None, GuestFolder(harness.folder, spec.server_id).monitor_socket)
    assert await process.halt(5)
    assert process.alive
    await process.close()
    again = harness.make()
    await again.start()
    try:
        assert [found.power for found in await again.found()] == ["stopped"]
        with pytest.raises(KeyError):
            pid_of(spec.server_id)
        await again.destroy(spec.server_id)
    finally:
        await again.close()


async def test_a_guest_whose_processor_fails_is_ended_as_crashed(
    harness: QemuHarness, hypervisor: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What KVM does with an instruction it cannot run: the guest stops unasked. Here a pause stands for it."""
    monkeypatch.setitem(monitor.POWER, "paused", "crashed")
    told: list[tuple[str, PowerState, str]] = []
    hypervisor.on_exit = lambda *exit: told.append(exit)
    spec = guest()
    await hypervisor.create(spec, 1, Images(), {})
    await hypervisor.resume(spec.server_id)
    await hypervisor.pause(spec.server_id)

    async def crashed() -> bool:
        return bool(told)

    assert await until(crashed) < 2
    assert told[0][:2] == (spec.server_id, "crashed")
    assert "processor failed" in told[0][2]
    assert await hypervisor.power(spec.server_id) == "crashed"


async def test_a_qemu_that_answers_nothing_counts_as_running_and_can_be_destroyed(
    harness: QemuHarness, hypervisor: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "COMMAND_LIMIT", 0.1)
    spec = guest()
    await hypervisor.create(spec, 1, Images(), {})
    os.kill(pid_of(spec.server_id), signal.SIGSTOP)
    with pytest.raises(HypervisorError, match=r"did not answer stop within 0\.1 s"):
        await hypervisor.pause(spec.server_id)
    assert await hypervisor.power(spec.server_id) == "running"
    async with asyncio.timeout(5):
        await hypervisor.destroy(spec.server_id)
    assert harness.leftovers() == []


async def test_a_qemu_that_answers_nothing_can_be_stopped(hypervisor: Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Softly, too: what cannot be asked is ended, as after a patience that went by."""
    monkeypatch.setattr(monitor, "COMMAND_LIMIT", 0.1)
    monkeypatch.setattr(monitor, "QUIT_LIMIT", 0.2)
    spec = guest()
    await hypervisor.create(spec, 1, Images(), {})
    await hypervisor.resume(spec.server_id)
    pid = pid_of(spec.server_id)
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(5):
        await hypervisor.stop(spec.server_id, hard=False)
    assert await hypervisor.power(spec.server_id) == "stopped"
    assert reaped(pid)


STARTS_GUESTS = """
import asyncio, sys
from pathlib import Path
from pileus.host.hypervisor import Images
from tests.host.hypervisor.parts import QemuHarness, guest

async def main():
    hypervisor = QemuHarness(Path(sys.argv[1])).make()
    await hypervisor.start()
    print("started", flush=True)
    while True:
        specs = [guest() for _ in range(3)]
        await asyncio.gather(*(hypervisor.create(spec, 1, Images(), {}) for spec in specs))
        await hypervisor.resume(specs[0].server_id)
        await asyncio.gather(*(hypervisor.destroy(spec.server_id) for spec in specs[1:]))

asyncio.run(main())
"""


@pytest.mark.parametrize("milliseconds", [5, 40, 130])
async def test_whoever_comes_after_a_killed_host_finds_all_that_it_started(harness: QemuHarness, tmp_path: Path, milliseconds: int) -> None:
    first = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTS_GUESTS, str(tmp_path), stdout=asyncio.subprocess.PIPE)
    assert first.stdout is not None
    assert await first.stdout.readline() == b"started\n"
    await asyncio.sleep(milliseconds / 1000)
    first.kill()
    await first.wait()
    made = harness.leftovers()
    hypervisor = harness.make()
    await hypervisor.start()
    try:
        found = {guest.spec.server_id: guest.power for guest in await hypervisor.found()}
        assert sorted(found) == sorted(harness.leftovers())
        assert set(processes_of(made)) == {server_id for server_id, power in found.items() if power != "stopped"}
        for server_id in found:
            await hypervisor.destroy(server_id)
        assert processes_of(made) == {}
        assert harness.leftovers() == []
    finally:
        await hypervisor.close()


async def test_many_guests_leave_no_descriptor_behind(hypervisor: Qemu) -> None:
    async def round_of_guests() -> int:
        specs = [guest() for _ in range(3)]
        await asyncio.gather(*(hypervisor.create(spec, 1, Images(), {}) for spec in specs))
        await asyncio.gather(*(hypervisor.destroy(spec.server_id) for spec in specs))
        return descriptors()

    first = await round_of_guests()
    assert await round_of_guests() <= first


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    harness = QemuHarness(deep)
    hypervisor = harness.make()
    await hypervisor.start()
    spec = guest()
    try:
        await hypervisor.create(spec, 1, harness.images, {})
        await hypervisor.resume(spec.server_id)
        await harness.booted(hypervisor, spec.server_id)
    finally:
        await hypervisor.destroy(spec.server_id)
        await hypervisor.close()


async def test_guests_can_be_ended_without_a_start(harness: QemuHarness, hypervisor: Qemu) -> None:
    one, two = guest(), guest()
    for spec in (one, two):
        await hypervisor.create(spec, 1, Images(), {})
    await hypervisor.close()
    ender = harness.make()
    try:
        assert len(await ender.found()) == 2
        await ender.stop(one.server_id, hard=True)
        await ender.destroy(two.server_id)
        assert processes_of([one.server_id, two.server_id]) == {}
        assert harness.leftovers() == [one.server_id]
        await ender.destroy(one.server_id)
    finally:
        await ender.close()


async def test_a_missing_emulator_is_one_clear_line(tmp_path: Path) -> None:
    hypervisor = QemuHarness(tmp_path, guest_emulator="qemu-system-nothing").make()
    with pytest.raises(StartupError, match="qemu-system-nothing is not installed"):
        await hypervisor.start()
    await hypervisor.close()


def test_an_overlay_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "overlay"
    with guestfolder.open_fd(path, os.O_RDWR | os.O_CREAT) as fd:
        write_overlay(fd, 5 << 30, Path("/base"), "qcow2")
        header = read_header(fd)
    assert header is not None
    assert (header.size, header.backing, header.external_data) == (5 << 30, "/base", False)


async def test_two_hosts_of_one_machine_know_their_own_guest_of_a_server(tmp_path: Path) -> None:
    """An evacuated server has one on each for a while: the first host, started again, removes what it has, and that alone."""
    spec = guest()
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    harnesses = [QemuHarness(place) for place in places]
    first, second = (harness.make() for harness in harnesses)
    for hypervisor in (first, second):
        await hypervisor.start()
        await hypervisor.create(spec, 1, Images(), {})
    await first.close()
    again = harnesses[0].make()
    await again.start()
    try:
        own = [processes_of([spec.server_id], harness.folder)[spec.server_id] for harness in harnesses]
        assert own[0] != own[1]
        assert [each.power for each in await again.found()] == ["paused"]
        await again.destroy(spec.server_id)
        assert processes_of([spec.server_id]) == {spec.server_id: own[1]}
        assert await second.power(spec.server_id) == "paused"
    finally:
        for hypervisor in (again, second):
            await hypervisor.destroy(spec.server_id)
            await hypervisor.close()
