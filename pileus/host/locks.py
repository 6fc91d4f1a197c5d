"""One lock for each key, kept while somebody holds it or waits for it."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Locks:
    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        """To be used as `async with locks.of(key)`."""
        return self._locks.setdefault(key, asyncio.Lock())
