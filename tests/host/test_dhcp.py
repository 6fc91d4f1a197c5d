"""DHCP: what every implementation of the seam does, and dnsmasq with a client that speaks the protocol."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pileus.errors import StartupError
from pileus.host import dnsmasq_files, privileged
from pileus.host.dhcp import Dhcp, DhcpError, Entry, SimulatedDhcp, entry_of, static_routes
from pileus.host.dnsmasq import Dnsmasq
from pileus.messages import FixedIP, HostRoute, PortWiring, SubnetWiring
from pileus.settings import Network
from tests.host.lan import Client, Lan, ip

NET = "net-0001"
SUBNET = SubnetWiring("sub-1", "10.9.0.0/16", 4, "10.9.0.1", True, "10.9.0.2", ["10.9.0.53", "fd00::53"], [])


def port(number: int, **changes: Any) -> PortWiring:
    facts: dict[str, Any] = {
        "port_id": f"port-{number}",
        "generation": 1,
        "network_id": NET,
        "network_type": "local",
        "physical_network": None,
        "segmentation_id": None,
        "mtu": 1450,
        "mac": f"fa:16:3e:00:00:{number:02x}",
        "fixed_ips": [FixedIP("sub-1", f"10.9.1.{number}")],
        "subnets": [SUBNET],
    }
    return PortWiring(**(facts | changes))


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = Lan()
    yield made
    made.close()


@pytest.fixture
async def server(lan: Lan, tmp_path: Path) -> AsyncIterator[Dnsmasq]:
    made = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
    await made.start()
    yield made
    await made.stop_all()
    await made.close()
    assert ours(made) == [] and processes(tmp_path) == []


@pytest.fixture(params=["dnsmasq", "simulated"])
def dhcp(request: pytest.FixtureRequest) -> Dhcp:
    if request.param == "simulated":
        return SimulatedDhcp()
    found: Dnsmasq = request.getfixturevalue("server")
    return found


def ours(server: Dnsmasq) -> list[str]:
    return privileged.list_namespaces(server._namespace(""))


def processes(folder: Path) -> list[int]:
    """Ids of the processes that were started with a file of this folder."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if str(folder).encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


async def asked(lan: Lan, number: int, mac: str = "", client_id: bytes = b"", limit: float = 5.0) -> Client:
    """A client that has got its lease."""
    client = lan.client(NET, mac or f"fa:16:3e:00:00:{number:02x}", client_id)
    try:
        await asyncio.to_thread(client.lease_now, limit)
    finally:
        client.close()
    return client


async def address(lan: Lan, number: int, mac: str = "", client_id: bytes = b"") -> str:
    lease = (await asked(lan, number, mac, client_id)).lease
    assert lease is not None and lease.kind == 5
    return lease.address


async def soon(true: Callable[[], bool], limit: float) -> None:
    async with asyncio.timeout(limit):
        while not true():
            await asyncio.sleep(0.01)


class TestContract:
    async def test_knows_what_was_ensured_until_released(self, dhcp: Dhcp) -> None:
        await dhcp.ensure(port(5))
        await dhcp.ensure(port(5))
        await dhcp.ensure(port(6, network_id="net-0002"))
        assert await dhcp.known() == {"port-5": NET, "port-6": "net-0002"}
        await dhcp.release(["port-5", "port-of-nobody"])
        await dhcp.release(["port-5"])
        assert await dhcp.known() == {"port-6": "net-0002"}
        await dhcp.stop_all()
        assert await dhcp.known() == {}

    async def test_a_port_without_dhcp_is_no_entry(self, dhcp: Dhcp) -> None:
        off = SubnetWiring("sub-1", "10.9.0.0/16", 4, "10.9.0.1", False, None)
        await dhcp.ensure(port(5, subnets=[off]))
        await dhcp.ensure(port(6, fixed_ips=[]))
        assert await dhcp.known() == {}
        await dhcp.ensure(port(5))
        await dhcp.ensure(port(5, subnets=[off]))
        assert await dhcp.known() == {}

    async def test_a_release_takes_what_a_cancelled_caller_had_begun(self, dhcp: Dhcp) -> None:
        first, second = (asyncio.create_task(dhcp.ensure(port(number))) for number in (5, 6))
        await asyncio.sleep(0.01)  # the second waits for the server that the first one starts
        second.cancel()
        await asyncio.wait([second])
        await dhcp.release(["port-6"])
        await first
        await dhcp.ensure(port(7))
        assert await dhcp.known() == {"port-5": NET, "port-7": NET}

    async def test_a_port_moves_to_another_network(self, dhcp: Dhcp) -> None:
        await dhcp.ensure(port(5))
        await dhcp.ensure(port(5, network_id="net-0002"))
        assert await dhcp.known() == {"port-5": "net-0002"}


