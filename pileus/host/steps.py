"""A step of the timeline on a host: done within its limit, or failed with a cause in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from pileus.host.hypervisor import HypervisorError
from pileus.host.images import ImageError
from pileus.host.switch import SwitchError

T = TypeVar("T")


class StepFailed(Exception):
    """A step of the timeline failed here; may another host do better?"""

    def __init__(self, step: str, cause: str, *, retry: bool = True) -> None:
        super().__init__(cause)
        self.step = step
        self.cause = cause
        self.retry = retry


async def do(step: str, limit: float, work: Awaitable[T]) -> T:
    """Do a step within its limit (s). Raises StepFailed, whatever goes wrong."""
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        raise StepFailed(step, f"not done within {limit:g} s") from None
    except (HypervisorError, SwitchError, ImageError, OSError) as error:
        raise StepFailed(step, str(error)) from error


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended a group of steps (its siblings were cancelled for it)."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf
