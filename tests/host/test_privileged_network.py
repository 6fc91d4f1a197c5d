"""TAPs, links and network namespaces on the real kernel. Every test works in namespaces of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pileus.host import netlink, privileged
from pileus.host.privileged import Namespace
from tests.host.inside import run_in_namespace


def fresh_name() -> str:
    return f"pileustest-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def inside() -> AsyncIterator[Namespace]:
    name = fresh_name()
    privileged.create_namespace(name)
    namespace = Namespace(name)
    yield namespace
    namespace.close()
    privileged.delete_namespace(name)


async def test_a_tap_is_made_with_its_mtu_up_and_without_vnet_header(inside: Namespace) -> None:
    fd = await inside.run(privileged.open_tap, "tap0", 1342)
    _, text = await run_in_namespace(inside.name, ["ip", "-details", "link", "show", "tap0"], limit=10)
    assert "mtu 1342" in text and ",UP" in text
    assert "vnet_hdr off" in text and "pi off" in text and "persist on" in text
    # A guest's frame goes in as it is, without any header before it.
    frame = b"\xff" * 12 + b"\x88\xb5" + b"hello".ljust(46, b"\0")
    assert os.write(fd, frame) == len(frame)
    os.close(fd)


async def test_a_tap_stays_and_is_opened_again(inside: Namespace) -> None:
    os.close(await inside.run(privileged.open_tap, "tap0", 1400))
    assert await inside.run(privileged.list_taps) == ["tap0"]
    assert not await inside.run(privileged.tap_is_held, "tap0")
    fd = await inside.run(privileged.open_tap, "tap0", 1500)
    assert fd >= 0
    assert await inside.run(privileged.tap_is_held, "tap0")
    assert await inside.run(privileged.open_tap, "tap0", 1500) == -1
    os.close(fd)


async def test_a_tap_that_cannot_be_made_leaves_no_descriptor(inside: Namespace) -> None:
    before = await asyncio.to_thread(open_descriptors)
    with pytest.raises(OSError, match="Invalid argument"):
        await inside.run(privileged.open_tap, "tap/0", 1400)
    with pytest.raises(OSError, match="Invalid argument"):
        await inside.run(privileged.open_tap, "tap0", 10)
    assert await asyncio.to_thread(open_descriptors) == before


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nobody_holds_a_tap_that_is_not_there(inside: Namespace) -> None:
    assert not await inside.run(privileged.tap_is_held, "tap0")
    assert await inside.run(privileged.list_taps) == []


async def test_deleting_takes_those_named_held_or_not_and_no_other(inside: Namespace) -> None:
    fds = [await inside.run(privileged.open_tap, f"tap{number}", 1400) for number in range(5)]
    await inside.run(privileged.delete_links, ["tap0", "tap1", "tap2", "nosuch"])
    assert await inside.run(privileged.list_taps) == ["tap3", "tap4"]
    await inside.run(privileged.delete_links, ["tap3"])
    await inside.run(privileged.delete_links, ["tap3"])
    assert await inside.run(privileged.list_taps) == ["tap4"]
    for fd in fds:
        os.close(fd)


async def test_a_device_moves_into_a_namespace_with_mac_mtu_and_address(inside: Namespace) -> None:
    there = Namespace(fresh_name())
    privileged.create_namespace(there.name)
    try:
        fd = await inside.run(privileged.open_tap, "tap0", 1400)
        await inside.run(privileged.move_link, "tap0", there.name, mac="fa:16:3e:00:00:01", mtu=1300)
        assert "tap0" not in await inside.run(netlink.link_names)
        await there.run(netlink.set_link, "tap0", up=True)
        for _ in range(2):
            await there.run(netlink.add_address, "tap0", "192.0.2.1", 24)
            await there.run(netlink.add_address, "tap0", "2001:db8::1", 64)
        assert await there.run(privileged.has_address, "tap0")
        _, text = await run_in_namespace(there.name, ["ip", "address", "show", "tap0"], limit=10)
        for part in ("fa:16:3e:00:00:01", "mtu 1300", ",UP", "192.0.2.1/24", "2001:db8::1/64"):
            assert part in text
        assert "tentative" not in text.split("2001:db8::1/64")[1].split("\n")[0]
        # "" is where we are ourselves.
        await there.run(netlink.set_link, "tap0", up=False)
        assert not privileged.link_exists("tap0")
        os.close(fd)
    finally:
        there.close()
        privileged.delete_namespace(there.name)


async def test_a_device_without_an_address_has_none(inside: Namespace) -> None:
    assert not await inside.run(privileged.has_address, "tap0")
    os.close(await inside.run(privileged.open_tap, "tap0", 1400))
    assert not await inside.run(privileged.has_address, "tap0")


async def test_errors_of_the_kernel_come_through(inside: Namespace) -> None:
    with pytest.raises(OSError, match="No such device"):
        await inside.run(netlink.set_link, "nosuch", up=True)
    with pytest.raises(OSError, match="No such file"):
        await inside.run(privileged.move_link, "lo", "pileustest-none")


def test_namespaces_are_those_of_ip_netns() -> None:
    ours, theirs = fresh_name(), fresh_name()
    try:
        for _ in range(2):
            privileged.create_namespace(ours)
        subprocess.run(["ip", "netns", "add", theirs], check=True)
        assert {ours, theirs} <= set(privileged.list_namespaces("pileustest-"))
        listed = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
        assert ours in listed and theirs in listed
        assert privileged.namespace_exists(theirs)
        links = subprocess.run(["ip", "-n", ours, "-brief", "link"], check=True, capture_output=True, text=True).stdout
        assert links.split()[0] == "lo" and "UP" in links
    finally:
        for name in (ours, theirs):
            for _ in range(2):
                privileged.delete_namespace(name)
    assert not {ours, theirs} & set(privileged.list_namespaces())


def test_a_name_without_a_namespace_is_made_one() -> None:
    """What is left of a creation that was killed between its steps."""
    name = fresh_name()
    path = privileged.namespace_path(name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    try:
        assert not privileged.namespace_exists(name)
        privileged.create_namespace(name)
        assert privileged.namespace_exists(name)
    finally:
        privileged.delete_namespace(name)


async def test_without_ipv6_the_kernel_keeps_silent(inside: Namespace) -> None:
    name = fresh_name()
    privileged.create_namespace(name, ipv6=False)
    silent = Namespace(name)
    try:
        fd = await inside.run(privileged.open_tap, "other0", 1400)
        await inside.run(privileged.move_link, "other0", name)
        await silent.run(netlink.set_link, "other0", up=True)
        _, text = await run_in_namespace(name, ["ip", "-6", "address"], limit=10)
        assert "other0" not in text
        with pytest.raises(BlockingIOError):
            os.read(fd, 2000)
        os.close(fd)
    finally:
        silent.close()
        privileged.delete_namespace(name)


async def test_our_own_namespace_is_left_alone(inside: Namespace) -> None:
    before = own_namespace()
    assert await inside.run(own_namespace) != before
    assert own_namespace() == before
    ourselves = Namespace("")
    assert await ourselves.run(own_namespace) == before
    ourselves.close()


def own_namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


async def test_what_a_namespace_raises_comes_through() -> None:
    gone = Namespace("pileustest-none")
    with pytest.raises(OSError, match="No such file"):
        await gone.run(socket.if_nameindex)
    gone.close()
