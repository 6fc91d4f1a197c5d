"""The command `pileus`. Each command's module is imported only when it is called, so that `--help` is quick."""

from __future__ import annotations

import gc
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pileus import __version__
from pileus.cli import bus, host, lab
from pileus.errors import StartupError

if TYPE_CHECKING:
    from pileus.settings import Settings

STARTING = 200_000
"""Objects before the collector looks: twice what imports make, none of it garbage. What serves sets its own later (pileus/process.py)."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A VM cloud with OpenStack's APIs in one program: a server is ACTIVE the moment its network is really ready.",
)

State = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="The cloud's state folder [default: pileus-state].")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A TOML file of settings (`pileus config` lists them).")]
SwitchDb = Annotated[
    str | None,
    typer.Option("--switch-db", metavar="unix:PATH", help="Use the Open vSwitch behind this socket instead of daemons of our own."),
]
Profile = Annotated[
    str | None, typer.Option("--profile", metavar="default|story", help="A group of settings (`pileus config --profile story` shows it).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Server = Annotated[str, typer.Argument(metavar="SERVER", help="Name or id of a server.")]

app.add_typer(bus.app, name="bus")
app.add_typer(host.app, name="host")
app.add_typer(lab.app, name="lab")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pileus {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")] = False,
) -> None:
    pass


@app.command()
def up(
    state: State = None,
    listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="Where the APIs answer [default: 127.0.0.1:8774].")] = None,
    hypervisor: Annotated[str | None, typer.Option(metavar="auto|qemu|simulated", help="What runs the guests [default: auto].")] = None,
    hosts: Annotated[int | None, typer.Option(metavar="N", help="How many hosts; more than 1 only simulated [default: 1].")] = None,
    switch_db: SwitchDb = None,
    profile: Profile = None,
    config: Config = None,
) -> None:
    """Start the cloud and stay with it. Ctrl-C ends it; guests go on."""
    given = {"state": state, "api.listen": listen, "host.hypervisor": hypervisor, "host.hosts": hosts, "host.switch_db": switch_db}
    settings, _ = _load(config, {**given, "profile": profile}, role="up")
    from pileus.cli.up import up as start

    start(settings)


serve = typer.Typer(no_args_is_help=True, help="One role of a cloud whose roles are apart (PostgreSQL and NATS between them).")
app.add_typer(serve, name="serve")

Workers = Annotated[int, typer.Option("--workers", metavar="N", min=1, help="How many processes.")]


@serve.command("api")
def serve_api(
    faces: Annotated[
        str, typer.Option(metavar="NAME,…", help="Which of identity, image, placement, compute, network [default: all].")
    ] = "",
    listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="Where the APIs answer [default: 127.0.0.1:8774].")] = None,
    workers: Workers = 1,
    state: State = None,
    profile: Profile = None,
    config: Config = None,
) -> None:
    """The APIs. All five, or some."""
    settings, _ = _load(config, {"state": state, "api.listen": listen, "profile": profile}, role="api")
    from pileus.cli.serve import api

    api(settings, faces, workers)


@serve.command("worker")
def serve_worker(workers: Workers = 1, profile: Profile = None, config: Config = None) -> None:
    """The durable work on servers. Scheduling, actions, the sweep of what is due."""
    settings, _ = _load(config, {"profile": profile}, role="worker")
    from pileus.cli.serve import worker

    worker(settings, workers)


@serve.command("network-rpc")
def serve_network_rpc(
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="How many processes [default: network.rpc_workers].")
    ] = None,
    profile: Profile = None,
    config: Config = None,
) -> None:
    """The agents' RPC and the notifier."""
    settings, _ = _load(config, {"network.rpc_workers": workers, "profile": profile}, role="network-rpc")
    from pileus.cli.serve import network_rpc

    network_rpc(settings)


