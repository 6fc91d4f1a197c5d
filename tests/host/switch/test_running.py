"""What runs goes on: a TCP connection and pings between network namespaces, while rules, sets and ports change beside and under them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from pileus.host import privileged
from pileus.host.privileged import Namespace, tap_name
from pileus.host.switch import Filter
from pileus.host.switch.daemons import namespace_name
from pileus.messages import PortWiring
from tests.host.inside import run_in_namespace
from tests.host.lan import inside, ip
from tests.host.switch.frames import icmp
from tests.host.switch.rigs import LIMIT, OvsRig, network, wired, wiring
from tests.host.switch.test_security import IP, MAC, SENDS, rule, takes

TCP, ICMP = 6, 1
SERVES = (rule(protocol=TCP, port_min=5000, port_max=5010), rule(protocol=ICMP, port_min=8))


async def namespace_guest(rig: OvsRig, port: PortWiring, rules: Filter) -> str:
    """A guest with the kernel's own network stack: its device is a veth pair's end, and the other one is plugged in place of a TAP."""
    name, device = rig.namespace(), tap_name(port.port_id)
    switch, there = Namespace(namespace_name(rig.folder)), Namespace(name)
    try:
        await switch.run(privileged.ensure_pair, device, name, mtu=port.mtu)
        await there.run(privileged.set_end, device, mac=port.mac, mtu=port.mtu)
    finally:
        switch.close()
        there.close()
    ip("-n", name, "addr", "add", f"{port.fixed_ips[0].address}/24", "dev", device)
    await rig.switch.plug(port)
    await rig.switch.wire(port, rules)
    return name


async def test_what_runs_loses_no_packet_when_rules_change(ovs: OvsRig) -> None:
    one = network()
    client, server = wiring(1, one), wiring(2, one)
    try:
        await _loses_nothing(ovs, one, client, server)
    finally:
        await ovs.switch.unplug([client.port_id, server.port_id])


async def _loses_nothing(ovs: OvsRig, one: str, client: PortWiring, server: PortWiring) -> None:
    here, there = [await namespace_guest(ovs, port, rules) for port, rules in ((client, SENDS), (server, takes(*SERVES)))]
    listener = inside(there, lambda: socket.create_server((IP[2], 5001)))
    listener.setblocking(False)
    caller = inside(here, lambda: socket.create_connection((IP[2], 5001), timeout=LIMIT))
    pinger = inside(here, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    pinger.connect((IP[2], 0))
    for end in (caller, pinger):
        end.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LIMIT):
        taker, _ = await loop.sock_accept(listener)
        taker.setblocking(False)
        running = [asyncio.create_task(work) for work in (_talk(loop, caller, taker), _ping(loop, pinger))]
        for turn in range(30):
            await ovs.switch.address_set("friends", [f"10.0.0.{number}" for number in range(turn, turn + 20)])
            await ovs.switch.wire(server, takes(*SERVES, rule(protocol=17, port_min=turn, port_max=2 * turn), rule(remote_set="friends")))
            await ovs.switch.wire(client, Filter(rules=(*SENDS.rules, rule(protocol=TCP, port_min=turn + 1, port_max=turn + 1))))
            other = wiring(10 + turn, one)
            await wired(ovs, other)
            await ovs.switch.unplug([other.port_id])
        for task in running:
            task.cancel()
        await asyncio.wait(running)
    lost = [_retransmitted(end) for end in (caller, taker)]
    for end in (caller, taker, listener, pinger):
        end.close()
    assert all(task.cancelled() for task in running), [task.exception() for task in running if not task.cancelled()]
    assert lost == [0, 0]
    # And the rules do hold: another port of the server's is closed.
    assert (await run_in_namespace(here, ["timeout", "0.3", "bash", "-c", f"exec 3<>/dev/tcp/{IP[2]}/4999"], limit=LIMIT))[0] == 124


async def _talk(loop: asyncio.AbstractEventLoop, caller: Any, taker: Any) -> None:
    """To and fro without an end; nothing is lost, doubled or changed."""
    number = 0
    while True:
        number += 1
        said = struct.pack("!I", number) * 200
        await loop.sock_sendall(caller, said)
        heard = b""
        while len(heard) < len(said):
            heard += await loop.sock_recv(taker, len(said) - len(heard))
        assert heard == said
        await loop.sock_sendall(taker, said)
        heard = b""
        while len(heard) < len(said):
            heard += await loop.sock_recv(caller, len(said) - len(heard))
        assert heard == said


async def _ping(loop: asyncio.AbstractEventLoop, pinger: Any) -> None:
    """One after the other without an end; each is answered."""
    number = 0
    while True:
        number += 1
        said = icmp(MAC[1], MAC[2], IP[1], IP[2], number=number & 0xFFFF, data=bytes(40))[34:]
        await loop.sock_sendall(pinger, said)
        async with asyncio.timeout(5):
            while (heard := await loop.sock_recv(pinger, 2048))[24:26] != said[4:6] or heard[20] != 0:
                pass
        await asyncio.sleep(0.001)


def _retransmitted(end: socket.socket) -> int:
    """Segments that had to be sent again (tcpi_total_retrans)."""
    return int(struct.unpack_from("=I", end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])
