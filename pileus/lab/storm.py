"""One storm of creates against any OpenStack cloud, by its public APIs alone; and what became of each server.

Completion is seen by polling the list of the storm's servers, one request at a time for all of them, so the client is no load to speak
of and its clock is as fine as one poll. Whatever was made is deleted at the end, also when somebody has had enough of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

import pileus
from pileus.lab.api import CONNECTIONS, Api, Refused
from pileus.lab.choosing import Chosen
from pileus.lab.results import Window

WINDOWS = 12
OVER = ("ACTIVE", "ERROR")
DELETES = 50
"""Deletes asked for at once."""
STRAGGLERS = 2.0
"""Seconds for which the list of servers must stay empty: a request that was cut off may still make one."""
REFUSED_PAUSE = 0.5
"""Seconds until a list of servers that was refused is asked for again, where they are to be deleted."""
_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}|\breq-\S+|\b\d+(\.\d+){3}\b|0x[0-9a-f]+")


class Wish(msgspec.Struct, frozen=True):
    """`rate`: creates asked for a second; 0: all at once. `timeout`: seconds after the last create. `keep`: delete nothing."""

    count: int
    rate: float = 0.0
    poll: float = 0.2
    timeout: float = 600.0
    keep: bool = False


class Made(msgspec.Struct):
    """One server. `asked`: seconds since the storm's start; `post`: until the POST was answered; `seconds`: from the POST to its end."""

    name: str
    asked: float
    post: float | None = None
    seconds: float | None = None
    outcome: str = "building"
    """active | error | refused | unfinished"""
    fault: str = ""


class Fault(msgspec.Struct, frozen=True):
    """`example`: one of the messages as it was; `message` has no ids in it."""

    message: str
    count: int
    outcome: str
    example: str


class Deletes(msgspec.Struct, frozen=True):
    """`left`: servers that are still there."""

    asked: int
    gone: int
    seconds: float
    left: int
    kept: bool = False


class Storm(msgspec.Struct, frozen=True):
    """What a storm found. Times in seconds; percentiles are of POST to ACTIVE, as seen by polls `poll_s` apart (their median)."""

    title: str
    version: str
    started_at: float
    seconds: float
    cloud: dict[str, str]
    wish: Wish
    made_of: Chosen
    poll_s: float
    interrupted: bool
    created: int
    active: int
    error: int
    refused: int
    unfinished: int
    asked_per_s: float
    active_per_s: float | None
    post_p50_s: float | None
    post_p99_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    max_s: float | None
    faults: list[Fault]
    windows: list[Window]
    deletes: Deletes
    servers: list[Made]


class Progress(msgspec.Struct, frozen=True):
    """Where it stands. `phase`: creating | deleting."""

    phase: str
    asked: int
    building: int
    active: int
    failed: int
    left: int = 0
    seconds: float = 0.0


Tell = Callable[[Progress], None]


async def storm(api: Api, wish: Wish, chosen: Chosen, tell: Tell) -> Storm:
    """Run it to its end. A cancellation ends the creates; then all that was made is deleted, and what was measured is returned with
    `interrupted` set (ask the task whether it was to be cancelled). A second cancellation leaves at once."""
    run = _Run(api, wish, chosen, tell)
    interrupted = False
    try:
        await run.create_all()
    except asyncio.CancelledError:
        interrupted = True
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
    finally:
        ended = time.time()
        deletes = await run.clear()
    return _found(run, deletes, ended - run.began, interrupted=interrupted)


