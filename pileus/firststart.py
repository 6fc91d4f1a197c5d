"""What a cloud has when it is new: an administrator, a project, flavors and a network; and the clouds.yaml to use it with."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from pileus.compute import flavors
from pileus.context import SYSTEM
from pileus.errors import StartupError, Unauthorized
from pileus.identity import bootstrap, domains, login
from pileus.identity.grants import Ref
from pileus.identity.service import Identity
from pileus.network import networks, subnets
from pileus.network.config import Config
from pileus.store import Store, Tx
from pileus.store.paging import Page

FLAVORS = (
    ("1", "m1.nano", 1, 128, 0),
    ("2", "m1.tiny", 1, 512, 1),
    ("3", "m1.small", 1, 2048, 20),
    ("4", "m1.medium", 2, 4096, 40),
    ("5", "m1.large", 4, 8192, 80),
)
"""id, name, vCPUs, MiB, GiB of disk (0: as large as the image)."""

NETWORK, CIDR = "private", "10.0.0.0/20"
CLOUDS, DRAFT = "clouds.yaml", "clouds.draft"
_URL, _PASSWORD = re.compile('auth_url: ".*"'), re.compile('password: "(.*)"')

_CLOUDS = """\
clouds:
  pileus:
    auth:
      auth_url: "{url}/identity"
      username: "admin"
      password: "{password}"
      project_name: "admin"
      user_domain_id: "default"
      project_domain_id: "default"
    region_name: "RegionOne"
    identity_api_version: 3
"""


@dataclass(frozen=True)
class Access:
    """How a person gets in. `clouds_yaml` None: this machine does not know the admin's password, and `words` say who does."""

    clouds_yaml: Path | None
    words: str = ""


async def run(state: Path, base_url: str, identity: Identity, store: Store, config: Config) -> Access:
    """Make what is missing, the first time only: whatever a user removes later stays removed. Killed in the middle, it goes on.

    Any number of processes may run it at once, on one machine or on several: one after the other they do what is left to do.
    A new password stands in the folder before anybody has it, and becomes part of clouds.yaml when the admin has it.
    Raises StartupError.
    """
    async with store.exclusive("first-start"):
        await _heed_file(state, identity)
        if not await identity.read(bootstrap.is_done):
            draft = await asyncio.to_thread(_draft, state, base_url, identity.admin_password)
            made = await identity.bootstrap(_password(draft), _place(state, identity.admin_password))
            await store.write(_flavors_and_network, config, made.admin_project_id, str(state), identity.now())
        return await _access(state, base_url, identity)


async def _heed_file(state: Path, identity: Identity) -> None:
    """Before the database said that the first start is over, a file in the state folder did."""
    file = state / "made"
    if await asyncio.to_thread(file.exists) and await identity.read(bootstrap.was_run):
        await identity.write(bootstrap.done, str(state), identity.now())
        await asyncio.to_thread(file.unlink)


async def _access(state: Path, base_url: str, identity: Identity) -> Access:
    """See to clouds.yaml: the drafted one if its password is the admin's, or the one that is there, or one of the settings' password."""
    path, draft = state / CLOUDS, state / DRAFT
    drafted = await asyncio.to_thread(_read, draft)
    if drafted and await _is_right(identity, _password(drafted)):
        await asyncio.to_thread(draft.rename, path)
    elif drafted:
        await asyncio.to_thread(draft.unlink)
    text = await asyncio.to_thread(_read, path)
    if not text and identity.admin_password and await _is_right(identity, identity.admin_password):
        text = _CLOUDS.format(url=base_url, password=identity.admin_password)
    if text:
        await asyncio.to_thread(_write, path, _at(text, base_url))
        return Access(path)
    place = await identity.read(bootstrap.password_place)
    return Access(None, f"The admin's password is in {place}." if place else "Ask the admin of this cloud for its password.")


async def _is_right(identity: Identity, password: str) -> bool:
    try:
        await login.check_password(identity, Ref(name=bootstrap.ADMIN, domain_id=domains.DEFAULT), password)
    except Unauthorized:
        return False
    return True


def _flavors_and_network(tx: Tx, config: Config, project_id: str, place: str, now: float) -> None:
    """One transaction: where there is a flavor, there is all of it, and it is never made again."""
    bootstrap.done(tx, place, now)
    if flavors.page(tx, SYSTEM, Page(limit=1), is_public=None):
        return
    for flavor_id, name, vcpus, ram, disk in FLAVORS:
        flavors.create(tx, flavor_id=flavor_id, name=name, vcpus=vcpus, ram=ram, disk=disk)
    made = networks.create(tx, config, networks.NewNetwork(project_id, name=NETWORK, shared=True))
    new = subnets.NewSubnet(made["id"], CIDR, 4, project_id, name=NETWORK)
    subnets.create(tx, config, SYSTEM, new)


def _draft(state: Path, base_url: str, chosen: str) -> str:
    """The text of clouds.yaml to be, on the disk: with the password of the settings, of an earlier draft or file, or a new one."""
    text = _read(state / DRAFT) or _read(state / CLOUDS) or _CLOUDS.format(url=base_url, password=secrets.token_urlsafe(18))
    if chosen:
        text = _PASSWORD.sub(lambda _: f'password: "{chosen}"', text, count=1)
    if not _PASSWORD.search(text):
        raise StartupError(f"{state / CLOUDS} names no password for the admin of a new cloud; add one, or move the file away")
    _write(state / DRAFT, _at(text, base_url))
    return text


def _password(text: str) -> str:
    found = _PASSWORD.search(text)
    return found[1] if found else ""


def _at(text: str, base_url: str) -> str:
    return _URL.sub(lambda _: f'auth_url: "{base_url}/identity"', text)


def _place(state: Path, chosen: str) -> str:
    return "the setting identity.admin_password" if chosen else f"{state / CLOUDS} on {socket.gethostname()}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    """For its owner's eyes, whole or not at all; on the disk before this returns."""
    if _read(path) == text:
        return
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
