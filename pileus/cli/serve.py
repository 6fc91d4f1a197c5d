"""`pileus serve ROLE`: one role of a cloud whose roles are apart, in one process or several."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pileus import process
from pileus.choice import choose
from pileus.errors import StartupError
from pileus.firststart import CLOUDS
from pileus.http.server import listening, public_url
from pileus.process import Program
from pileus.services import FACES
from pileus.serving import ControlProcess, HostProcess, Place, Role, check
from pileus.settings import Settings
from pileus.supervisor import supervise


def api(settings: Settings, faces: str, workers: int) -> None:
    """Answer requests until told to end. Raises StartupError."""
    wanted = _faces(faces)
    _begin(settings, "api")
    with ExitStack() as stack:
        listener = stack.enter_context(listening(settings.api.listen))
        base_url = settings.api.public_url or public_url(listener)

        def make(place: Place) -> Program:
            return ControlProcess(settings, "api", place, base_url=base_url, listener=_own(listener, place), faces=wanted)

        _serve(workers, make, f"Pileus answers at {base_url} ({', '.join(wanted)})", lambda: _access(Path(settings.state)))


def worker(settings: Settings, workers: int) -> None:
    """Do the durable work on servers until told to end. Raises StartupError."""
    _control(settings, "worker", workers)


def network_rpc(settings: Settings) -> None:
    """Take the agents' RPC in `network.rpc_workers` processes until told to end. Raises StartupError."""
    _control(settings, "network-rpc", settings.network.rpc_workers)


def host(settings: Settings, part: str) -> None:
    """Be a host (or many hollow ones) until told to end; guests go on. Raises StartupError."""
    _begin(settings, "host")
    if part not in ("both", "compute", "network"):
        raise StartupError(f"--part {part}: one of both, compute, network")
    choice = choose(settings)
    program = HostProcess(settings, choice.hypervisor, part)  # type: ignore[arg-type]

    def ready(_: Program) -> None:
        names = [each.name for each in program.hosts]
        many = f"{len(names)} hollow hosts, {names[0]} to {names[-1]}" if len(names) > 1 else f"host {names[0]}"
        which = "" if part == "both" else f", {part} part"
        _ready(f"Pileus serves {many}{which}: {choice.hypervisor} ({choice.reason})")

    process.run(lambda: program, ready)


def _control(settings: Settings, role: Role, count: int) -> None:
    _begin(settings, role)
    plural = f"{count} processes" if count > 1 else "one process"
    _serve(
        count, lambda place: ControlProcess(settings, role, place, base_url=settings.api.public_url), f"Pileus serves {role} in {plural}"
    )


def _begin(settings: Settings, role: str) -> None:
    process.log_to_stderr(settings.log_level)
    check(settings, role)


def _serve(count: int, make: Callable[[Place], Program], words: str, more: Callable[[], str] = str) -> None:
    """`more`: lines to print behind the words, when all is ready."""
    if count == 1:
        process.run(lambda: make(Place()), lambda _: _ready(words, more()))
        return
    supervise(count, lambda index, told: process.run(lambda: make(Place(index, count)), lambda _: told()), lambda: _ready(words, more()))


def _access(state: Path) -> str:
    """How a person gets in."""
    found = state.absolute() / CLOUDS
    if found.exists():
        return f"\n  export OS_CLIENT_CONFIG_FILE={found}"
    return f"\n  {CLOUDS} with the admin's password is where the first API of this cloud was started"


def _ready(words: str, more: str = "") -> None:
    print(f"{words}. Ctrl-C ends it.{more}", flush=True)
    process.tell_service_manager("READY=1")


def _own(listener: socket.socket, place: Place) -> socket.socket:
    """Each process closes a listener of its own; the connections wait in one queue for all of them."""
    return listener if place.count == 1 else listener.dup()


def _faces(text: str) -> Sequence[str]:
    if not text:
        return list(FACES)
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in FACES]
    if unknown or not wanted:
        raise StartupError(f"--faces {text}: some of {', '.join(FACES)}, with commas")
    return wanted