@serve.command("host")
def serve_host(
    part: Annotated[str, typer.Option(metavar="both|compute|network", help="The whole host, or one side of it.")] = "both",
    hypervisor: Annotated[str | None, typer.Option(metavar="auto|qemu|simulated", help="What runs the guests [default: auto].")] = None,
    hosts: Annotated[int | None, typer.Option(metavar="N", help="How many hosts; more than 1 only simulated [default: 1].")] = None,
    switch_db: SwitchDb = None,
    state: State = None,
    profile: Profile = None,
    config: Config = None,
) -> None:
    """A hypervisor host, or many hollow ones. Knows the bus and the image API, no database."""
    given = {"state": state, "host.hypervisor": hypervisor, "host.hosts": hosts, "host.switch_db": switch_db}
    settings, _ = _load(config, {**given, "profile": profile}, role="host")
    from pileus.cli.serve import host

    host(settings, part)


@app.command()
def down(
    state: State = None,
    guests: Annotated[
        bool, typer.Option("--guests", help="Also power guests off (their disks stay), end switch and DHCP, remove TAPs and namespaces.")
    ] = False,
    switch_db: SwitchDb = None,
    config: Config = None,
) -> None:
    """End the cloud of a state folder. Guests go on unless told otherwise."""
    settings, _ = _load(config, {"state": state, "host.switch_db": switch_db})
    from pileus.cli.down import down as end

    end(settings, guests=guests)


@app.command()
def status(state: State = None, config: Config = None, as_json: AsJson = False) -> None:
    """How a cloud is. Services, hosts, servers, and which acceleration is in use and why."""
    folder = _folder(config, state)
    from pileus.cli.status import show

    show(folder, as_json=as_json)


@app.command()
def why(
    server: Server,
    action: Annotated[str | None, typer.Option(metavar="REQ-ID", help="The action of this request instead of the last one.")] = None,
    all_actions: Annotated[bool, typer.Option("--all", help="All actions of the server, the oldest first.")] = False,
    state: State = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Where a server's time went. The steps of its last action, what each waited for, and its limit."""
    folder = _folder(config, state)
    from pileus.cli.why import show

    show(folder, server, request_id=action, everything=all_actions, as_json=as_json)


@app.command()
def console(server: Server, state: State = None, config: Config = None) -> None:
    """A server's serial console. Ctrl-] leaves it; piped input is typed there."""
    folder = _folder(config, state)
    from pileus.cli.console import attach

    attach(folder, server)


db = typer.Typer(no_args_is_help=True, help="The cloud's database.")
app.add_typer(db, name="db")


@db.callback()
def _db() -> None:
    pass


@db.command("upgrade")
def db_upgrade(state: State = None, config: Config = None) -> None:
    """Make the schema in a new database, or upgrade it to this Pileus's. Does nothing else; several at once are fine."""
    settings, _ = _load(config, {"state": state})
    from pileus.cli.db import upgrade

    upgrade(settings)


@app.command(name="config")
def show_config(state: State = None, profile: Profile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Every setting with its value, where that comes from and what it does. With --profile: what that sets, and why."""
    from pileus.cli.config import show, show_profile
    from pileus.configuration import EVERY_ROLE

    if profile is None:
        show(*_load(config, {"state": state}), as_json=as_json)
    else:
        show_profile(*_load(config, {"state": state, "profile": profile}, role=EVERY_ROLE), as_json=as_json)


@app.command()
def demo(
    hypervisor: Annotated[str | None, typer.Option(metavar="auto|qemu|simulated", help="What runs the guests [default: auto].")] = None,
) -> None:
    """A throw-away cloud with two servers. Made, proved from inside, timed, deleted, and nothing left."""
    settings, _ = _load(None, {"host.hypervisor": hypervisor})
    from pileus.cli.demo import run as show

    show(settings)


def run() -> None:
    """The console script: whatever is wrong becomes one clear line and exit code 1."""
    gc.set_threshold(STARTING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except StartupError as error:
        _fail(f"pileus: {error}", 1)
    except KeyboardInterrupt:
        _fail("", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _fail(line: str, code: int) -> None:
    if line:
        print(line, file=sys.stderr)
    sys.exit(code)


def _load(config: Path | None, flags: dict[str, Any], *, role: str = "") -> tuple[Settings, dict[str, str]]:
    """`role`: what this process is; some of a profile's settings are for one role only."""
    from pileus.configuration import load

    return load(config, flags={key: str(value) if isinstance(value, Path) else value for key, value in flags.items()}, role=role)


def _folder(config: Path | None, state: Path | None) -> Path:
    return Path(_load(config, {"state": state})[0].state)
