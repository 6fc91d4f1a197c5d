"""The keys that processes share: staged, in use, kept as long as tokens live; taken over from files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import update

from pileus.errors import StartupError
from pileus.identity import keys
from pileus.identity.keys import STAGED, Keys
from pileus.identity.tables import keys as table
from pileus.store import Store, Tx
from tests.identity.engines import ENGINES, opened

DAY, HOUR = 86400.0, 3600.0


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, request) as found:
        yield found


@dataclass
class Process:
    """One of several on a database, with a clock of its own."""

    store: Store
    rotation: float = DAY
    lifetime: float = HOUR
    now: float = 0.0

    def __post_init__(self) -> None:
        self.ring = Keys(lambda: self.now)

    async def read(self) -> list[int]:
        """The numbers of the keys there are."""
        found = await self.store.read(keys.kept)
        self.ring.take(found)
        return [row["number"] for row in found]

    async def tend(self, now: float) -> list[int]:
        self.now = now
        if keys.due(await self.store.read(keys.kept), now, rotation=self.rotation, lifetime=self.lifetime):
            await self.store.write(keys.tend, now, rotation=self.rotation, lifetime=self.lifetime)
        return await self.read()


async def test_many_that_start_at_once_make_one_key(store: Store) -> None:
    processes = [Process(store) for _ in range(10)]
    made = await asyncio.gather(*[process.tend(5.0) for process in processes])
    assert made == [[1]] * 10
    token = processes[0].ring.seal(b"x")
    assert "=" not in token
    assert {process.ring.unseal(token) for process in processes} == {b"x"}


async def test_many_that_turn_at_once_stage_one_key(store: Store) -> None:
    processes = [Process(store) for _ in range(10)]
    for process in processes:
        await process.tend(0.0)
    assert await asyncio.gather(*[process.tend(DAY) for process in processes]) == [[1, 2]] * 10


async def test_a_key_seals_only_when_every_process_had_time_to_learn_it(store: Store) -> None:
    first, other = Process(store), Process(store)
    await first.tend(0.0)
    await other.tend(0.0)
    assert await first.tend(DAY - STAGED - 1) == [1]
    assert await first.tend(DAY - STAGED) == [1, 2]
    first.now = DAY - 0.1
    assert other.ring.unseal(first.ring.seal(b"staged")) == b"staged"  # though the other does not know the new key
    first.now = DAY
    token = first.ring.seal(b"primary")
    assert other.ring.unseal(token) is None
    await other.read()
    assert other.ring.unseal(token) == b"primary"
    assert first.ring.unseal(other.ring.seal(b"late")) == b"late"  # the other's clock is a day behind


async def test_tokens_live_through_a_rotation_and_the_old_key_goes_when_they_have_ended(store: Store) -> None:
    process = Process(store)
    await process.tend(0.0)
    token = process.ring.seal(b"payload")
    assert await process.tend(DAY) == [1, 2]
    ends = DAY + STAGED + HOUR + STAGED  # made a turn late, so it seals later; and a clock may be behind
    assert await process.tend(ends - 1) == [1, 2]
    assert process.ring.unseal(token) == b"payload"
    assert await process.tend(ends) == [2]
    assert process.ring.unseal(token) is None
    assert process.ring.unseal(process.ring.seal(b"new")) == b"new"


async def test_many_keys_are_kept_where_tokens_live_longer_than_a_rotation(store: Store) -> None:
    process = Process(store, rotation=HOUR, lifetime=3 * HOUR)
    tokens = []
    for minutes in range(0, 8 * 60, 5):
        await process.tend(minutes * 60.0)
        if minutes % 60 == 30:
            tokens.append(process.ring.seal(b"x"))
    assert [process.ring.unseal(token) is not None for token in tokens] == [False] * 4 + [True] * 4
    assert len(await process.read()) == 5  # one in use, one staged, those of the last three hours


async def test_a_clock_that_was_set_back_changes_nothing(store: Store) -> None:
    process = Process(store)
    await process.tend(10 * DAY)
    token = process.ring.seal(b"x")
    assert await process.tend(0.0) == [1]
    assert process.ring.unseal(token) == b"x"
    assert process.ring.unseal(process.ring.seal(b"y")) == b"y"


async def test_a_row_that_is_no_key_is_named(store: Store) -> None:
    process = Process(store)
    await process.tend(0.0)

    def spoil(tx: Tx) -> None:
        tx.execute(update(table).values(secret="nonsense"))

    await store.write(spoil)
    with pytest.raises(StartupError, match="identity_keys holds something that is no Fernet key"):
        await process.read()


@pytest.mark.parametrize("text", ["", "=", "x", "gAAAAAB", "é", "gAAAAAB" + "A" * 200, "\x00", "a b"])
async def test_nonsense_is_no_token(store: Store, text: str) -> None:
    process = Process(store)
    await process.tend(0.0)
    assert process.ring.unseal(text) is None


def write_files(folder: Path, *made: int) -> list[Fernet]:
    """The key files of a state folder as Pileus wrote them when it was one process."""
    folder.mkdir()
    found = []
    for at in made:
        secret = Fernet.generate_key()
        (folder / f"{at}.key").write_bytes(secret)
        found.append(Fernet(secret))
    return found


async def take_over(store: Store, folder: Path) -> None:
    found = keys.in_files(folder)
    keys.remove_files(folder, found, await store.write(keys.adopt, found))


async def test_files_become_rows_once_and_their_tokens_stay_good(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    old, new = write_files(folder, 1000, 90000)
    (folder / "5.part").write_bytes(b"half a k")
    await take_over(store, folder)
    assert not folder.exists()
    process = Process(store, now=90001.0)
    assert await process.read() == [1, 2]
    for key in (old, new):
        assert process.ring.unseal(key.encrypt(b"x").decode().rstrip("=")) == b"x"
    assert new.decrypt(process.ring.seal(b"y") + "==") == b"y"
    assert await process.tend(90001.0 + DAY) == [2, 3]  # and they turn as the others do


async def test_files_beside_a_database_with_keys_of_its_own_are_left_alone(store: Store, tmp_path: Path) -> None:
    process = Process(store)
    await process.tend(0.0)
    folder = tmp_path / "keys"
    (foreign,) = write_files(folder, 7)
    await take_over(store, folder)
    assert [path.name for path in folder.iterdir()] == ["7.key"]
    assert await process.read() == [1]
    assert process.ring.unseal(foreign.encrypt(b"x").decode()) is None


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "7.key").write_text("nonsense")
    with pytest.raises(StartupError, match=r"7\.key holds no Fernet key; restore it, or remove it"):
        keys.in_files(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "7.key").mkdir()
    with pytest.raises(StartupError, match=r"token keys in .*: Is a directory"):
        keys.in_files(tmp_path)


def test_no_folder_has_no_keys(tmp_path: Path) -> None:
    assert keys.in_files(tmp_path / "none") == []
