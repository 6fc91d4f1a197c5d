"""The demo's cloud: started, filled through the public APIs only, looked into, emptied, ended."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from pileus import tinyguest
from pileus.cli import bars
from pileus.cli.client import ApiError, Client
from pileus.cli.demo.inside import NotProved, Shell, wait_for_boot
from pileus.cli.demo.leftovers import Count, count
from pileus.cli.demo.show import Show
from pileus.cli.down import stop
from pileus.cli.teardown import teardown
from pileus.errors import StartupError
from pileus.settings import Settings
from pileus.tinyguest import TinyGuest

FLAVOR = "m1.nano"
CIDR = "192.168.77.0/24"
NAMES = ("alpha", "beta")
DISK_SIZE = 1 << 20
UP_LIMIT = 60.0
ACTIVE_LIMIT = 60.0
GONE_LIMIT = 60.0
END_LIMIT = 60.0
POLL = 0.005
POWER_OFF = 2.0
"""Seconds that guests have to power off by themselves when the demo is cut short."""

OF_ITS_OWN = {"PILEUS_DATABASE__URL": "", "PILEUS_BUS__URL": "", "PILEUS_METRICS__LISTEN": ""}
"""A cloud that is thrown away takes nothing of one that is kept, even where the environment names its parts."""


class Demo:
    """One run. `home` holds all of the cloud's files: its state folder and its log."""

    def __init__(self, settings: Settings, show: Show, guest: TinyGuest | None, home: Path) -> None:
        self.show = show
        self.guest = guest
        self.home = home
        self.state = home / "state"
        self.log = home / "pileus.log"
        compute = msgspec.structs.replace(settings.compute, shutdown_timeout=POWER_OFF)
        self.settings = msgspec.structs.replace(settings, state=str(self.state), compute=compute)
        self.networks: list[str] = []
        self.counts: dict[str, Count] = {}
        self._process: subprocess.Popen[str] | None = None

    # --- the cloud

    def start(self) -> Client:
        """`pileus up` as a process of its own. Raises StartupError with what it said."""
        kind = "qemu" if self.guest else "simulated"
        command = [sys.executable, "-m", "pileus", "up", "--state", str(self.state), "--listen", "127.0.0.1:0", "--hypervisor", kind]
        # KVM is proved in the background, too late for two servers that are made at once; this cloud does not live long enough.
        environment = {"PILEUS_HOST__ACCELERATION": "tcg", **os.environ, **OF_ITS_OWN}
        try:
            with self.log.open("w") as log:
                self._process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, env=environment
                )
        except OSError as error:
            raise StartupError(f"the cloud did not start: {error.filename}: {error.strerror}") from None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            said = self._process.stdout.readline() if selector.select(UP_LIMIT) else ""
        if "is up" not in said:
            lines = self.log.read_text().strip().splitlines()
            raise StartupError(f"the cloud did not start: {lines[-1].removeprefix('pileus: ') if lines else 'it said nothing'}")
        return Client.of_state(self.state)

    def end(self) -> None:
        """What `pileus down --guests` does; then the files go. Nothing of it depends on how far the demo came."""
        process = self._process
        if process is not None:
            try:
                stop(self.state, process.pid, END_LIMIT)
                process.wait(END_LIMIT)
            except (StartupError, subprocess.TimeoutExpired):
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        teardown(self.settings)
        shutil.rmtree(self.home, ignore_errors=True)

    def count(self, moment: str) -> Count:
        self.counts[moment] = count(self.home, self.settings.host.bridge, self.networks)
        return self.counts[moment]

    # --- what is made

    def upload(self, client: Client, name: str, disk_format: str, data: Iterator[bytes], **properties: str) -> dict[str, Any]:
        container = "bare" if disk_format == "raw" else disk_format
        body = {"name": name, "disk_format": disk_format, "container_format": container, **properties}
        image: dict[str, Any] = client.post("image", "/v2/images", body)
        media = {"Content-Type": "application/octet-stream"}
        client.request("PUT", "image", f"/v2/images/{image['id']}/file", content=data, headers=media)
        return image

    def images(self, client: Client) -> list[dict[str, Any]]:
        """The image to boot first, then those it names."""
        blank = iter([bytes(DISK_SIZE)])
        if self.guest is None:
            return [self.upload(client, "demo-disk", "raw", blank)]
        kernel = self.upload(client, "demo-kernel", "aki", chunks(self.guest.kernel))
        ramdisk = self.upload(client, "demo-ramdisk", "ari", chunks(self.guest.ramdisk))
        names = {"kernel_id": kernel["id"], "ramdisk_id": ramdisk["id"], "os_command_line": tinyguest.COMMAND_LINE}
        return [self.upload(client, "demo-disk", "ami", blank, **names), kernel, ramdisk]

    def network(self, client: Client) -> dict[str, Any]:
        network: dict[str, Any] = client.post("network", "/v2.0/networks", {"network": {"name": "demo"}})["network"]
        subnet = {"name": "demo", "network_id": network["id"], "ip_version": 4, "cidr": CIDR}
        client.post("network", "/v2.0/subnets", {"subnet": subnet})
        self.networks = [each["id"] for each in client.get("network", "/v2.0/networks")["networks"]]
        return network

    def servers(self, client: Client, image: str, network: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Both at once; the servers as the API shows them when ACTIVE, and seconds from POST until the client saw that."""
        flavor = next(each["id"] for each in client.get("compute", "/flavors")["flavors"] if each["name"] == FLAVOR)
        begun: dict[str, float] = {}
        names: dict[str, str] = {}
        for name in NAMES:
            begun[name] = time.perf_counter()
            body = {"name": name, "flavorRef": flavor, "imageRef": image, "networks": [{"uuid": network}]}
            names[client.post("compute", "/servers", {"server": body})["server"]["id"]] = name
        ready: dict[str, dict[str, Any]] = {}
        took: dict[str, float] = {}
        deadline = time.monotonic() + ACTIVE_LIMIT
        while len(ready) < len(names):
            for server_id, name in names.items():
                if name not in ready:
                    server = client.get("compute", f"/servers/{server_id}")["server"]
                    if server["status"] == "ERROR":
                        raise NotProved(f"{name} went to ERROR: {server['fault']['message']}")
                    if server["status"] == "ACTIVE":
                        ready[name], took[name] = server, time.perf_counter() - begun[name]
            if time.monotonic() > deadline:
                raise NotProved(f"the servers were not ACTIVE within {ACTIVE_LIMIT:.0f} s")
            time.sleep(POLL)
        return [ready[name] for name in NAMES], took

    def delete(self, client: Client, servers: list[dict[str, Any]], network: dict[str, Any], images: list[dict[str, Any]]) -> None:
        for server in servers:
            client.delete("compute", f"/servers/{server['id']}")
        for server in servers:
            self._wait_until_gone(client, server)
        client.delete("network", f"/v2.0/networks/{network['id']}")
        for image in images:
            client.delete("image", f"/v2/images/{image['id']}")

    def _wait_until_gone(self, client: Client, server: dict[str, Any]) -> None:
        deadline = time.monotonic() + GONE_LIMIT
        while time.monotonic() < deadline:
            try:
                client.get("compute", f"/servers/{server['id']}")
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            time.sleep(POLL)
        raise NotProved(f"{server['name']} was not gone within {GONE_LIMIT:.0f} s")

    # --- what is proved

    def look_inside(self, client: Client, servers: list[dict[str, Any]]) -> None:
        """Addresses, ping and TCP, seen from inside of both guests. Raises NotProved."""
        with ExitStack() as opened:
            shells: dict[str, Shell] = {}
            for server in servers:
                name, address = server["name"], address_of(server)
                with self.show.step(f"{name} boots to its shell") as step:
                    wait_for_boot(client, server)
                    shell = shells[name] = Shell(self.state, server)
                    opened.callback(shell.close)
                    found = shell.addresses()
                    if found != {address}:
                        raise NotProved(f"{name} has {', '.join(sorted(found)) or 'no address'}, but the API says {address}")
                    step.done = f"inside {name}: its address is {address}, as the API says"
            for here, there in ((0, 1), (1, 0)):
                shell, other = shells[NAMES[here]], servers[there]
                address = address_of(other)
                with self.show.step(f"{shell.name} reaches {other['name']}") as step:
                    trip = shell.ping(address)
                    shell.tcp(address)
                    step.done = (
                        f"inside {shell.name}: {other['name']} answers 3 of 3 pings ({trip:.1f} ms), and echoes by TCP what it is sent"
                    )

    def timeline(self, client: Client, server: dict[str, Any]) -> None:
        told = client.get("pileus", f"/v1/servers/{server['id']}/timeline")["actions"][-1]
        self.show.say()
        for part in bars.draw(bars.read(told), server["name"], self.show.console.width):
            self.show.say(part)


def chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(1 << 20):
            yield data


def address_of(server: dict[str, Any]) -> str:
    """Its one address, as the API says."""
    return str(next(each["addr"] for addresses in server["addresses"].values() for each in addresses))