class TestAnswers:
    async def test_address_and_options(self, server: Dnsmasq, lan: Lan) -> None:
        routes = [HostRoute("192.168.0.0/16", "10.9.0.9")]
        subnet = SubnetWiring("sub-1", "10.9.0.0/16", 4, "10.9.0.1", True, "10.9.0.2", ["10.9.0.53", "fd00::53"], routes)
        await server.ensure(port(5, subnets=[subnet], dns_name="web-1"))
        lease = (await asked(lan, 5)).lease
        assert lease is not None
        assert (lease.kind, lease.address, lease.server) == (5, "10.9.1.5", "10.9.0.2")
        assert lease.options[1] == socket.inet_aton("255.255.0.0")
        assert lease.options[3] == socket.inet_aton("10.9.0.1")
        assert lease.options[6] == socket.inet_aton("10.9.0.53")
        assert lease.options[12] == b"web-1"
        assert lease.options[26] == (1450).to_bytes(2, "big")
        assert lease.options[51] == (86400).to_bytes(4, "big")
        assert lease.options[121] == bytes([16, 192, 168, 10, 9, 0, 9, 0, 10, 9, 0, 1])

    async def test_no_gateway_no_dns_no_router(self, server: Dnsmasq, lan: Lan) -> None:
        bare = SubnetWiring("sub-1", "10.9.0.0/16", 4, None, True, "10.9.0.2")
        await server.ensure(port(5, subnets=[bare]))
        lease = (await asked(lan, 5)).lease
        assert lease is not None and not lease.options.keys() & {3, 6, 121}

    async def test_lease_time_is_the_setting(self, lan: Lan, tmp_path: Path) -> None:
        server = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(dhcp_lease=1234), "host-1")
        await server.start()
        try:
            await server.ensure(port(5))
            lease = (await asked(lan, 5)).lease
            assert lease is not None and lease.options[51] == (1234).to_bytes(4, "big")
        finally:
            await server.stop_all()
            await server.close()

    async def test_strangers_are_not_answered(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        with pytest.raises(TimeoutError):
            await asked(lan, 5, mac="fa:16:3e:99:99:99", limit=0.6)

    async def test_a_released_port_is_not_answered(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        await server.ensure(port(6))
        assert await address(lan, 5) == "10.9.1.5"
        await server.release(["port-5"])
        with pytest.raises(TimeoutError):
            await asked(lan, 5, limit=0.6)
        assert await address(lan, 6) == "10.9.1.6"

    async def test_same_address_new_mac_within_the_lease_time(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        await server.ensure(port(6))
        assert await address(lan, 5, client_id=b"\xff\x01guest-5") == "10.9.1.5"
        process = server._servers[NET].pid
        await server.release(["port-5"])
        await server.ensure(port(7, fixed_ips=[FixedIP("sub-1", "10.9.1.5")]))
        assert await address(lan, 7, client_id=b"\xff\x01guest-7") == "10.9.1.5"
        assert server._servers[NET].pid == process, "done by the same server, not by a new one"

    async def test_the_create_overtakes_the_delete(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        assert await address(lan, 5) == "10.9.1.5"
        await server.ensure(port(7, fixed_ips=[FixedIP("sub-1", "10.9.1.5")]))
        await server.release(["port-5"])
        assert await address(lan, 7) == "10.9.1.5"
        assert await server.known() == {"port-7": NET}

    async def test_the_only_port_changes_its_mac(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        assert await address(lan, 5) == "10.9.1.5"
        await server.ensure(port(5, mac="fa:16:3e:00:00:77"))
        assert await address(lan, 5, mac="fa:16:3e:00:00:77") == "10.9.1.5"
        with pytest.raises(TimeoutError):
            await asked(lan, 5, limit=0.6)

    async def test_a_guest_that_changes_its_client_id(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        assert await address(lan, 5, client_id=b"\x01boot-loader") == "10.9.1.5"
        assert await address(lan, 5, client_id=b"\xffsystem") == "10.9.1.5"

    async def test_a_second_subnet(self, server: Dnsmasq, lan: Lan) -> None:
        other = SubnetWiring("sub-2", "10.20.0.0/24", 4, "10.20.0.1", True, "10.20.0.2", ["10.20.0.53"])
        await server.ensure(port(5))
        await server.ensure(port(6, fixed_ips=[FixedIP("sub-2", "10.20.0.6")], subnets=[SUBNET, other]))
        first, second = (await asked(lan, 5)).lease, (await asked(lan, 6)).lease
        assert first is not None and second is not None
        assert (first.address, first.options[3]) == ("10.9.1.5", socket.inet_aton("10.9.0.1"))
        assert (second.address, second.options[3]) == ("10.20.0.6", socket.inet_aton("10.20.0.1"))
        assert second.options[6] == socket.inet_aton("10.20.0.53")
        # Its last port gone, the subnet goes with the next one that comes, and its address from the device.
        await server.release(["port-6"])
        await server.ensure(port(7))
        assert list(server._servers[NET].facts.subnets) == ["sub-1"]
        assert "10.20.0" not in server._servers[NET].config
        assert await address(lan, 7) == "10.9.1.7"

    async def test_a_subnet_gets_another_dns_server(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        changed = SubnetWiring("sub-1", "10.9.0.0/16", 4, "10.9.0.1", True, "10.9.0.2", ["10.9.0.99"])
        await server.ensure(port(5, generation=2, subnets=[changed]))
        lease = (await asked(lan, 5)).lease
        assert lease is not None and lease.options[6] == socket.inet_aton("10.9.0.99")

    async def test_many_at_once(self, server: Dnsmasq, lan: Lan) -> None:
        await asyncio.gather(*(server.ensure(port(number)) for number in range(10, 40)))
        assert [await address(lan, number) for number in (10, 25, 39)] == ["10.9.1.10", "10.9.1.25", "10.9.1.39"]
        await server.release([f"port-{number}" for number in range(10, 39)])
        assert await server.known() == {"port-39": NET}


class TestLife:
    async def test_nothing_is_left_after_the_last_port(self, server: Dnsmasq, lan: Lan, tmp_path: Path) -> None:
        await server.ensure(port(5))
        assert len(ours(server)) == 1 and len(processes(tmp_path)) == 1
        await server.release(["port-5"])
        assert ours(server) == [] and processes(tmp_path) == [] and list((tmp_path / "dhcp").iterdir()) == []
        assert NET in lan.removed

    async def test_unprivileged_and_in_a_session_of_its_own(self, lan: Lan) -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o711)  # noqa: PTH101
            server = Dnsmasq(Path(folder), lan.as_switch(), Network(), "host-1")
            await server.start()
            try:
                await server.ensure(port(5))
                await server.ensure(port(6))
                pid = server._servers[NET].pid
                assert os.stat(f"/proc/{pid}").st_uid != 0  # noqa: PTH116
                assert os.getsid(pid) != os.getsid(0)
                assert await address(lan, 6) == "10.9.1.6"
                await server.release(["port-5"])
                assert server._servers[NET].pid == pid
            finally:
                await server.stop_all()
                await server.close()

    async def test_a_killed_server_is_back_within_two_seconds(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        killed = server._servers[NET].pid
        os.kill(killed, signal.SIGKILL)
        await soon(lambda: server._servers[NET].pid not in (0, killed), 2.0)
        assert await address(lan, 5) == "10.9.1.5"

    async def test_killed_at_the_moment_of_a_release(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        await server.ensure(port(6))
        os.kill(server._servers[NET].pid, signal.SIGKILL)
        await server.release(["port-5"])
        await server.ensure(port(7, fixed_ips=[FixedIP("sub-1", "10.9.1.5")]))
        assert await address(lan, 7) == "10.9.1.5"

    async def test_goes_on_without_us_and_is_adopted(self, lan: Lan, tmp_path: Path) -> None:
        first = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await first.start()
        await first.ensure(port(5))
        pid = first._servers[NET].pid
        await first.close()
        assert await address(lan, 5) == "10.9.1.5"
        second = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await second.start()
        try:
            assert await second.known() == {"port-5": NET}
            await second.ensure(port(5))
            await second.ensure(port(6))
            assert second._servers[NET].pid == pid
            await second.release(["port-5"])
            await second.ensure(port(7, fixed_ips=[FixedIP("sub-1", "10.9.1.5")]))
            assert await address(lan, 7) == "10.9.1.5"
        finally:
            await second.stop_all()
            await second.close()
        assert processes(tmp_path) == []

    async def test_a_server_that_died_while_we_were_away(self, lan: Lan, tmp_path: Path) -> None:
        first = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await first.start()
        await first.ensure(port(5))
        pid = first._servers[NET].pid
        await first.close()
        os.kill(pid, signal.SIGKILL)
        await soon(lambda: pid not in processes(tmp_path), 2.0)
        second = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await second.start()
        try:
            await soon(lambda: second._servers[NET].pid != 0, 2.0)
            assert await address(lan, 5) == "10.9.1.5"
        finally:
            await second.stop_all()
            await second.close()

    async def test_what_belongs_to_nobody_goes_at_the_start(self, lan: Lan, tmp_path: Path) -> None:
        first = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await first.start()
        await first.ensure(port(5))
        await first.close()
        for file in (tmp_path / "dhcp" / NET / "hosts").glob("port-*"):
            file.write_text("cut o")
        second = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await second.start()
        await second.close()
        assert await second.known() == {}
        assert ours(second) == [] and processes(tmp_path) == []

    async def test_a_device_that_vanished_is_made_again(self, server: Dnsmasq, lan: Lan) -> None:
        await server.ensure(port(5))
        held = server._servers[NET]
        ip("-n", held.namespace, "link", "del", held.device)
        await server.ensure(port(5))
        assert await address(lan, 5) == "10.9.1.5"

    async def test_a_cancelled_caller_leaves_nothing_half_done(self, server: Dnsmasq, lan: Lan) -> None:
        waiting = asyncio.create_task(server.ensure(port(5)))
        await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await server.ensure(port(5))
        assert await address(lan, 5) == "10.9.1.5"
        leaving = asyncio.create_task(server.release(["port-5"]))
        await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await soon(lambda: ours(server) == [], 3.0)

    async def test_a_start_that_fails_says_why_and_is_tried_again(self, server: Dnsmasq, lan: Lan) -> None:
        program = server._program
        server._program = "/bin/false"
        with pytest.raises(DhcpError, match=f"DHCP of network {NET}: .*exit code 1"):
            await server.ensure(port(5))
        server._program = program
        await soon(lambda: server._servers[NET].pid != 0, 3.0)
        assert await address(lan, 5) == "10.9.1.5"

    async def test_too_many_servers_for_the_machine_names_the_sysctl(self, server: Dnsmasq, tmp_path: Path) -> None:
        program = tmp_path / "refuses"
        program.write_text("#!/bin/sh\necho 'dnsmasq: failed to create inotify: Too many open files' >&2; exit 1\n")
        program.chmod(0o755)
        server._program = str(program)
        with pytest.raises(DhcpError, match=r"Too many open files; raise the sysctl fs\.inotify\.max_user_instances"):
            await server.ensure(port(5))

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_any_order_of_calls_and_kills_ends_in_what_was_asked_for(self, server: Dnsmasq, lan: Lan, seed: int) -> None:
        chance = random.Random(seed)
        wanted: dict[int, PortWiring] = {}

        async def one_after_another(numbers: Sequence[int]) -> None:
            for _ in range(20):
                number = chance.choice(numbers)
                if chance.random() < 0.6:
                    mac = f"fa:16:3e:{chance.randrange(3):02x}:00:{number:02x}"
                    wanted[number] = port(number, network_id=chance.choice(["net-000a", "net-000b"]), mac=mac)
                    await server.ensure(wanted[number])
                elif chance.random() < 0.95:
                    await server.release([f"port-{number}"])
                    wanted.pop(number, None)
                else:
                    for pid in [held.pid for held in server._servers.values() if held.pid]:
                        os.kill(pid, signal.SIGKILL)

        await asyncio.gather(*(one_after_another(range(first, first + 4)) for first in range(1, 33, 4)))
        assert await server.known() == {one.port_id: one.network_id for one in wanted.values()}
        for one in wanted.values():
            client = lan.client(one.network_id, one.mac)
            lease = await asyncio.to_thread(client.lease_now)
            client.close()
            assert lease.address == one.fixed_ips[0].address

    async def test_the_log_does_not_grow_for_ever(self, server: Dnsmasq, lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dnsmasq_files, "LOG_CAP", 2000)
        for number in range(10, 60):
            await server.ensure(port(number))
            assert server._servers[NET].log_end < 2000 + 1000
        assert await address(lan, 42) == "10.9.1.42"

    async def test_closing_does_not_wait_for_the_next_try(self, lan: Lan, tmp_path: Path) -> None:
        server = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await server.start()
        program, server._program = server._program, "/bin/false"
        with pytest.raises(DhcpError):
            await server.ensure(port(5))
        begun = time.monotonic()
        await server.close()
        assert time.monotonic() - begun < 0.4
        server = Dnsmasq(tmp_path / "dhcp", lan.as_switch(), Network(), "host-1")
        await server.start()
        assert server._program == program
        await server.stop_all()
        await server.close()

    async def test_missing_program(self, lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(StartupError, match="dnsmasq-base"):
            await Dnsmasq(tmp_path, lan.as_switch(), Network()).start()

    async def test_the_devices_mac_tells_hosts_apart(self, server: Dnsmasq, lan: Lan, tmp_path: Path) -> None:
        await server.ensure(port(5))
        again, other = (Dnsmasq(tmp_path, lan.as_switch(), Network(), name)._mac(NET) for name in ("host-1", "host-2"))
        assert lan.macs[NET] == again != other
        assert int(again[:2], 16) & 3 == 2, "locally administered, not a group address"

    async def test_ids_that_would_leave_the_folder(self, server: Dnsmasq) -> None:
        with pytest.raises(DhcpError, match="cannot be an id"):
            await server.ensure(port(5, port_id="../evil"))


async def test_adding_a_port_costs_the_same_however_many_there_are(server: Dnsmasq) -> None:
    """Law 4: no file but the port's own is written."""
    await server.ensure(port(1))
    await server.ensure(port(2))
    folder = server._servers[NET].folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "log"}
    begun = time.monotonic()
    await server.ensure(port(3))
    assert time.monotonic() - begun < 1.0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "log"}
    assert before.items() <= after.items() and len(after) == len(before) + 1


def test_entry_is_the_first_address_that_dhcp_can_give() -> None:
    six = SubnetWiring("sub-6", "fd00::/64", 6, None, True, "fd00::2")
    off = SubnetWiring("sub-0", "10.1.0.0/24", 4, None, False, None)
    given = port(
        5,
        subnets=[six, off, SUBNET],
        mac="FA:16:3E:00:00:05",
        fixed_ips=[FixedIP("sub-6", "fd00::5"), FixedIP("sub-0", "10.1.0.5"), FixedIP("sub-1", "10.9.1.5"), FixedIP("sub-1", "10.9.1.6")],
        dns_name="db.example.org.",
    )  # fmt: skip
    assert entry_of(given) == Entry("port-5", NET, "fa:16:3e:00:00:05", "10.9.1.5", "sub-1", "db")
    bad_name = entry_of(port(5, dns_name="a,set:x"))
    assert bad_name is not None and bad_name.hostname == ""


@pytest.mark.parametrize(
    ("gateway", "routes", "expected"),
    [
        ("10.9.0.1", [], []),
        (None, [("10.0.0.0/8", "10.9.0.9")], [("10.0.0.0/8", "10.9.0.9")]),
        ("10.9.0.1", [("10.0.0.0/8", "10.9.0.9")], [("10.0.0.0/8", "10.9.0.9"), ("0.0.0.0/0", "10.9.0.1")]),
        ("10.9.0.1", [("0.0.0.0/0", "10.9.0.9")], [("0.0.0.0/0", "10.9.0.9")]),
        ("10.9.0.1", [("fd00::/8", "fd00::1")], []),
    ],
)
def test_static_routes(gateway: str | None, routes: list[tuple[str, str]], expected: list[tuple[str, str]]) -> None:
    subnet = SubnetWiring("s", "10.9.0.0/16", 4, gateway, True, "10.9.0.2", [], [HostRoute(*route) for route in routes])
    assert [(str(net), str(hop)) for net, hop in static_routes(subnet)] == expected
