"""A lane: so many things at once, the others in turn. What is begun without waiting reserves its place first."""

from __future__ import annotations

import asyncio
from collections import deque


class Lane:
    """`free`: places that nobody has."""

    def __init__(self, size: int) -> None:
        self.free = size
        self._waiting: deque[asyncio.Future[None]] = deque()

    def reserve(self) -> bool:
        """Have a place at once, or none (False)."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    async def acquire(self) -> None:
        """Wait for a place; whoever gives up waiting leaves it to the next."""
        if self.reserve():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1
