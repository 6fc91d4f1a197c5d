"""The demo from its first to its last step, through the public APIs only."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Column, Table
from rich.text import Text

from pileus import tinyguest
from pileus.cli import bars
from pileus.cli.client import ApiError, Client
from pileus.cli.demo.inside import NotProved, Shell, wait_for_boot
from pileus.cli.demo.leftovers import Count, count
from pileus.cli.demo.show import Show
from pileus.cli.down import stop
from pileus.cli.teardown import teardown
from pileus.errors import StartupError
from pileus.hosts import missing_for_real
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
        environment = {"PILEUS_HOST__ACCELERATION": "tcg", **os.environ}
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


def run(settings: Settings) -> None:
    """Print the demo. Raises StartupError when something could not be done or proved; in any case nothing is left."""
    show = Show()
    show.say(Text("Pileus demo: a throw-away cloud with two servers", "bold"))
    guest, reason = choose(settings, show)
    if guest is None:
        show.say(f"Hypervisor and switch are simulated: {reason}.")
    else:
        show.say("Real guests (QEMU) on a real switch (Open vSwitch), both ended and removed at the end.")
    home = Path(tempfile.mkdtemp(prefix="pileus-demo-"))
    home.chmod(0o711)  # the DHCP server, which is not root, must reach its files
    demo = Demo(settings, show, guest, home)
    with ended_by_signals():
        try:
            demo.count("before")
            _play(demo)
        except BaseException as error:
            with uninterrupted(), show.step("cleaning up"):
                words = log_end(demo.log) if isinstance(error, Exception) else ""
                demo.end()
            if words:
                show.say(f"The end of the cloud's log:\n{words}")
            if isinstance(error, Exception):
                left(demo, demo.count("cloud ended"))
            raise
    show.say()
    show.say(Text("All proved; nothing is left.", "bold green"))


def _play(demo: Demo) -> None:
    show = demo.show
    show.heading("Making it")
    with show.step("starting the cloud") as step:
        client = demo.start()
        step.done = f"the cloud is up at {client.urls['pileus'].removesuffix('/pileus')} (all files in {demo.home})"
    with client:
        demo.count("cloud up")
        with show.step("uploading images") as step:
            images = demo.images(client)
            step.done = "images: " + ", ".join(image["name"] for image in images)
        with show.step("making a network") as step:
            network = demo.network(client)
            step.done = f"network demo with subnet {CIDR}"
        with show.step("making two servers") as step:
            servers, took = demo.servers(client, images[0]["id"], network["id"])
            step.done = "servers: " + ", ".join(f"{name} ACTIVE {bars.duration(took[name])} after its POST" for name in NAMES)
        demo.count("two servers")
        show.heading("Looking from inside, over the serial consoles")
        if demo.guest is None:
            show.say("  skipped: simulated guests have no inside")
        else:
            demo.look_inside(client, servers)
        show.heading("Where the time of the first server went")
        demo.timeline(client, servers[0])
        show.heading("Taking it away")
        with show.step("deleting servers, network and images") as step:
            demo.delete(client, servers, network, images)
            step.done = "servers, network and images are deleted"
        demo.count("all deleted")
    with show.step("ending the cloud") as step, uninterrupted():
        demo.end()
        step.done = "the cloud has ended, and its files are removed"
    left(demo, demo.count("cloud ended"))


def left(demo: Demo, last: Count) -> None:
    """The table of what was there when. Raises NotProved where something is left."""
    show = demo.show
    show.heading("What it had on this machine")
    kinds = [kind for kind in Count.kinds() if demo.guest is not None or kind in ("processes", "files")]
    table = Table(Column("", no_wrap=True), box=None, padding=(0, 2, 0, 0), header_style="dim")
    for moment in demo.counts:
        table.add_column(moment, justify="right", no_wrap=True)
    wrong = []
    before, deleted = demo.counts.get("cloud up"), demo.counts.get("all deleted")
    for kind in kinds:
        table.add_row("  " + kind.replace("_", " "), *(str(getattr(each, kind)) for each in demo.counts.values()))
        if getattr(last, kind):
            wrong.append(f"{getattr(last, kind)} {kind.replace('_', ' ')} after the cloud's end")
        elif kind != "files" and before and deleted and getattr(deleted, kind) > getattr(before, kind):
            more = getattr(deleted, kind) - getattr(before, kind)
            wrong.append(f"{more} {kind.replace('_', ' ')} of the servers after they were deleted")
    show.say(table)
    if wrong:
        raise NotProved(f"not everything went: {'; '.join(wrong)}")


def choose(settings: Settings, show: Show) -> tuple[TinyGuest | None, str]:
    """The guest to boot; None and the reason where all is simulated. Raises StartupError when qemu was asked for and cannot be."""
    if settings.host.hypervisor == "simulated":
        return None, "asked for"
    reason = missing_for_real(settings)
    if reason is None:
        try:
            found = tinyguest.find(tinyguest.default_folder())
            if found is None:
                with show.step("making the small guest (once)"):
                    found = tinyguest.build(tinyguest.default_folder())
            return found, ""
        except StartupError as error:
            reason = str(error)
    if settings.host.hypervisor == "qemu":
        raise StartupError(f"real guests are not possible here: {reason}")
    return None, reason


def chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(1 << 20):
            yield data


def address_of(server: dict[str, Any]) -> str:
    """Its one address, as the API says."""
    return str(next(each["addr"] for addresses in server["addresses"].values() for each in addresses))


def log_end(file: Path, lines: int = 12) -> str:
    try:
        return "\n".join(f"    {line}" for line in file.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: by way of the cleaning up."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    with _handlers({signal.SIGTERM: end, signal.SIGHUP: end}):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not cut the cleaning up short."""
    with _handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)):
        yield


@contextmanager
def _handlers(wanted: dict[signal.Signals, Callable[[int, Any], None] | signal.Handlers]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
