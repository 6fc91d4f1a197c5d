"""The folder from which a bus is run and hosts are let onto it: keys, certificates, the server's configuration, who was let on.

keys/       what signs: the operator, the account, the certificate authority. Whoever has them can let anybody on: keep it here
tls/        the server's certificate, the authority's certificate
nats.conf   the server's configuration (with tls/: what the NATS machine needs)
control.creds, control.toml    for the control plane's machines (with tls/ca.pem)
hosts/      NAME.creds and NAME.toml for each host (with tls/ca.pem)
hosts.json  who was let on, and who not any more
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pileus.bus import certificates, keys
from pileus.bus.keys import ACCOUNT, OPERATOR, USER, Key
from pileus.errors import StartupError

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
MAX_PAYLOAD = 8 << 20
"""Bytes of one message: a console's text is the largest (`host.console_cap`)."""
CA = "bus-ca.pem"
"""The authority's certificate where it is installed."""


class Issued(msgspec.Struct, frozen=True, omit_defaults=True):
    """Credentials that were given to a host. Times are Unix seconds."""

    key: str
    at: int
    hollow: bool = False
    expires: int | None = None


class Register(msgspec.Struct, omit_defaults=True):
    """hosts.json. `revoked`: public keys whose credentials count no more once the server has read its configuration again.

    `operator` is the operator's JWT, signed once: a server that finds another one refuses to read its configuration again.
    """

    listen: str
    url: str
    operator: str
    hosts: dict[str, Issued] = {}
    revoked: dict[str, int] = {}


def setup(folder: Path, *, listen: str, names: Sequence[str], installed: Path) -> Register:
    """A new folder. Raises StartupError where one is there already.

    `listen`: the server's ADDR:PORT; `names`: what clients may call it, the first one goes into their settings; `installed`: where they
    keep the files that they are given.
    """
    if (folder / "hosts.json").exists() or (folder / "keys").exists():
        raise StartupError(f"{folder} holds a bus already; its hosts would lose theirs: choose another folder, or remove it yourself")
    _make(folder)
    operator, account, control = Key.new(OPERATOR), Key.new(ACCOUNT), Key.new(USER)
    pems = certificates.certify(names)
    register = Register(
        listen=listen, operator=keys.operator_jwt(operator), url=f"tls://{_bracketed(names[0])}:{listen.rpartition(':')[2]}"
    )
    secret = {"keys/operator.nk": operator.seed, "keys/account.nk": account.seed, "keys/ca.key": pems["ca.key"]}
    secret |= {"tls/server.key": pems["server.key"], "control.creds": keys.credentials(keys.control_jwt(account, control), control)}
    for name, data in secret.items():
        write(folder / name, data)
    for name in ("ca.pem", "server.pem"):
        write(folder / "tls" / name, pems[name], mode=0o644)
    bus = {"url": register.url, "credentials": str(installed / "control.creds"), "ca": str(installed / CA)}
    write(folder / "control.toml", toml({"bus": bus}))
    _save(folder, register)
    return register


def add_host(
    folder: Path, name: str, settings: Mapping[str, Mapping[str, Any]], *, hollow: bool, days: float | None, installed: Path
) -> Path:
    """Credentials and settings file (returned) of a host. `settings`: what else stands in it. Raises StartupError."""
    if not NAME.fullmatch(name):
        raise StartupError(f"{name!r} is no name for a host: letters, digits, and . _ - between them, 63 at most")
    now = int(time.time())
    expires = None if days is None else now + round(days * 86400)
    with _alone(folder):
        register = load(folder)
        if name in register.hosts:
            raise StartupError(f"host {name} has credentials already; `pileus host remove {name}` first makes them void")
        account, user = Key(_read(folder / "keys" / "account.nk").strip()), Key.new(USER)
        jwt = keys.host_jwt(account, user, name, hollow=hollow, expires=expires)
        write(folder / "hosts" / f"{name}.creds", keys.credentials(jwt, user))
        register.hosts[name] = Issued(user.public, now, hollow, expires)
        _save(folder, register)
    bus = {"url": register.url, "credentials": str(installed / f"{name}.creds"), "ca": str(installed / CA)}
    host = {**settings.get("host", {}), "name": name}
    file = folder / "hosts" / f"{name}.toml"
    write(file, toml({"bus": bus, **settings, "host": host}))
    return file


def remove_host(folder: Path, name: str) -> None:
    """Make a host's credentials void: the server's configuration says so from now on, and the server once it has read it again (SIGHUP).

    Raises StartupError.
    """
    with _alone(folder):
        register = load(folder)
        issued = register.hosts.pop(name, None)
        if issued is None:
            raise StartupError(f"no host {name} has credentials of {folder}; `pileus host list` shows those that have")
        register.revoked[issued.key] = int(time.time())
        _save(folder, register)
    for end in ("creds", "toml"):
        (folder / "hosts" / f"{name}.{end}").unlink(missing_ok=True)


def load(folder: Path) -> Register:
    """Who was let on. Raises StartupError."""
    try:
        return msgspec.json.decode(_read(folder / "hosts.json"), type=Register)
    except msgspec.DecodeError as error:
        raise StartupError(f"{folder / 'hosts.json'}: {error}") from None


def toml(tree: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A settings file."""
    sections = ["\n".join([f"[{name}]", *(f"{key} = {_value(value)}" for key, value in section.items())]) for name, section in tree.items()]
    return ("\n\n".join(sections) + "\n").encode()


def write(file: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a whole file, or nothing; nobody else sees a secret on the way. Raises StartupError."""
    try:
        handle, path = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as open_file:
                open_file.write(data)
                open_file.flush()
                os.fchmod(handle, mode)
                os.fsync(handle)
            Path(path).replace(file)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes the folder meanwhile."""
    try:
        with (folder / "hosts.json").open("rb"):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StartupError(f"{folder / 'hosts.json'}: {error.strerror}; `pileus bus setup` makes such a folder") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _save(folder: Path, register: Register) -> None:
    """The register, and the server's configuration that follows from it."""
    operator, account = Key(_read(folder / "keys" / "operator.nk").strip()), Key(_read(folder / "keys" / "account.nk").strip())
    signed = keys.account_jwt(operator, account, register.revoked)
    write(folder / "nats.conf", _configuration(folder, register.listen, register.operator, account.public, signed))
    write(folder / "hosts.json", msgspec.json.format(msgspec.json.encode(register)))


def _configuration(folder: Path, listen: str, operator: str, account: str, signed: str) -> bytes:
    tls = folder.resolve() / "tls"
    return f"""\
# Written by pileus bus setup, and again by pileus host remove: nats-server -c this file; SIGHUP makes it read it again.
listen: "{listen}"
max_payload: {MAX_PAYLOAD}
max_pending: {MAX_PAYLOAD * 8}
write_deadline: "10s"
ping_interval: "20s"
ping_max: 3
tls {{
  cert_file: "{tls / "server.pem"}"
  key_file: "{tls / "server.key"}"
  timeout: 10
}}
operator: "{operator}"
resolver: MEMORY
resolver_preload: {{
  {account}: "{signed}"
}}
""".encode()


def _make(folder: Path) -> None:
    try:
        for each in (folder, folder / "keys", folder / "tls", folder / "hosts"):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"{folder}: {error.strerror}") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}; `pileus bus setup` makes such a folder") from None


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _value(value: Any) -> str:
    """A setting's value as TOML has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_value(key)} = {_value(each)}" for key, each in value.items()) + "}"
    return msgspec.json.encode(value).decode()  # strings, numbers, booleans and lists are written alike in both