class _Run:
    def __init__(self, api: Api, wish: Wish, chosen: Chosen, tell: Tell) -> None:
        self.api, self.wish, self.chosen, self.tell = api, wish, chosen, tell
        self.prefix = f"storm-{secrets.token_hex(3)}-"
        self.began = time.time()
        self.servers: dict[str, Made] = {}
        self.polls: list[float] = []
        self._all_asked = False
        self._over = asyncio.Event()
        self._posting: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Semaphore(CONNECTIONS - 10)

    async def create_all(self) -> None:
        """Returns when each server is ACTIVE or failed, or the time is up."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(), name="storm-watch")
            for n in range(self.wish.count):
                if self.wish.rate:
                    await asyncio.sleep(max(0.0, self.began + n / self.wish.rate - time.time()))
                task = asyncio.create_task(self._create(f"{self.prefix}{n}"), name="storm-create")
                self._posting.add(task)
                task.add_done_callback(self._posting.discard)
            self._all_asked = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.wish.timeout):
                    await self._over.wait()
            watching.cancel()
        for one in self.servers.values():
            if one.outcome == "building":
                one.outcome, one.fault = "unfinished", f"not over {self.wish.timeout:g} s after the last create (--timeout)"

    async def clear(self) -> Deletes:
        """Delete whatever bears the storm's name, until nothing does."""
        for one in self.servers.values():
            if one.outcome == "building":
                one.outcome, one.fault = "unfinished", "the storm was ended before"
        if self._posting:  # what is on its way is waited for: it makes servers that are to go
            _, late = await asyncio.wait(self._posting, timeout=30)
            for task in late:
                task.cancel()
        begun = time.time()
        if self.wish.keep:
            return Deletes(0, 0, 0.0, await self._kept(), kept=True)
        asked: set[str] = set()
        empty_since: float | None = None
        left: list[Any] = []
        listed = False
        gate = asyncio.Semaphore(DELETES)
        try:
            async with asyncio.timeout(self.wish.timeout):
                while True:
                    try:
                        left, listed = await self._listed(), True
                    except Refused:  # what was made goes, though the cloud has no answer just now
                        empty_since = None
                        await asyncio.sleep(max(self.wish.poll, REFUSED_PAUSE))
                        continue
                    new = [server["id"] for server in left if server["id"] not in asked]
                    asked.update(new)
                    refused = await asyncio.gather(*(self._delete(server_id, gate) for server_id in new))
                    asked.difference_update(filter(None, refused))
                    self._say("deleting", len(left))
                    now = time.time()
                    empty_since = None if left else empty_since or now
                    if empty_since is not None and now - empty_since >= (STRAGGLERS if self._unsure() else 0.0):
                        return Deletes(len(asked), len(asked), empty_since - begun, 0)
                    await asyncio.sleep(self.wish.poll)
        except TimeoutError:
            there = len(left) if listed else self._may_be_there()
            return Deletes(len(asked), max(0, len(asked) - there), time.time() - begun, there)

    async def _kept(self) -> int:
        """How many servers stay."""
        try:
            return len(await self._listed())
        except Refused:
            return self._may_be_there()

    def _may_be_there(self) -> int:
        """Servers that may be there, where the cloud does not say."""
        return sum(one.outcome != "refused" for one in self.servers.values())

    async def _create(self, name: str) -> None:
        body: dict[str, Any] = {"name": name, "imageRef": self.chosen.image, "flavorRef": self.chosen.flavor}
        if self.chosen.network is not None:
            body["networks"] = [{"uuid": self.chosen.network}]
        async with self._sending:
            one = self.servers[name] = Made(name, time.time() - self.began)
            try:
                await self.api.post("compute", "/servers", {"server": body})
                one.post = self._since(one)
            except Refused as refused:
                one.outcome, one.fault, one.seconds = "refused", str(refused), self._since(one)

    async def _watch(self) -> None:
        """Polls; the pause is never shorter than what a poll took, so that at most one of two moments is spent on us."""
        last = time.time()
        while True:
            begun = time.time()
            with contextlib.suppress(Refused):  # a poll that failed is made good by the next
                for server in await self._listed():
                    self._see(server)
            now = time.time()
            self.polls.append(now - last)
            last = now
            self._say("creating", 0)
            if self._all_asked and not self._posting and not self._building():
                self._over.set()
            await asyncio.sleep(max(self.wish.poll, now - begun))

    def _see(self, server: Any) -> None:
        one = self.servers.get(server["name"])
        if one is None or one.outcome != "building" or server["status"] not in OVER:
            return
        one.outcome, one.seconds = server["status"].lower(), self._since(one)
        if one.outcome == "error":
            one.fault = (server.get("fault") or {}).get("message") or "ERROR without a fault"

    async def _listed(self) -> list[Any]:
        found = self.api.pages("compute", "/servers/detail", "servers", name=self.prefix)
        return [server async for server in found if server["name"].startswith(self.prefix)]

    async def _delete(self, server_id: str, gate: asyncio.Semaphore) -> str | None:
        """The id where it was refused: it is asked for again."""
        async with gate:
            try:
                await self.api.request("DELETE", "compute", f"/servers/{server_id}")
            except Refused as refused:
                return None if refused.status == 404 else server_id
        return None

    def _unsure(self) -> bool:
        """Whether a request ended without an answer."""
        return any(one.post is None and one.outcome != "refused" for one in self.servers.values()) or any(
            one.outcome == "refused" and "HTTP" not in one.fault for one in self.servers.values()
        )

    def _building(self) -> bool:
        return any(one.outcome == "building" for one in self.servers.values())

    def _since(self, one: Made) -> float:
        return time.time() - self.began - one.asked

    def _say(self, phase: str, left: int) -> None:
        counts = Counter(one.outcome for one in self.servers.values())
        failed = counts["error"] + counts["refused"]
        since = time.time() - self.began
        self.tell(Progress(phase, len(self.servers), counts["building"], counts["active"], failed, left, since))


