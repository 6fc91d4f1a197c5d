"""Servers made: rows that wait for their turn. What takes time is the worker's."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pileus.clients.network import RequestedNic
from pileus.compute import actions, admission, flavors, hosts, keypairs, metadata, quotas
from pileus.compute.lifecycle import VERBS
from pileus.compute.tables import servers
from pileus.context import Context
from pileus.errors import BadRequest, NotFound, QuotaExceeded
from pileus.settings import Settings
from pileus.store import Tx
from pileus.store.sql import Row


@dataclass(frozen=True)
class NewServer:
    """A create request, found good. `flavor` is the snapshot that the server keeps."""

    name: str
    flavor: Mapping[str, Any]
    nics: Sequence[RequestedNic]
    image_id: str | None = None
    description: str | None = None
    hostname: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    key_name: str | None = None
    public_keys: Mapping[str, str] = field(default_factory=dict)
    user_data: str | None = None
    config_drive: bool = False
    zone: str | None = None
    forced_host: str | None = None
    access_ip_v4: str | None = None
    access_ip_v6: str | None = None
    auto_disk_config: bool = False


@dataclass(frozen=True)
class Creation:
    """Somebody's wish for `count` servers, all or none."""

    context: Context
    wanted: NewServer
    count: int = 1

    def uses(self) -> dict[str, int]:
        """What it takes of the project's quota."""
        flavor = self.wanted.flavor
        return {"instances": self.count, "cores": self.count * flavor["vcpus"], "ram": self.count * flavor["ram"]}


@dataclass(frozen=True)
class Wish:
    """What a create request names: it must be there."""

    flavor_id: str
    key_name: str | None
    zone: str | None
    forced_host: str | None
    metadata_items: int


def look_up(tx: Tx, settings: Settings, context: Context, wish: Wish) -> tuple[dict[str, Any], dict[str, str]]:
    """The flavor's snapshot and the keys of what is wished for. Raises NotFound, BadRequest, QuotaExceeded."""
    flavor = flavors.get(tx, context, wish.flavor_id)
    keys: dict[str, str] = {}
    if wish.key_name is not None:
        try:
            keys = {wish.key_name: keypairs.get(tx, context.user_id, wish.key_name)["public_key"]}
        except NotFound:
            raise BadRequest("Invalid key_name provided.") from None
    metadata.check(tx, settings.quota, context.project, wish.metadata_items)
    if wish.forced_host is not None and hosts.by_name(tx, wish.forced_host) is None:
        raise BadRequest(f"Compute host {wish.forced_host} could not be found.")
    if wish.zone not in (None, settings.compute.availability_zone) and not hosts.has_zone(tx, wish.zone):
        raise BadRequest("The requested availability zone is not available")
    return flavors.snapshot(flavor), keys


def create(tx: Tx, settings: Settings, creation: Creation, *, limit: float) -> list[Row]:
    """The servers with their create actions, which wait to be let in for at most `limit` seconds (0: for ever).

    Raises QuotaExceeded, and TooManyRequests where too many of the project wait already.
    """
    tag = quotas.take(tx, settings.quota, creation.context.project, **creation.uses())
    if settings.quota.queued_creates >= 0:
        admission.check_queue(tx, creation.context.project, creation.count, settings.quota.queued_creates)
    return _insert(tx, [(creation, tag)], limit)[0]


def create_together(tx: Tx, settings: Settings, creations: Sequence[Creation], *, limit: float) -> list[list[Row] | Exception]:
    """Those of one project that came at the same time: for each its servers, or the QuotaExceeded that it alone is to hear."""
    project, asked = creations[0].context.project, [creation.uses() for creation in creations]
    try:
        first = quotas.take(tx, settings.quota, project, **{name: sum(one[name] for one in asked) for name in asked[0]})
    except QuotaExceeded:
        return [_alone(tx, settings, creation, limit) for creation in creations]
    tags = [first + sum(creation.count for creation in creations[:n]) for n in range(len(creations))]
    return [*_insert(tx, list(zip(creations, tags, strict=True)), limit)]


def hostname_of(name: str, server_id: str) -> str:
    """A host name from a server's name, as Nova makes one."""
    clean = re.sub(r"[^a-z0-9.-]", "", re.sub(r"[ _]", "-", name.lower())).strip(".-")[:63].strip(".-")
    return clean or f"server-{server_id}"


def _alone(tx: Tx, settings: Settings, creation: Creation, limit: float) -> list[Row] | Exception:
    try:
        return create(tx, settings, creation, limit=limit)
    except QuotaExceeded as error:  # it has changed nothing
        return error


def _insert(tx: Tx, tagged: Sequence[tuple[Creation, int]], limit: float) -> list[list[Row]]:
    made = [_servers(creation) for creation, _ in tagged]
    tx.execute(servers.insert(), [server for each in made for server in each])
    waiting = [
        actions.row(creation.context, VERBS["create"], server, limit=limit, tag=tag + n)
        for (creation, tag), each in zip(tagged, made, strict=True)
        for n, server in enumerate(each)
    ]
    actions.insert(tx, waiting)
    return made


def _servers(creation: Creation) -> list[Row]:
    wanted, now, reservation = creation.wanted, time.time(), "r-" + uuid.uuid4().hex[:8]
    return [_server(creation, wanted, index, now, reservation) for index in range(creation.count)]


def _server(creation: Creation, wanted: NewServer, index: int, now: float, reservation: str) -> Row:
    server_id = str(uuid.uuid4())
    name = wanted.name if creation.count == 1 else f"{wanted.name}-{index + 1}"
    return {
        "id": server_id,
        "project_id": creation.context.project,
        "user_id": creation.context.user_id,
        "name": name,
        "hostname": wanted.hostname or hostname_of(name, server_id),
        "description": wanted.description,
        "reservation_id": reservation,
        "launch_index": index,
        "metadata": dict(wanted.metadata),
        "flavor": dict(wanted.flavor),
        "image_id": wanted.image_id,
        "boot": None,
        "key_name": wanted.key_name,
        "public_keys": dict(wanted.public_keys),
        "user_data": wanted.user_data,
        "config_drive": wanted.config_drive,
        "zone": wanted.zone,
        "forced_host": wanted.forced_host,
        "nics": [asdict(nic) for nic in wanted.nics],
        "host": None,
        "vm_state": "building",
        "task_state": VERBS["create"].task,
        "power": "absent",
        "locked": False,
        "access_ip_v4": wanted.access_ip_v4,
        "access_ip_v6": wanted.access_ip_v6,
        "auto_disk_config": wanted.auto_disk_config,
        "generation": 1,
        "lease_owner": "",
        "lease_until": 0.0,
        "fault": None,
        "created_at": now,
        "updated_at": now,
        "launched_at": None,
        "deleted_at": None,
    }
