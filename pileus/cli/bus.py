"""`pileus bus`: a NATS server of the cloud's own, with keys made here."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from pileus.errors import StartupError

app = typer.Typer(no_args_is_help=True, help="The bus between machines: NATS, with keys of its own.", rich_markup_mode=None)

INSTALLED = Path("/etc/pileus")
Installed = Annotated[
    Path, typer.Option("--installed", metavar="DIR", help="Where the machine will have its files: written into its settings.")
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def setup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for keys and configuration.")],
    listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="Where the NATS server answers.")] = "0.0.0.0:4222",
    tls_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name or address that clients call it by; may be repeated, the first goes into their settings."),
    ] = None,
    installed: Installed = INSTALLED,
) -> None:
    """Make keys, certificates and a NATS server's configuration. Offline; the server is nats-server 2.9 or newer."""
    from pileus.bus import authority

    address, port = _parted(listen)
    names = tls_name or [address if address not in ("0.0.0.0", "::") else socket.gethostname()]  # noqa: S104
    _check_names(names)
    authority.setup(folder, listen=f"{address if ':' not in address else f'[{address}]'}:{port}", names=names, installed=installed)
    print(f"{folder / 'nats.conf'}: run nats-server -c with it, on the machine that is {names[0]} (it reads {folder / 'tls'} too)")
    print(
        f"{folder / 'control.toml'}, {folder / 'control.creds'}: for the control plane, in {installed}, with tls/ca.pem as {authority.CA}"
    )
    print(f"{folder / 'keys'}: who has these can let anybody on: keep them here")


def _parted(listen: str) -> tuple[str, int]:
    address, _, port = listen.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartupError(f"--listen {listen}: not ADDR:PORT, as in 0.0.0.0:4222")
    return address.strip("[]"), int(port)


def _check_names(names: list[str]) -> None:
    for name in names:
        if not name or len(name) > 253 or not all(sign.isascii() and (sign.isalnum() or sign in ".-:") for sign in name):
            raise StartupError(f"--tls-name {name!r}: neither a host name nor an address")
