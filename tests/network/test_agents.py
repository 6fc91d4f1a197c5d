"""Which agents are known to be dead, and that nothing is bound where one is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine

from pileus.errors import Conflict
from pileus.messages import AgentBeat, AgentFacts
from pileus.network import agents, bindings
from pileus.network.service import Network
from pileus.store.schema import json_dumps, json_loads, metadata

DOWN = 75.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@pytest.fixture
def database(clock: list[float]) -> Iterator[Any]:
    engine = create_engine("sqlite://", json_serializer=json_dumps, json_deserializer=json_loads)
    metadata.create_all(engine)
    with engine.begin() as tx:
        yield tx
    engine.dispose()


def listen(tx: Any, clock: list[float], seconds: float) -> None:
    """Time passes, and the rpc workers hear their echo."""
    for _ in range(round(seconds / 5)):
        clock[0] += 5
        agents.hearing(tx)


def test_a_beat_asks_for_facts_that_are_not_the_ones_known(database: Any) -> None:
    assert agents.hear(database, [], [AgentBeat("h1", 7, 1.0)]) == ["h1"]
    assert agents.hear(database, [AgentFacts("h1", mark=7, started_at=1.0)], []) == []
    assert agents.hear(database, [], [AgentBeat("h1", 7, 1.0), AgentBeat("h2", 1, 1.0)]) == ["h2"]
    assert agents.hear(database, [], [AgentBeat("h1", 8, 3.0)]) == ["h1"]
    assert {row["started_at"] for row in agents.of_kind(database, agents.DHCP)} == {3.0}


def test_dead_is_who_was_silent_while_somebody_listened(database: Any, clock: list[float]) -> None:
    agents.hearing(database)
    agents.hear(database, [AgentFacts("h1", mark=7)], [])
    listen(database, clock, 70)
    assert not agents.is_dead(database, "h1", DOWN)
    listen(database, clock, 10)
    assert agents.is_dead(database, "h1", DOWN) and not agents.is_dead(database, "never heard of", DOWN)
    agents.hear(database, [], [AgentBeat("h1", 7, 0.0)])
    assert not agents.is_dead(database, "h1", DOWN)
    clock[0] += 3600
    assert not agents.is_dead(database, "h1", DOWN), "nobody listened"
    listen(database, clock, 70)
    assert not agents.is_dead(database, "h1", DOWN), "nobody has listened for long"
    listen(database, clock, 10)
    assert agents.is_dead(database, "h1", DOWN)


async def test_nothing_is_bound_where_the_agent_is_dead(network: Network, clock: list[float]) -> None:
    def die(tx: Any) -> None:
        agents.hearing(tx)
        agents.hear(tx, [AgentFacts("h1", mark=7), AgentFacts("h2", mark=7)], [])
        listen(tx, clock, DOWN + 5)
        agents.hear(tx, [], [AgentBeat("h2", 7, 0.0)])

    await network.store.write(die)
    await network.store.read(bindings.check_agent, network.config, "h2")
    with pytest.raises(Conflict, match="network agent of host h1") as refused:
        await network.store.read(bindings.check_agent, network.config, "h1")
    assert refused.value.kind == "HostTaken"
