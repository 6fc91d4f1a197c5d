"""A `pileus up` with real guests and a real switch, run as its own process, asked over HTTP like any cloud, and removed without a trace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from pileus import tinyguest
from tests.real.console import Console
from tests.real.machine import Machine

T = TypeVar("T")

BOOT_LIMIT = 60.0
"""Seconds for a guest under emulation on a busy machine."""
QUICK = {"PILEUS_HOST__ACCELERATION": "tcg", "PILEUS_COMPUTE__HEARTBEAT_INTERVAL": "1"}
"""No proof of KVM beside the tests: it would take a core for seconds."""


def until(question: Callable[[], T], limit: float = 20.0, *, every: float = 0.02) -> T:
    """Ask until the answer is true; the answer. What was answered last stands in the failure."""
    ends = time.monotonic() + limit
    while not (answer := question()):
        assert time.monotonic() < ends, f"not so within {limit:g} s; last answer: {answer!r}"
        time.sleep(every)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pileus", *arguments]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PILEUS_", "OS_"))}
    return inherited | QUICK | dict(settings)


class Rig:
    """One state folder, and the process that runs on it just now."""

    def __init__(self, state: Path, settings: Mapping[str, str] | None = None) -> None:
        self.state = state
        self.settings = dict(settings or {})
        self.machine = Machine(state)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = state.parent / f"{state.name}.log"
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60.0, trust_env=False)
        self._made: dict[str, str] = {}
        self._said_from = 0

    # --- The process

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Returns when the host is up and a token is there."""
        arguments = ("up", "--state", str(self.state), "--hypervisor", "qemu", "--listen", f"127.0.0.1:{self.port}")
        with self.log.open("ab") as log:
            self._said_from = log.tell()
            self.process = subprocess.Popen(command(*arguments), env=environment(self.settings), stdout=log, stderr=log)
        until(self._signed_in, 40.0)
        until(self._is_up, 40.0)

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(40)
        self.process = None

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.end(number)
        self.start()

    def close(self) -> None:
        """End everything of this state folder and prove that nothing is left of it."""
        self._http.close()
        if self.process is not None:
            self.end(signal.SIGTERM)
        done = subprocess.run(
            command("down", "--guests", "--state", str(self.state)),
            env=environment(self.settings),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        left = self.machine.everything_left()
        self.machine.force_away()
        assert (done.returncode, left) == (0, []), f"left: {left}\n{done.stdout}{done.stderr}\n{self.log.read_text()[-4000:]}"

    def _signed_in(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"`pileus up` ended: {self.said()}"
        try:
            found = re.search(r'password: "(.*)"', (self.state / "clouds.yaml").read_text())
            assert found is not None
            user = {"name": "admin", "domain": {"id": "default"}, "password": found[1]}
            scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
            auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
            answer = self._http.post("/identity/v3/auth/tokens", json=auth)
        except (OSError, httpx.HTTPError):
            return False
        if answer.status_code != 201:
            return False
        self._http.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]
        self._http.headers["OpenStack-API-Version"] = "compute 2.96"
        return True

    def _is_up(self) -> bool:
        """It says so when its host has adopted what was there."""
        assert self.process is not None
        assert self.process.poll() is None, f"`pileus up` ended: {self.said()}"
        return "Pileus is up" in self.said()

    def said(self) -> str:
        """What the process has printed and logged."""
        return self.log.read_bytes()[self._said_from :].decode()

    # --- Requests

    def ask(self, method: str, path: str, body: Any = None, *, content: bytes | None = None) -> httpx.Response:
        headers = {"Content-Type": "application/octet-stream"} if content is not None else {}
        return self._http.request(method, path, json=body, content=content, headers=headers)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A request that must be granted; its body."""
        answer = self.ask(method, path, body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def create(self, name: str = "server", **more: Any) -> str:
        """POST a server (128 MiB, a blank machine without a disk unless `more` says otherwise); its id."""
        server = {"name": name, "flavorRef": "1", "imageRef": "", "networks": "auto", **more}
        if server["networks"] == "auto":
            server["networks"] = [{"uuid": self.private}]
        return str(self.call("POST", "/compute/v2.1/servers", {"server": server})["server"]["id"])

    def server(self, server_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/compute/v2.1/servers/{server_id}")["server"]
        return found

    def become(self, server_id: str, status: str, limit: float = 30.0) -> dict[str, Any]:
        """Wait until the server is so and nothing is under way; a fault that comes instead is a failure at once."""

        def so() -> dict[str, Any] | None:
            server = self.server(server_id)
            if status != "ERROR" and server["status"] == "ERROR":
                raise AssertionError(f"server {server_id} is in ERROR: {server['fault']['message']}")
            return server if server["status"] == status and server["OS-EXT-STS:task_state"] is None else None

        try:
            found = until(so, limit)
        except AssertionError as error:
            story = self.call("GET", f"/pileus/v1/servers/{server_id}/timeline")
            raise AssertionError(f"not {status}: {error}\n{story}\n{self.said()[-4000:]}") from None
        assert found is not None
        return found

    def action(self, server_id: str, name: str, body: Any = None) -> None:
        self.call("POST", f"/compute/v2.1/servers/{server_id}/action", {name: body})

    def delete(self, *server_ids: str) -> None:
        """Delete servers and wait until they are gone."""
        for server_id in server_ids:
            self.call("DELETE", f"/compute/v2.1/servers/{server_id}")
        for server_id in server_ids:
            until(lambda each=server_id: self.ask("GET", f"/compute/v2.1/servers/{each}").status_code == 404, 30.0)  # type: ignore[misc]

    def stamps(self, server_id: str) -> dict[str, float]:
        """Step → time of the server's last action."""
        found = self.call("GET", f"/pileus/v1/servers/{server_id}/timeline")["actions"][0]["stamps"]
        return dict(found)

    def ports(self, server_id: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/network/v2.0/ports?device_id={server_id}")["ports"])

    def address(self, server_id: str) -> str:
        [port] = self.ports(server_id)
        return str(port["fixed_ips"][0]["ip_address"])

    @property
    def private(self) -> str:
        """The network that every cloud begins with."""
        return self._once("private", lambda: str(self.call("GET", "/network/v2.0/networks?name=private")["networks"][0]["id"]))

    def network(self, name: str, cidr: str) -> str:
        network = self.call("POST", "/network/v2.0/networks", {"network": {"name": name}})["network"]["id"]
        self.call("POST", "/network/v2.0/subnets", {"subnet": {"network_id": network, "cidr": cidr, "ip_version": 4}})
        return str(network)

    @property
    def tiny_image(self) -> str:
        """An image that boots the tiny guest by kernel and ramdisk."""
        return self._once("image", self._upload_tiny)

    def _upload_tiny(self) -> str:
        guest = tinyguest.build(tinyguest.default_folder())
        kernel = self.upload("kernel", "aki", guest.kernel.read_bytes())
        ramdisk = self.upload("ramdisk", "ari", guest.ramdisk.read_bytes())
        names = {"kernel_id": kernel, "ramdisk_id": ramdisk, "os_command_line": tinyguest.COMMAND_LINE}
        return self.upload("tiny", "ami", bytes(1 << 20), **names)

    def upload(self, name: str, disk_format: str, data: bytes, **properties: str) -> str:
        container = disk_format if disk_format in ("aki", "ari", "ami") else "bare"
        body = {"name": name, "disk_format": disk_format, "container_format": container, **properties}
        image = str(self.call("POST", "/image/v2/images", body)["id"])
        answer = self.ask("PUT", f"/image/v2/images/{image}/file", content=data)
        assert answer.status_code == 204, answer.text
        return image

    def _once(self, key: str, make: Callable[[], str]) -> str:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # --- Guests

    def boot(self, name: str, *, image: str = "", **more: Any) -> str:
        """A tiny guest, not waited for."""
        return self.create(name, imageRef=image or self.tiny_image, **more)

    def console_log(self, server_id: str) -> str:
        body: dict[str, Any] = {"os-getConsoleOutput": {}}
        return str(self.call("POST", f"/compute/v2.1/servers/{server_id}/action", body)["output"])

    def shell_is_there(self, server_id: str, *, times: int = 1) -> str:
        """Wait until the tiny guest has an address and a shell (for the nth time); its console log."""

        def ready() -> str:
            log = self.console_log(server_id)
            return log if log.count(tinyguest.ADDRESS) >= times and log.count("guest# ") >= times else ""

        return until(ready, BOOT_LIMIT, every=0.1)

    @contextmanager
    def console(self, server_id: str) -> Iterator[Console]:
        with Console(self.state / "guests" / server_id / "console.sock") as console:
            yield console

    def pings(self, source: str, address: str) -> bool:
        """Does a packet go there and back? Asked for a few seconds: under emulation on a busy machine one may be late."""
        with self.console(source) as console:
            return console.run(f"ping -c 1 -W 2 {address} || ping -c 3 -W 2 {address}")[0] == 0

    def says_over_tcp(self, source: str, address: str) -> bool:
        with self.console(source) as console:
            _, said = console.run(f"echo over-$((40+2)) | nc -w 5 {address} {tinyguest.ECHO_PORT}")
        return "over-42" in said

    def nothing_runs(self) -> None:
        """All servers were deleted: wait until host and switch hold nothing of them."""
        left: list[str] = []

        def nothing() -> bool:
            left[:] = self.machine.guests_left()
            return not left

        with suppress(AssertionError):
            until(nothing, 10.0)
        assert left == [], left


@contextmanager
def rig(settings: Mapping[str, str] | None = None, *, started: bool = True, prepare: Callable[[Path], None] | None = None) -> Iterator[Rig]:
    """A cloud of one's own in a folder with a short path (Open vSwitch's sockets allow no long ones). What `prepare` mounts in it
    is unmounted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        made = Rig(folder / "s", settings)
        if prepare is not None:
            prepare(made.state)
        try:
            if started:
                made.start()
            yield made
        finally:
            made.close()
    finally:
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed([place for place in mounted if place.startswith(f"{folder}/")]):
            subprocess.run(["umount", place], check=True)
        shutil.rmtree(folder)


def ended_with(arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a `pileus` that must end by itself: exit code, and all that it said."""
    done = subprocess.run(arguments, env=environment(settings or {}), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr
