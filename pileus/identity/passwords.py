"""Passwords: argon2id with OWASP's parameters, hashed on a few threads of our own so that a flood of logins starves nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from pileus.errors import Unavailable

T = TypeVar("T")

MAX_LENGTH = 4096
ROUNDS, MEMORY = 5, 7 * 1024
"""KiB. One of the sets of equal strength that OWASP's Password Storage Cheat Sheet gives: the one with the least memory, since each of our
threads keeps what it has used (the set with 19 MiB made the idle process 38 MB larger)."""
THREADS = 2
LIMIT = 30.0
"""Seconds that a login waits for its turn."""


class Passwords:
    def __init__(self) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=ROUNDS, memory_cost=MEMORY, parallelism=1)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Is it the password? Without a hash (no such user) the same work is done for nothing, so that time tells nobody who exists."""
        return await self._run(lambda: self._verify(hashed, password))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, hashed: str | None, password: str) -> bool:
        if hashed is None:
            self._nobody = self._nobody or self._hasher.hash("nobody")
        try:
            return self._hasher.verify(hashed or self._nobody or "", password) and hashed is not None
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            async with asyncio.timeout(LIMIT):
                return await future
        except TimeoutError:
            raise Unavailable("too many logins at once; try again") from None
