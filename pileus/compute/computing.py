"""One action, whose server is leased: computed from where it is to where it waits for a host, for its turn, or is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pileus.compute import actions, admission, info_cache, outcomes
from pileus.compute.actions import Stale
from pileus.compute.admitter import Admitter
from pileus.compute.figures import Figures
from pileus.compute.lifecycle import Failure, Verb
from pileus.compute.outcomes import HostFull
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.compute.steps import NoRoom, StepFailed, Steps
from pileus.messages import Desired, desired_subject
from pileus.settings import Compute as Settings
from pileus.store import Tx
from pileus.store.sql import Row

MOST_COUNTED = 10_000


class Computing:
    """`launch` computes another action, or this one again."""

    def __init__(
        self,
        compute: Compute,
        scheduler: Scheduler,
        steps: Steps,
        admitter: Admitter,
        figures: Figures,
        launch: Callable[[str], None],
    ) -> None:
        self._compute = compute
        self._scheduler = scheduler
        self._steps = steps
        self._admitter = admitter
        self._figures = figures
        self._launch = launch

    async def go_on(self, verb: Verb, action: Row, server: Row) -> bool:
        """Go on with an action where it is; whether the server's lease was given back on the way. Raises Stale, LeaseLost."""
        state = action["state"]
        if state == "unwinding":
            await self._unwind(action, server, Failure(**action["details"]["failure"]))
            return True
        if state in actions.ANSWERED:
            return await self._waiting(verb, action, server)
        overdue = action["deadline"] is not None and time.time() > action["deadline"]
        if state == "waiting":
            if overdue:
                await self._failed(action, server, await self._compute.store.read(_still_queued, action, self._compute.settings.compute))
            return overdue
        if state == "blocked":
            return await self._look_for_room(action, server, overdue)
        if overdue:
            await self._failed(action, server, Failure("queued", server["host"] or "", "no worker finished it in time"))
            return True
        return await self._first_time(verb, action, server)

    async def _first_time(self, verb: Verb, action: Row, server: Row) -> bool:
        """Everything up to the message for the host."""
        action["stamps"]["blocked" if "blocked" in action["details"] else "queued"] = time.time()
        came_from, arrived = server["host"], False
        unused = self._admitter.unused
        try:
            desired = await self._steps.run(verb, action, server)
            if desired is None:
                self._admitter.room()
                return True
            await self.send(action, server, desired)
            arrived = True
        except StepFailed as failed:
            await self._failed(action, server, failed.failure)
        except NoRoom as error:
            await self._blocked(action, server, error, unused)
        except HostFull:
            await self._turned_away(action, server)
        finally:
            if "claim" in verb.plan and server["host"] not in (None, came_from):
                (self._scheduler.arrived if arrived else self._scheduler.turned_away)(server["host"])
        return True

    async def _waiting(self, verb: Verb, action: Row, server: Row) -> bool:
        """Sent and not answered: send again, which is the question; or give up."""
        if verb.name == "delete" and "removed" in action["stamps"]:
            await self._released(action, server)
            return True
        host = str(server["host"])
        down = await self._steps.down_reason(host)
        if verb.name == "delete" and down is not None:
            await self._released(action, server)  # the host removes the guest when it is back: it is told then
            return True
        if down is not None or time.time() > action["deadline"]:
            cause = down or "the host did not say how it ended"
            await self._failed(action, server, Failure("sent", host, cause, retry=True))
            return True
        try:
            desired = await self._steps.desired(verb, action, server)
        except StepFailed as failed:
            await self._failed(action, server, failed.failure)
            return True
        await self.send(action, server, desired)
        return True

    async def _released(self, action: Row, server: Row) -> None:
        await self._steps.release(action, server)
        self._admitter.room()

    async def send(self, action: Row, server: Row, desired: Desired) -> None:
        """Write down that it was sent and when to ask again, then send: publish after commit. Raises Stale, HostFull."""
        settings = self._compute.settings.compute
        wait = settings.resend_interval * 2 ** min(action["resends"], 4)
        told = action["state"] in actions.ANSWERED
        values: dict[str, Any] = {
            "state": action["state"] if told else "sent",
            # Asking again must not undo what an answer has stamped since the action was read.
            **({} if told else {"stamps": {**action["stamps"], "sent": time.time()}}),
            "details": action["details"],
            "resends": action["resends"] + 1,
            "due_at": time.time() + wait,
        }
        most = settings.max_concurrent_builds
        booted = None
        if desired.spec is not None:
            booted = info_cache.booted(server, desired.spec.ports, info_cache.heal_next(settings))
        waiting = await self._compute.store.write(outcomes.sent, action, server, values, builds_limit=most, booted=booted)
        await self._compute.bus.publish(desired_subject(str(server["host"])), desired)
        for action_id in waiting:
            self._launch(action_id)

    async def _blocked(self, action: Row, server: Row, error: NoRoom, unused: int) -> None:
        """No host has room: others have their turn until one has."""
        await self._steps.give_back(server)  # what an earlier worker may have left
        await self._compute.store.write(outcomes.blocked, action, server, str(error), error.limit)
        self._admitter.is_blocked(unused)

    async def _turned_away(self, action: Row, server: Row) -> None:
        """Others were quicker to reach the host: to the queue again, for another one."""
        host = str(server["host"])
        self._scheduler.turned_away(host, full=True)
        await self._steps.give_back(server)
        server["host"] = None
        settings = self._compute.settings.compute
        reason = f"host {host} was building {settings.max_concurrent_builds} servers already, as many as it may"
        for step in ("claimed", "addressed"):
            action["stamps"].pop(step, None)
        await self._compute.store.write(outcomes.to_queue, action, server, settings.queue_limit, reason)
        self._admitter.wake()

    async def _look_for_room(self, action: Row, server: Row, overdue: bool) -> bool:
        """A blocked create waits for its turn again, or has been blocked for too long."""
        settings = self._compute.settings.compute
        if overdue:
            await self._failed(action, server, Failure("claimed", "", action["details"]["blocked"]["reason"]))
        else:
            await self._compute.store.write(outcomes.to_queue, action, server, settings.queue_limit)
            self._admitter.wake()
        return True

    async def _failed(self, action: Row, server: Row, failure: Failure) -> None:
        """Unwind all of it, whoever says so first; an answer that comes now comes too late. Raises Stale."""
        counted = action["state"] == "sent"
        if not await self._compute.store.write(outcomes.unwinding, action, failure):
            raise Stale
        if counted:
            self._scheduler.ended(failure.host)
        await self._unwind(action, server, failure)

    async def _unwind(self, action: Row, server: Row, failure: Failure) -> None:
        """Give everything back; then once more on another host, or the end. Raises Stale, LeaseLost."""
        await self._steps.unwind(action, server, failure)
        settings = self._compute.settings.compute
        limit = settings.queue_limit
        again = await self._compute.store.write(outcomes.failed, action, failure, settings.plug_signal, server, queue_limit=limit)
        self._figures.failed(action, failure)
        if again:
            self._admitter.wake()
            self._launch(str(action["id"]))
        if server["host"] is not None:
            self._admitter.room()


def _still_queued(tx: Tx, action: Row, settings: Settings) -> Failure:
    """Why it waited in vain, with its place in the queue."""
    place, building = admission.before(tx, action), admission.running(tx, MOST_COUNTED)
    ahead = f"more than {admission.MOST_SHOWN:,}" if place > admission.MOST_SHOWN else str(place)
    limit = f" of {settings.max_builds}" if settings.max_builds else ""
    return Failure(
        "queued", "", f"it had no turn within {settings.queue_limit:g} s: {ahead} were before it, and {building}{limit} were being built"
    )
