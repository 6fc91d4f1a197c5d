"""Hashing: right, off the loop, not too much at once, and silent about who exists."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator

import argon2
import pytest

from pileus.errors import Unavailable
from pileus.identity import passwords
from pileus.identity.passwords import Passwords


@pytest.fixture
async def hasher() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


async def test_a_password_matches_its_own_hash_only(hasher: Passwords) -> None:
    hashed = await hasher.hash("sésame")
    assert hashed.startswith("$argon2id$v=19$m=7168,t=5,p=1$")
    assert await hasher.hash("sésame") != hashed
    assert await hasher.matches(hashed, "sésame")
    assert not await hasher.matches(hashed, "sesame")
    assert not await hasher.matches(None, "nobody")
    assert not await hasher.matches("not a hash", "x")


async def test_an_unknown_user_costs_as_much_as_a_wrong_password(hasher: Passwords) -> None:
    hashed = await hasher.hash("right")
    await hasher.matches(None, "warm")

    async def cost(against: str | None) -> float:
        began = time.perf_counter()
        await hasher.matches(against, "wrong")
        return time.perf_counter() - began

    pairs = [(await cost(hashed), await cost(None)) for _ in range(9)]
    known, unknown = (statistics.median(each) for each in zip(*pairs, strict=True))
    assert 0.5 < unknown / known < 2


async def test_the_loop_stays_free_and_only_a_few_are_hashed_at_once(hasher: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = most = 0
    original = argon2.PasswordHasher.hash

    def counting(self: argon2.PasswordHasher, password: str) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return original(self, password)
        finally:
            at_once -= 1

    monkeypatch.setattr(argon2.PasswordHasher, "hash", counting)
    work = asyncio.gather(*(hasher.hash(str(n)) for n in range(8)))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert most == passwords.THREADS
    assert turns > 20  # a blocked loop would have turned once or twice


async def test_who_waits_too_long_is_told_so(hasher: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "LIMIT", 0.001)
    with pytest.raises(Unavailable, match="too many logins"):
        await hasher.hash("x")
