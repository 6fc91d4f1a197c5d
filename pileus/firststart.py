"""What a cloud has when it is new: an administrator, a project, flavors and a network; and the clouds.yaml to use it with."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from pathlib import Path

from pileus.compute import flavors
from pileus.context import SYSTEM
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


async def run(state: Path, base_url: str, identity: Identity, store: Store, config: Config) -> Path:
    """Make what is missing, the first time only: whatever a user removes later stays removed. Killed in the middle, it goes on.

    The path of clouds.yaml.
    """
    clouds_yaml, mark = state / "clouds.yaml", state / "made"
    password = await asyncio.to_thread(_write_clouds, clouds_yaml, base_url)
    if not await asyncio.to_thread(mark.exists):
        made = await identity.bootstrap(password)
        await store.write(_flavors_and_network, config, made.admin_project_id)
        await asyncio.to_thread(mark.touch)
    return clouds_yaml


def _flavors_and_network(tx: Tx, config: Config, project_id: str) -> None:
    """One transaction: where there is a flavor, there is all of it."""
    if flavors.page(tx, SYSTEM, Page(limit=1), is_public=None):
        return
    for flavor_id, name, vcpus, ram, disk in FLAVORS:
        flavors.create(tx, flavor_id=flavor_id, name=name, vcpus=vcpus, ram=ram, disk=disk)
    made = networks.create(tx, config, networks.NewNetwork(project_id, name=NETWORK, shared=True))
    new = subnets.NewSubnet(made["id"], CIDR, 4, project_id, name=NETWORK)
    subnets.create(tx, config, SYSTEM, new)


def _write_clouds(path: Path, base_url: str) -> str:
    """clouds.yaml, for its owner's eyes; one that is there keeps all but the URL. The admin's first password."""
    text = path.read_text() if path.exists() else _CLOUDS.format(url=base_url, password=secrets.token_urlsafe(18))
    fresh = re.sub(r'auth_url: ".*"', f'auth_url: "{base_url}/identity"', text)
    if fresh != text or not path.exists():
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(fresh)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    found = re.search(r'password: "(.*)"', fresh)
    return found[1] if found else secrets.token_urlsafe(18)
