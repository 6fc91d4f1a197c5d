"""What the tests of the story stand on: a cloud of either profile in virtual time, and who hears what in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pileus import timeline
from pileus.clients.compute import Delivery, ExternalEvent
from pileus.compute import worker
from pileus.configuration import EVERY_ROLE, load, value_of
from pileus.settings import Settings
from tests.boot import virtual
from tests.boot.cloudlet import Cloudlet

T = TypeVar("T")
PROFILES = ("story", "default")
ENOUGH = {"quota.instances": -1, "quota.cores": -1, "quota.ram": -1, "quota.port": -1, "quota.security_group": -1}


EYES = {"compute.explain": True}
"""The tests look by the steps that hosts tell, in both profiles."""


def chosen(profile: str, changes: dict[str, Any] | None = None) -> Settings:
    """The settings of a profile; `changes` are dotted keys."""
    return load(environ={}, flags={"profile": profile, **ENOUGH, **EYES, **(changes or {})}, role=EVERY_ROLE)[0]


def own(profile: str, key: str) -> dict[str, Any]:
    """A setting as the profile itself has it."""
    return {key: value_of(load(environ={}, flags={"profile": profile}, role=EVERY_ROLE)[0], key)}


def play(
    monkeypatch: pytest.MonkeyPatch, folder: Path, settings: Settings, work: Callable[[Cloudlet], Coroutine[Any, Any, T]], hosts: int = 1
) -> T:
    """Do `work` on a cloud in virtual time, where only waiting takes any. Workers look less often for what hints have told them: the
    hours that pass here would be full of that."""
    monkeypatch.setattr(worker, "SWEEP", 5.0)
    return virtual.run(monkeypatch, folder, settings, hosts, work)


class Wire:
    """What passes on a cloud's bus from now on: `said` are its subjects. `lose` takes some away."""

    def __init__(self, cloud: Cloudlet) -> None:
        self.said: list[str] = []
        self._payloads: list[bytes] = []
        self.lose: Callable[[str], bool] = lambda subject: False
        cloud.bus.fate = self._fate

    def _fate(self, subject: str, payload: bytes) -> Sequence[float]:
        self.said.append(subject)
        self._payloads.append(payload)
        return () if self.lose(subject) else (0.0,)

    def about(self, *ids: str) -> list[str]:
        """Subjects of the messages in which one of these stands."""
        signs = [each.encode() for each in ids]
        return [subject for subject, payload in zip(self.said, self._payloads, strict=True) if any(sign in payload for sign in signs)]

    def order(self, *words: str) -> list[str]:
        """Those of `words` that were said, in their order; each once."""
        return list(dict.fromkeys(word for subject in self.said for word in words if word in subject.split(".")))


class Rest:
    """Stands where the REST call to the compute API is: keeps each batch, and what it is done with is the cloudlet's `events`."""

    def __init__(self, cloud: Cloudlet) -> None:
        self.batches: list[list[ExternalEvent]] = []
        self.times: list[float] = []
        self._send = cloud.events.send
        cloud.events.send = self._noted  # type: ignore[method-assign]

    async def _noted(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        self.batches.append(list(events))
        self.times.append(asyncio.get_running_loop().time())
        return await self._send(events)

    @property
    def names(self) -> list[str]:
        return [event.name for batch in self.batches for event in batch]


async def steps(cloud: Cloudlet, server_id: str) -> dict[str, float]:
    """Step of the server's last action → how long it took (s)."""
    spans = timeline.spans((await cloud.last_action(server_id))["stamps"])
    return {span.step: span.seconds for span in spans}


async def took(cloud: Cloudlet, server_id: str) -> float:
    """Seconds from the request of its last action to the end."""
    action = await cloud.last_action(server_id)
    return float(action["finished_at"] - action["started_at"])


async def state_after(cloud: Cloudlet, server_id: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return str((await cloud.server(server_id))["vm_state"])


async def all_active(cloud: Cloudlet, ids: Sequence[str], limit: float) -> None:
    """Raises TimeoutError where one is not ACTIVE in time. Looks now and then, so that much virtual time costs little."""
    async with asyncio.timeout(limit):
        for server_id in ids:
            while (await cloud.server(server_id))["vm_state"] != "active":
                await asyncio.sleep(limit / 200)
