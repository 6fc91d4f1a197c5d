"""What hosts say of builds: of their own steps only, and not at any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pileus.compute import actions, admission, creation, leases, outcomes, servers
from pileus.compute.creation import Creation, NewServer
from pileus.compute.tables import hosts
from pileus.context import Context
from pileus.messages import Observed, Progress
from pileus.settings import Quota, Settings
from pileus.store import Tx
from pileus.store.sqlite import SqliteStore

FLAVOR = {"id": "1", "name": "nano", "ram": 128, "vcpus": 1, "disk": 0, "ephemeral": 0, "swap": 0, "extra_specs": {}}
LIES = {"accepted": 1.0, "claimed": 2.0, "reported": 3.0, "nonsense": 4.0, "plugged": 5.0}


def sent(tx: Tx) -> Any:
    """A server whose create host h1 was told of."""
    tx.execute(
        hosts.insert(), {"name": "h1", "id": "h1", "service_id": "h1", "facts": {}, "zone": "nova", "created_at": 0, "updated_at": 0}
    )
    context = Context("user", project_id="a", roles=frozenset({"member"}))
    settings = Settings(quota=Quota(instances=-1, cores=-1, ram=-1))
    creation.create(tx, settings, Creation(context, NewServer("s", FLAVOR, [])), limit=60.0)
    leases.join(tx, "w")
    found = admission.admit(tx, "w", lease=60.0, limit=0, most=1, deadline=100.0)
    assert found is not None
    [(action, server)] = found.batch
    outcomes.sent(tx, action, {**server, "host": "h1"}, {"state": "sent"})
    return servers.by_id(tx, server["id"])


async def test_a_host_tells_of_its_own_steps(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "one.db")
    server = await store.write(sent)
    before = await store.read(actions.open_of, server["id"])
    assert before is not None
    assert await store.write(outcomes.progress, Progress(server["id"], "h1", server["generation"], LIES, "wired"))
    after = await store.read(actions.open_of, server["id"])
    assert after is not None and after["stamps"] == {**before["stamps"], "plugged": 5.0}
    await store.write(outcomes.take, Observed(server["id"], "h1", server["generation"], "running", stamps={**LIES, "resumed": 6.0}))
    [done] = await store.read(actions.of_server, server["id"])
    assert done["state"] == "done"
    reported = done["stamps"].pop("reported")
    assert reported > 3.0 and done["stamps"] == {**before["stamps"], "plugged": 5.0, "resumed": 6.0}
    await store.close()


@pytest.mark.parametrize(("hold", "state", "building"), [(False, "parked", 0), (True, "sent", 1)])
async def test_a_build_that_waits_for_its_network_gives_its_place_back_unless_it_holds_it(
    tmp_path: Path, hold: bool, state: str, building: int
) -> None:
    store = SqliteStore.open(tmp_path / "one.db")
    server = await store.write(sent)
    message = Progress(server["id"], "h1", server["generation"], {"paused": 6.0}, "signalled")
    assert await store.write(outcomes.progress, message, hold=hold) is not hold
    action = await store.read(actions.open_of, server["id"])
    assert action is not None
    assert (action["state"], action["details"]["waits_for"], action["stamps"]["paused"]) == (state, "signalled", 6.0)
    assert await store.read(lambda tx: tx.execute(select(hosts.c.building)).scalar_one()) == building
    told = Observed(server["id"], "h1", server["generation"], "running", stamps={})
    await store.write(outcomes.take, told)
    assert await store.read(lambda tx: tx.execute(select(hosts.c.building)).scalar_one()) == 0
    await store.close()


async def test_a_host_tells_no_tale_without_end(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "one.db")
    server = await store.write(sent)
    told = await store.write(outcomes.take, Observed(server["id"], "h1", server["generation"], "absent", "paused", "no " * 10**6))
    assert told is not None and told.failure is not None
    assert (told.failure.step, len(told.failure.cause)) == ("paused", outcomes.MOST_CAUSE)
    await store.close()


async def test_that_a_guest_was_removed_is_no_answer_to_a_create(tmp_path: Path) -> None:
    """An order to remove an earlier guest of the same server, answered after the server was sent to that host again."""
    store = SqliteStore.open(tmp_path / "one.db")
    server = await store.write(sent)
    assert await store.write(outcomes.take, Observed(server["id"], "h1", server["generation"], "absent")) is None
    action = await store.read(actions.open_of, server["id"])
    assert action is not None and action["state"] == "sent"
    await store.close()
