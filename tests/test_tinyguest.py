"""The tiny guest: made of packages, booted under emulation, used through its console and its network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from pileus import tinyguest
from pileus.errors import StartupError
from pileus.host import configdrive
from pileus.host.dnsmasq import Dnsmasq
from pileus.messages import BootSource, FixedIP, GuestSpec, HostRoute, PortWiring, SubnetWiring
from pileus.settings import Network
from pileus.tinyguest import TinyGuest
from tests.host.lan import Lan

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="the tiny guest is made of Debian's packages")


@pytest.fixture(scope="module")
def guest() -> TinyGuest:
    """Kept between runs, where `make demo` keeps it too."""
    return tinyguest.build(tinyguest.default_folder())


class Console:
    """A guest under TCG, with its serial console on our pipes and QEMU's user-mode network (its DHCP gives 10.0.2.15)."""

    def __init__(self, process: asyncio.subprocess.Process, qmp: Path, port: int) -> None:
        self.process = process
        self.qmp = qmp
        self.port = port
        self.seen = ""
        self.before = ""
        """What stood before the last thing that was waited for."""

    async def until(self, pattern: str, limit: float = 60.0) -> re.Match[str]:
        """Read on until the console has shown this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(limit):
            while (found := re.search(pattern, self.seen, re.MULTILINE)) is None:
                data = await self.process.stdout.read(4096)
                assert data, f"the guest ended; its console: {self.seen[-2000:]}"
                self.seen += data.decode(errors="replace")
        self.before, self.seen = self.seen[: found.start()], self.seen[found.end() :]
        return found

    async def type(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        await self.process.stdin.drain()

    async def press_power_button(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self.qmp)
        for command in ("qmp_capabilities", "system_powerdown"):
            writer.write(json.dumps({"execute": command}).encode())
            await writer.drain()
            while b"return" not in await asyncio.wait_for(reader.readline(), 5):
                continue
        writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def user_network(port: int) -> list[str]:
    return [
        "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:{tinyguest.ECHO_PORT}",
        "-device", "virtio-net-pci,netdev=n0,romfile=",
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def booted(
    guest: TinyGuest, folder: Path, *more: str, around: Sequence[str] = (), network: Sequence[str] | None = None
) -> AsyncIterator[Console]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *around,
        "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "128",
        "-kernel", str(guest.kernel), "-initrd", str(guest.ramdisk), "-append", tinyguest.COMMAND_LINE,
        "-serial", "stdio", "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
        *(user_network(port) if network is None else network), *more,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Console(process, folder / "qmp", port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_boots_gets_an_address_answers_and_powers_off(guest: TinyGuest, tmp_path: Path) -> None:
    begun = time.monotonic()
    async with booted(guest, tmp_path) as console:
        await console.until(tinyguest.READY)
        ready = time.monotonic() - begun
        assert (await console.until(rf"{tinyguest.ADDRESS} (\S+ \S+)\r?\n")).group(1) == "eth0 10.0.2.15/24"
        addressed = time.monotonic() - begun
        await console.type("ip route | grep -c default; echo $((6*7))")
        await console.until(r"^1\r?\n42\r?\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", console.port)
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"hello\n"
        writer.close()
        await console.press_power_button()
        assert await asyncio.wait_for(console.process.wait(), 30) == 0
    print(f"ready after {ready:.2f} s, address after {addressed:.2f} s")


async def test_reboots_and_powers_off_from_the_shell(guest: TinyGuest, tmp_path: Path) -> None:
    async with booted(guest, tmp_path) as console:
        await console.until(r"guest# ")
        await console.type("reboot")
        await console.until(tinyguest.READY)
        await console.until(r"guest# ")
        await console.type("poweroff")
        assert await asyncio.wait_for(console.process.wait(), 30) == 0


async def test_reads_its_config_drive_and_runs_user_data(guest: TinyGuest, tmp_path: Path) -> None:
    spec = GuestSpec(
        "5f3c1d52-7a14-4b3e-9f0f-0d8a5b8ff001", "web", "web-1", "p", 1, 128, 0, BootSource(), [],
        user_data="IyEvYmluL3NoCmVjaG8gdXNlciBkYXRhIG9uICQoaG9zdG5hbWUpCg==",
    )  # fmt: skip
    configdrive.build(spec, tmp_path / "config.iso")
    drive = ("-drive", f"if=none,id=c,format=raw,readonly=on,file={tmp_path}/config.iso", "-device", "virtio-blk-pci,drive=c")
    async with booted(guest, tmp_path, *drive) as console:
        await console.until(f"PILEUS-GUEST-CONFIG-DRIVE {spec.server_id}")
        await console.until(r"user data on web-1\r?\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are root's")
async def test_takes_all_that_our_dhcp_gives(guest: TinyGuest, tmp_path: Path) -> None:
    mac, routes = "fa:16:3e:00:00:05", [HostRoute("192.168.0.0/16", "10.9.0.9")]
    subnet = SubnetWiring("sub-1", "10.9.0.0/16", 4, "10.9.0.1", True, "10.9.0.2", ["10.9.0.53"], routes)
    address = [FixedIP("sub-1", "10.9.1.5")]
    port = PortWiring("port-5", 1, "net-0001", "local", None, None, 1400, mac, address, [subnet])
    lan = Lan()
    server = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
    await server.start()
    try:
        await server.ensure(port)
        tap = lan.tap("net-0001")
        network = ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off"]
        network += ["-device", f"virtio-net-pci,netdev=n0,mac={mac},romfile="]
        around = ["ip", "netns", "exec", lan.namespace]
        async with booted(guest, tmp_path, around=around, network=network) as console:
            assert (await console.until(rf"{tinyguest.ADDRESS} (\S+ \S+)\r?\n")).group(1) == "eth0 10.9.1.5/16"
            await console.type("ip route; cat /etc/resolv.conf /sys/class/net/eth0/mtu; echo en''d")
            await console.until(r"end\r?\n")
            for line in ("default via 10.9.0.1 dev eth0", "192.168.0.0/16 via 10.9.0.9 dev eth0", "nameserver 10.9.0.53", "1400"):
                assert re.search(rf"^{re.escape(line)}", console.before, re.MULTILINE), console.before
            await console.type("ping -c 1 -W 5 10.9.0.2")
            await console.until("1 packets received")
    finally:
        await server.stop_all()
        await server.close()
        lan.close()


def test_a_second_build_finds_the_first(guest: TinyGuest) -> None:
    begun = time.monotonic()
    folder = guest.kernel.parent.parent
    assert tinyguest.build(folder) == tinyguest.find(folder) == guest
    assert time.monotonic() - begun < 0.2


def test_find_believes_only_a_whole_guest(guest: TinyGuest, tmp_path: Path) -> None:
    assert tinyguest.find(tmp_path) is None
    shutil.copytree(guest.kernel.parent, tmp_path / guest.kernel.parent.name)
    copy = tinyguest.find(tmp_path)
    assert copy is not None and copy.kernel.read_bytes() == guest.kernel.read_bytes()
    os.truncate(copy.ramdisk, 1000)
    assert tinyguest.find(tmp_path) is None


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = tinyguest.cpio(
        [
            ("d", stat.S_IFDIR | 0o755, b"", 0),
            ("d/file", stat.S_IFREG | 0o644, b"content", 0),
            ("d/link", stat.S_IFLNK | 0o777, b"file", 0),
        ]
    )
    busybox = tinyguest._run(["sh", "-c", "command -v cpio busybox | head -n 1"], cwd=tmp_path).strip()
    if busybox:  # a reader of its own; the kernel is the other one, in the boots above
        applet = [] if busybox.endswith("/cpio") else ["cpio"]
        subprocess.run([busybox, *applet, "-i"], input=archive, cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / "d" / "file").read_bytes() == b"content" and (tmp_path / "d" / "link").readlink() == Path("file")
    assert len(archive) % 4 == 0 and archive.startswith(b"070701") and b"TRAILER!!!" in archive


def test_modules_come_after_what_they_depend_on() -> None:
    def module(*depends: str) -> bytes:
        return b"\x7fELF..\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0vermagic=6\0"

    files = {
        "lib/modules/6/kernel/virtio-pci.ko": module("virtio", "virtio_ring"),
        "lib/modules/6/kernel/virtio.ko": module(),
        "lib/modules/6/kernel/virtio_ring.ko": module("virtio"),
        "lib/modules/6/kernel/virtio_net.ko": module("net_failover"),
        "lib/modules/6/kernel/net_failover.ko": module(),
        "lib/modules/6/modules.builtin": b"kernel/drivers/block/virtio_blk.ko\n",
    }
    order = [name for name, _ in tinyguest._modules(files)]
    assert order == ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "net_failover.ko", "virtio_net.ko"]
    del files["lib/modules/6/kernel/virtio_net.ko"]
    with pytest.raises(StartupError, match="virtio_net"):
        tinyguest._modules(files)


def test_no_packages_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinyguest, "_KERNELS", ("linux-image-of-nobody",))
    with pytest.raises(StartupError, match="apt-get update"):
        tinyguest.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