def _found(run: _Run, deletes: Deletes, seconds: float, *, interrupted: bool) -> Storm:
    servers = sorted(run.servers.values(), key=lambda one: one.asked)
    counts = Counter(one.outcome for one in servers)
    active = [one for one in servers if one.outcome == "active"]
    took = [one.seconds for one in active if one.seconds is not None]
    posts = [one.post for one in servers if one.post is not None]
    last = max((one.asked + (one.seconds or 0.0) for one in active), default=0.0)
    span = servers[-1].asked - servers[0].asked if len(servers) > 1 else 0.0
    return Storm(
        title=f"A storm of {run.wish.count} servers" + (f" at {run.wish.rate:g} a second" if run.wish.rate else ", all at once"),
        version=pileus.__version__,
        started_at=run.began,
        seconds=seconds,
        cloud={"name": run.api.access.name, "compute": run.api.urls.get("compute", ""), "region": run.api.access.region or "the first"},
        wish=run.wish,
        made_of=run.chosen,
        poll_s=percentile(run.polls, 50) or run.wish.poll,
        interrupted=interrupted,
        created=len(servers),
        active=len(active),
        error=counts["error"],
        refused=counts["refused"],
        unfinished=counts["unfinished"],
        asked_per_s=(len(servers) - 1) / span if span > 0 else float(len(servers)),
        active_per_s=len(active) / last if last > 0 else None,
        post_p50_s=percentile(posts, 50),
        post_p99_s=percentile(posts, 99),
        p50_s=percentile(took, 50),
        p95_s=percentile(took, 95),
        p99_s=percentile(took, 99),
        max_s=max(took, default=None),
        faults=grouped(servers),
        windows=windows(servers, span),
        deletes=deletes,
        servers=servers,
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that so many percent are not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)] if ordered else None


def grouped(servers: Sequence[Made]) -> list[Fault]:
    """Faults alike but for ids and addresses, the most frequent first."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for one in servers:
        if one.outcome != "active":
            kinds.setdefault((one.outcome, _ID.sub("…", one.fault.replace(one.name, "…"))), []).append(one.fault)
    found = [Fault(message, len(alike), outcome, alike[0]) for (outcome, message), alike in kinds.items()]
    return sorted(found, key=lambda fault: (-fault.count, fault.message))


def windows(servers: Sequence[Made], span: float) -> list[Window]:
    """Creates by when they were asked for; nothing where they came at once."""
    if span < 1.0 or len(servers) < WINDOWS:
        return []
    step = span / WINDOWS
    groups: list[list[Made]] = [[] for _ in range(WINDOWS)]
    for one in servers:
        groups[min(WINDOWS - 1, int((one.asked - servers[0].asked) / step))].append(one)
    found = []
    for n, group in enumerate(groups):
        took = [one.seconds for one in group if one.outcome == "active" and one.seconds is not None]
        found.append(Window(n * step, len(group), len(took), percentile(took, 50), percentile(took, 99)))
    return found
