"""A store of its own for each test, the rules' configuration, and callers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine, event, text

from pileus.context import Context
from pileus.network import tables
from pileus.network.config import Config, read
from pileus.settings import Network, Settings
from pileus.store.schema import json_dumps, json_loads, metadata

assert tables.networks is not None

ADMIN = Context("u-admin", project_id="p-admin", roles=frozenset({"admin", "member", "reader"}))
ALICE = Context("u-alice", project_id="p-alice", roles=frozenset({"member", "reader"}))
BOB = Context("u-bob", project_id="p-bob", roles=frozenset({"member", "reader"}))
EVE = Context("u-eve", project_id="p-alice", roles=frozenset({"reader"}))

SETTINGS = Settings(network=Network(vlan_ranges=["physnet1:100:102", "physnet2"], max_fixed_ips=3))


@pytest.fixture
def config() -> Config:
    return read(SETTINGS, notify=True)


@pytest.fixture
def tx() -> Iterator[Connection]:
    with memory() as connection:
        yield connection


def memory() -> Connection:
    """A connection to an empty database of its own, in memory."""
    engine = create_engine("sqlite://", json_serializer=json_dumps, json_deserializer=json_loads)
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA foreign_keys = ON"))
    connection = engine.connect()
    metadata.create_all(connection)
    connection.execute(text("SELECT 1"))
    return connection
