"""`pileus host`: which hosts may come onto the bus. Offline, from the folder that `pileus bus setup` made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pileus.cli.bus import INSTALLED, Installed
from pileus.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(no_args_is_help=True, help="The hosts that may come onto the bus.", rich_markup_mode=None)

BusDir = Annotated[Path, typer.Option("--bus-dir", metavar="DIR", help="The folder that `pileus bus setup` made.")]
BUS_DIR = Path("pileus-bus")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The host's name.")]

COPIED = ("compute", "network", "host", "simulated")
"""Sections that a host reads too: what a cloud's settings file says there, its hosts' say as well."""


@app.callback()
def _group() -> None:
    pass


@app.command()
def add(
    name: Name,
    bus_dir: BusDir = BUS_DIR,
    api_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the host fetches images: URL of the API.")] = None,
    tunnel_address: Annotated[
        str | None, typer.Option(metavar="ADDR/LENGTH", help="The host's address in the network of the tunnels, as in 198.51.100.11/24.")
    ] = None,
    tunnel_device: Annotated[
        str | None, typer.Option(metavar="NAME", help="The host's device there, for its switch alone: it may carry no address.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The cloud's settings file: what it says of compute, network and hosts is said to the host too."),
    ] = None,
    hollow: Annotated[
        bool,
        typer.Option(
            "--hollow", help="For a lab's process of many simulated hosts: it may speak and listen as ANY host. Not for real ones."
        ),
    ] = False,
    expires: Annotated[float | None, typer.Option(metavar="DAYS", min=0.001, help="Days that the credentials are good for.")] = None,
    installed: Installed = INSTALLED,
) -> None:
    """Let a host onto the bus. Writes credentials and a settings file to copy to it; the NATS server needs to know nothing."""
    from pileus.bus import authority

    given = {"host.api_url": api_url, "host.tunnel_address": tunnel_address, "host.tunnel_device": tunnel_device}
    settings = _copied(config, given)
    file = authority.add_host(bus_dir, name, settings, hollow=hollow, days=expires, installed=installed)
    print(f"{file}, {file.with_suffix('.creds')}: for {name}, in {installed}, with {bus_dir / 'tls' / 'ca.pem'} as {authority.CA}")
    if "api_url" not in settings.get("host", {}):
        print("host.api_url is not set: the host cannot fetch images (--api-url URL, or api.public_url in --config FILE)")


@app.command()
def remove(name: Name, bus_dir: BusDir = BUS_DIR) -> None:
    """Make a host's credentials void. The NATS server must read its new configuration: then the host is off the bus."""
    from pileus.bus import authority

    authority.remove_host(bus_dir, name)
    print(f"{bus_dir / 'nats.conf'} is new: send nats-server SIGHUP (with it in place), and {name} is off the bus; until then it is not")


@app.command(name="list")
def show(bus_dir: BusDir = BUS_DIR) -> None:
    """Hosts that were given credentials here. Not whether they are up: `pileus status` says that."""
    from pileus.bus import authority

    for name, issued in sorted(authority.load(bus_dir).hosts.items()):
        until = "" if issued.expires is None else f"  until {_day(issued.expires)}{' (over)' if issued.expires < time.time() else ''}"
        print(f"{name}  since {_day(issued.at)}{until}{'  as any host (--hollow)' if issued.hollow else ''}")


def _copied(config: Path | None, given: Mapping[str, str | None]) -> Mapping[str, Mapping[str, Any]]:
    """What a host's settings file says beside its name and the bus. Raises StartupError."""
    from pileus import configuration

    tree: dict[str, dict[str, Any]] = {}
    found, origins = configuration.load(config, environ={}, flags=given)
    for one in configuration.describe(found, origins):
        section, _, leaf = one.key.partition(".")
        if section in COPIED and one.origin != "default" and one.key != "host.name":
            tree.setdefault(section, {})[leaf] = one.value
    if not found.host.api_url and found.api.public_url:
        tree.setdefault("host", {})["api_url"] = found.api.public_url
    return tree


def _day(at: int) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(at))
    except (OverflowError, ValueError):
        raise StartupError(f"no date: {at}") from None
