"""The cloud put together: what starting it again after a long time away makes of the work that was under way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pileus.choice import Choice
from pileus.cli.client import Client
from pileus.cli.statefolder import login
from pileus.cloud import Cloud
from pileus.host.service import Host
from pileus.settings import Api, Settings, Simulated

LIMIT = 20.0
AWAY = 7200


def _cloud(state: Path, **simulated: float) -> Cloud:
    settings = Settings(state=str(state), api=Api(listen="127.0.0.1:0"), simulated=Simulated(**simulated))  # type: ignore[arg-type]
    return Cloud(settings, Choice("simulated", "a test"))


async def _ask(state: Path, question: Callable[[Client], Any]) -> Any:
    def ask() -> Any:
        with Client(login(state)) as client:
            return question(client)

    return await asyncio.to_thread(ask)


def _create(client: Client) -> str:
    body = {"name": "a", "flavorRef": "1", "imageRef": "", "networks": "auto"}
    return str(client.post("compute", "/servers", {"server": body})["server"]["id"])


async def _until(state: Path, question: Callable[[Client], Any], wanted: Any) -> None:
    async with asyncio.timeout(LIMIT):
        while (found := await _ask(state, question)) != wanted:
            assert found != "ERROR"
            await asyncio.sleep(0.02)


def _back_in_time(state: Path) -> None:
    """As if all that is written down had been so for a long time."""
    with closing(sqlite3.connect(state / "pileus.db")) as database, database:
        database.execute("UPDATE compute_host_beats SET seen_at = seen_at - ?", (AWAY,))
        times = ", ".join(f"{column} = {column} - {AWAY}" for column in ("due_at", "deadline", "started_at"))
        database.execute(f"UPDATE compute_actions SET {times}")


@pytest.fixture
def slow_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that need a second to start, as one with a real switch does on a busy machine."""
    start = Host.start

    async def later(self: Host) -> None:
        await asyncio.sleep(1)
        await start(self)

    monkeypatch.setattr(Host, "start", later)


async def test_a_create_goes_on_after_a_long_time_away(tmp_path: Path, slow_hosts: None) -> None:
    first = _cloud(tmp_path, start=60.0)
    await first.start()
    server_id = await _ask(tmp_path, _create)
    await _until(tmp_path, lambda client: client.get("compute", f"/servers/{server_id}")["server"]["OS-EXT-STS:task_state"], "spawning")
    await first.close()
    _back_in_time(tmp_path)
    second = _cloud(tmp_path)
    await second.start()
    try:
        await _until(tmp_path, lambda client: client.get("compute", f"/servers/{server_id}")["server"]["status"], "ACTIVE")
    finally:
        await second.close()


async def test_a_delete_goes_on_after_a_long_time_away(tmp_path: Path, slow_hosts: None) -> None:
    first = _cloud(tmp_path, stop=60.0)
    await first.start()
    server_id = await _ask(tmp_path, _create)
    await _until(tmp_path, lambda client: client.get("compute", f"/servers/{server_id}")["server"]["status"], "ACTIVE")
    await _ask(tmp_path, lambda client: client.request("DELETE", "compute", f"/servers/{server_id}"))
    await first.close()
    _back_in_time(tmp_path)
    second = _cloud(tmp_path)
    await second.start()
    try:
        await _until(tmp_path, lambda client: client.get("compute", "/servers")["servers"], [])
    finally:
        await second.close()
