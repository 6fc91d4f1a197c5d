"""The first start: once in a cloud's life, whatever the number of processes and machines, and wherever it is cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from pileus import firststart
from pileus import settings as tree
from pileus.compute import flavors
from pileus.compute import tables as compute_tables
from pileus.errors import StartupError
from pileus.firststart import CLOUDS, DRAFT, Access
from pileus.identity import bootstrap
from pileus.identity.service import Identity
from pileus.identity.tables import users
from pileus.network import config
from pileus.network import tables as network_tables
from pileus.settings import Settings
from pileus.store import Store, Tx
from tests.identity.engines import ENGINES, opened

URL = "http://cloud.test"
CHOSEN = "chosen-by-hand"


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, request) as found:
        yield found


@contextlib.asynccontextmanager
async def machine(store: Store, state: Path, password: str = "") -> AsyncIterator[Identity]:
    await asyncio.to_thread(state.mkdir, exist_ok=True)
    identity = Identity(store, Settings(identity=tree.Identity(admin_password=password)), state / "keys", URL)
    await identity.start()
    try:
        yield identity
    finally:
        await identity.close()


async def start(store: Store, state: Path, password: str = "", url: str = URL) -> Access:
    async with machine(store, state, password) as identity:
        return await firststart.run(state, url, identity, store, config.read(Settings(), notify=False))


async def works(store: Store, state: Path) -> bool:
    """Does this folder's clouds.yaml open the cloud?"""
    async with machine(store, state) as identity:
        return await firststart._is_right(identity, firststart._password((state / CLOUDS).read_text()))


def in_folder(state: Path) -> list[str]:
    return sorted(path.name for path in state.iterdir() if "pileus.db" not in path.name)


def count(tx: Tx, table: Any) -> int:
    return int(tx.execute(select(func.count()).select_from(table)).scalar_one())


async def made(store: Store) -> list[int]:
    return [await store.read(count, table) for table in (users, compute_tables.flavors, network_tables.networks, network_tables.subnets)]


ALL = [2, len(firststart.FLAVORS), 1, 1]


async def test_many_processes_of_one_machine_at_once(store: Store, tmp_path: Path) -> None:
    found = await asyncio.gather(*[start(store, tmp_path) for _ in range(6)])
    assert found == [Access(tmp_path / CLOUDS)] * 6
    assert await made(store) == ALL
    assert await works(store, tmp_path)
    assert (tmp_path / CLOUDS).stat().st_mode & 0o777 == 0o600
    assert in_folder(tmp_path) == [CLOUDS]


async def test_of_many_machines_one_has_the_password_and_the_others_say_which(store: Store, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    found = await asyncio.gather(*[start(store, folder) for folder in folders])
    assert await made(store) == ALL
    (first,) = [access.clouds_yaml for access in found if access.clouds_yaml is not None]
    assert await works(store, first.parent)
    others = [access.words for access in found if access.clouds_yaml is None]
    assert len(others) == 2
    assert all(f"{first} on " in words and "password" in words for words in others)
    assert [folder for folder in folders if list(folder.iterdir())] == [first.parent]


async def test_with_a_chosen_password_every_machine_has_clouds_yaml(store: Store, tmp_path: Path) -> None:
    a, b = await start(store, tmp_path / "a", CHOSEN), await start(store, tmp_path / "b", CHOSEN)
    assert (a.clouds_yaml, b.clouds_yaml) == (tmp_path / "a" / CLOUDS, tmp_path / "b" / CLOUDS)
    assert f'password: "{CHOSEN}"' in (tmp_path / "b" / CLOUDS).read_text()
    assert await works(store, tmp_path / "a") and await works(store, tmp_path / "b")
    wrong = await start(store, tmp_path / "c", "another")  # not this cloud's: it would open nothing
    assert wrong.clouds_yaml is None
    assert "identity.admin_password" in wrong.words
    assert CHOSEN not in wrong.words


async def test_what_a_user_has_removed_stays_removed_and_clouds_yaml_keeps_all_but_the_url(store: Store, tmp_path: Path) -> None:
    await start(store, tmp_path)
    mine = (tmp_path / CLOUDS).read_text() + "  other:\n    region_name: here\n"
    (tmp_path / CLOUDS).write_text(mine)
    await store.write(flavors.delete, "1")
    await start(store, tmp_path, url="http://new.test")
    assert (await made(store))[1] == ALL[1] - 1
    assert (tmp_path / CLOUDS).read_text() == mine.replace(URL, "http://new.test")


@pytest.mark.parametrize("moment", ["drafted", "admin made", "all made"])
async def test_a_first_start_that_was_cut_off_is_gone_on_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with monkeypatch.context() as patch:
        if moment == "drafted":
            patch.setattr(bootstrap, "run", _die)
        else:
            patch.setattr(firststart, "_flavors_and_network" if moment == "admin made" else "_access", _die)
        with pytest.raises(Died):
            await start(store, tmp_path)
    assert (tmp_path / DRAFT).exists()
    assert not (tmp_path / CLOUDS).exists()
    assert (await start(store, tmp_path)).clouds_yaml == tmp_path / CLOUDS
    assert await made(store) == ALL
    assert await works(store, tmp_path)
    assert not (tmp_path / DRAFT).exists()


async def test_a_password_that_the_admin_did_not_get_is_forgotten(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine dies before it has made the admin, another one makes it."""
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "run", _die)
        with pytest.raises(Died):
            await start(store, tmp_path / "a")
    await start(store, tmp_path / "b")
    found = await start(store, tmp_path / "a")
    assert found.clouds_yaml is None
    assert str(tmp_path / "b" / CLOUDS) in found.words
    assert list((tmp_path / "a").iterdir()) == []


async def test_the_file_that_said_it_before_is_heeded_once(store: Store, tmp_path: Path) -> None:
    async with machine(store, tmp_path) as identity:
        await identity.bootstrap("x")
    (tmp_path / "made").touch()
    (tmp_path / CLOUDS).write_text('    password: "x"\n')
    await start(store, tmp_path)
    assert await made(store) == [2, 0, 0, 0]  # a user had removed all of it
    assert not (tmp_path / "made").exists()
    await start(store, tmp_path)
    assert await made(store) == [2, 0, 0, 0]


async def test_the_file_of_an_old_folder_does_not_speak_for_a_new_database(store: Store, tmp_path: Path) -> None:
    (tmp_path / "made").touch()
    assert (await start(store, tmp_path)).clouds_yaml
    assert await made(store) == ALL


async def test_a_clouds_yaml_without_a_password_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / CLOUDS).write_text("clouds: {}\n")
    with pytest.raises(StartupError, match="names no password"):
        await start(store, tmp_path)


class Died(Exception):
    pass


def _die(*_: object, **__: object) -> Any:
    raise Died
