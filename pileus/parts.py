"""Parts of a process: what is started in order and closed in reverse, whatever happens."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol, TypeVar


class Part(Protocol):
    async def start(self) -> None: ...

    async def close(self) -> None: ...


P = TypeVar("P", bound=Part)


class Stack(AsyncExitStack):
    """Closes what it runs, the last one first."""

    async def run(self, part: P) -> P:
        """Start a part; it is closed with the stack, also when its start fails in the middle."""
        self.push_async_callback(part.close)
        await part.start()
        return part
