"""The steps of an action: claim, allocate, resolve, send, release. Each talks to one service through its seam, with a limit."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog

from pileus.clients.image import ImageInfo
from pileus.clients.network import RequestedNic
from pileus.compute import evacuation, hosts, outcomes
from pileus.compute.figures import Figures
from pileus.compute.lifecycle import VERBS, Failure, Verb
from pileus.compute.scheduler import NoValidHost, Request, Scheduler
from pileus.compute.service import Compute
from pileus.context import Context
from pileus.errors import BadRequest, PileusError
from pileus.messages import BootSource, Desired, GuestSpec, ImageRef, PortWiring, desired_subject
from pileus.store.sql import Row

log = structlog.get_logger(__name__)
T = TypeVar("T")


class StepFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class NoRoom(Exception):
    """No host has room for a server now; one may have it later. `limit`: seconds that it may wait for that, None: for ever."""

    def __init__(self, text: str, limit: float | None) -> None:
        super().__init__(text)
        self.limit = limit


class LeaseLost(Exception):
    """Others may compute this server by now: nothing more is done for it here."""


class Steps:
    """`alive`: whether others know that this worker lives, without which its leases are nobody's. `gap` lets a create that has just begun
    go first."""

    def __init__(
        self, compute: Compute, scheduler: Scheduler, alive: Callable[[], bool], figures: Figures, gap: Callable[[], Awaitable[None]]
    ) -> None:
        self._compute = compute
        self._scheduler = scheduler
        self._limits = compute.settings.compute
        self._alive = alive
        self._figures = figures
        self._gap = gap

    async def run(self, verb: Verb, action: Row, server: Row) -> Desired | None:
        """All of a plan up to the message for the host; None when there is nothing to tell a host.

        Raises StepFailed, LeaseLost, and NoRoom for a create that fits on no host now.
        """
        if "claim" in verb.plan:
            await self._claim(action, server)
        if server["host"] is None:
            if verb.needs_host:
                raise StepFailed(Failure("queued", "", "the server is on no host"))
            await self.release(action, server)
            return None
        return await self.desired(verb, action, server)

    async def desired(self, verb: Verb, action: Row, server: Row) -> Desired:
        """The message for the host, made anew from what is written down (ports come back unchanged by their key)."""
        spec = None
        if "resolve" in verb.plan:
            ports = await self._allocate(action, server)
            spec = await self._spec(server, ports)
        return self.order(verb, action, server, spec)

    def order(self, verb: Verb, action: Row, server: Row, spec: GuestSpec | None = None) -> Desired:
        """What the host is told."""
        return Desired(
            server_id=server["id"],
            generation=server["generation"],
            goal=verb.goal,
            action=verb.name,
            spec=spec,
            hard=action["hard"] or verb.name == "reboot_hard",
            signal=self._limits.plug_signal,
            plug_timeout=self._limits.vif_plugging_timeout,
            plug_fatal=self._limits.vif_plugging_is_fatal,
        )

    async def release(self, action: Row, server: Row) -> None:
        """Give back ports and claim, then the server is gone."""
        await self._limited(server, "released", "", self._limits.network_limit, lambda: self.give_back(server, self._gap))
        action["stamps"]["released"] = time.time()
        await self._gap()
        await self._compute.store.write(outcomes.deleted, action, server)
        self._figures.done(action)

    async def unwind(self, action: Row, server: Row, failure: Failure) -> None:
        """What a failed create holds goes back, an evacuated server to the host that it comes from; the host is told, in case it
        still works on it. Of other actions nothing is undone."""
        if not VERBS[action["name"]].finds_host:
            return
        source = evacuation.source_of(action)
        if server["host"] not in (None, source):
            gone = Desired(server["id"], server["generation"] + 1, "absent", "delete", hard=True)
            await self._compute.bus.publish(desired_subject(server["host"]), gone)
        self._check(server)
        if source is None:
            await self.give_back(server)
        else:
            await self.claim_again(server, source)
            if server["host"] not in (None, source):
                await self._compute.network.unbind(server["id"])

    async def left(self, action: Row, server: Row) -> None:
        """An evacuation is done: the host that the server left is told so, in case it is back already. Else it learns it when it tells
        what it has (`reports`)."""
        if (source := evacuation.source_of(action)) is not None:
            gone = Desired(server["id"], server["generation"], "absent", "delete", hard=True)
            await self._compute.bus.publish(desired_subject(source), gone)

    async def down_reason(self, host: str) -> str | None:
        """Why nothing can be expected of a host; None when it is up."""
        row = await self._compute.store.read(hosts.by_name, host)
        if row is None:
            return "the host is unknown"
        if hosts.is_up(row, self._limits):
            return None
        if row["forced_down"]:
            return "an administrator has said that the host is down"
        return f"the host has not been heard of for {time.time() - row['seen_at']:.0f} s"

    async def give_back(self, server: Row, between: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ports and claim of a server go back to their services; nothing to give: fine."""
        keep = [nic["port_id"] for nic in server["nics"] if nic["port_id"]]
        await self._compute.network.release(server["id"], keep=keep)
        if between is not None:
            await between()
        await self._compute.placement.release(server["id"])

    async def claim_again(self, server: Row, source: str) -> None:
        """The server counts on the host that it could not be evacuated from. Where that is full by now, what it holds elsewhere stays."""
        row = await self._compute.store.read(hosts.by_name, source)
        if row is not None:
            claim, owns = self._compute.placement.claim, {"project_id": server["project_id"], "user_id": server["user_id"]}
            if not await claim(server["id"], row["id"], resources_of(server), **owns):
                log.warning("the claim of a server that was not evacuated stays elsewhere", server=server["id"], host=source)

    async def _claim(self, action: Row, server: Row) -> None:
        nics = [RequestedNic(**nic) for nic in server["nics"]]
        limits = self._limits
        checked = await self._limited(server, "claimed", "", limits.network_limit, lambda: self._compute.network.constraint(nics))
        forced, whatever = evacuation.target_of(action, server)
        if forced and checked.host and forced != checked.host:
            raise StepFailed(
                Failure("claimed", "", f"No valid host was found. The network lives on {checked.host}, asked for was {forced}.")
            )
        request = Request(
            resources=resources_of(server),
            zone=server["zone"],
            host=forced or checked.host,
            forced=whatever,
            physical_networks=checked.physical_networks,
            network_types=checked.network_types,
            tried=frozenset(action["tried"]),
        )
        names = {"project_id": server["project_id"], "user_id": server["user_id"]}
        try:
            claim = self._scheduler.claim
            server["host"] = await self._limited(
                server, "claimed", "", limits.schedule_limit, lambda: claim(server["id"], request, **names)
            )
        except NoValidHost as error:
            since = action["details"].get("blocked", {}).get("since", time.time())
            # Builds end: who only waits for their places is in a queue, and not without room.
            limit = (limits.queue_limit or None) if error.busy else limits.blocked_limit
            if action["name"] != "create" or error.never or (limit is not None and time.time() - since >= limit):
                raise StepFailed(Failure("claimed", "", str(error))) from None
            raise NoRoom(str(error), limit) from None
        action["stamps"]["claimed"] = time.time()

    async def _allocate(self, action: Row, server: Row) -> list[PortWiring]:
        nics = [RequestedNic(**nic) for nic in server["nics"]]
        host = str(server["host"])

        def call() -> Awaitable[list[PortWiring]]:
            return self._compute.network.allocate(
                owner(server),
                server["id"],
                nics,
                host=host,
                key=f"{server['id']}:{server['generation']}:{host}",
                hostname=server["hostname"],
                zone=server["zone"] or self._limits.availability_zone,
            )

        ports = await self._limited(server, "addressed", host, self._limits.network_limit, call)
        action["stamps"].setdefault("addressed", time.time())
        return ports

    async def _spec(self, server: Row, ports: list[PortWiring]) -> GuestSpec:
        flavor = server["flavor"]
        if server["boot"] is None:
            boot = await self._limited(server, "image", "", self._limits.network_limit, lambda: self._boot(server))
            server["boot"] = msgspec.to_builtins(boot)
        return GuestSpec(
            server_id=server["id"],
            name=server["name"],
            hostname=server["hostname"],
            project_id=server["project_id"],
            vcpus=flavor["vcpus"],
            memory_mb=flavor["ram"],
            disk_gb=flavor["disk"],
            boot=await self._with_tickets(server, msgspec.convert(server["boot"], BootSource)),
            ports=ports,
            config_drive=server["config_drive"],
            user_data=server["user_data"],
            metadata=server["metadata"],
            public_keys=server["public_keys"],
            availability_zone=server["zone"] or self._limits.availability_zone,
            launch_index=server["launch_index"],
        )

    async def _boot(self, server: Row) -> BootSource:
        """image.resolve: the image and the kernel and ramdisk that it names."""
        if server["image_id"] is None:
            return BootSource()
        context = owner(server)
        info = await self._compute.image.show(context, server["image_id"])
        kernel = await self._compute.image.show(context, info.kernel_id) if info.kernel_id else None
        ramdisk = await self._compute.image.show(context, info.ramdisk_id) if info.ramdisk_id else None
        return BootSource(
            image=image_ref(info),
            kernel=image_ref(kernel) if kernel else None,
            ramdisk=image_ref(ramdisk) if ramdisk else None,
            command_line=info.command_line,
        )

    async def _with_tickets(self, server: Row, boot: BootSource) -> BootSource:
        """What is written down, with what the host shows when it fetches it: that is good for a while only, so it is made anew."""
        refs = {"image": boot.image, "kernel": boot.kernel, "ramdisk": boot.ramdisk}
        for name, ref in refs.items():
            if ref is not None:
                ask = functools.partial(self._compute.image.ticket, ref.id)
                ticket = await self._limited(server, "image", "", self._limits.network_limit, ask)
                boot = msgspec.structs.replace(boot, **{name: msgspec.structs.replace(ref, ticket=ticket)})
        return boot

    def _check(self, server: Row) -> None:
        """Before each step that changes something outside. Raises LeaseLost: also for a process that was stopped for a minute."""
        if not self._alive() or time.time() >= server["lease_until"]:
            raise LeaseLost

    async def _limited(self, server: Row, step: str, host: str, limit: float, work: Callable[[], Awaitable[T]]) -> T:
        self._check(server)
        try:
            async with asyncio.timeout(limit):
                return await work()
        except TimeoutError:
            raise StepFailed(Failure(step, host, f"no answer within {limit:g} s")) from None
        except PileusError as error:
            raise StepFailed(Failure(step, host, error.message, retry=error.kind == "HostTaken")) from None


def resources_of(server: Row) -> dict[str, int]:
    """What a server claims of its host."""
    flavor = server["flavor"]
    resources = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["ram"], "DISK_GB": flavor["disk"] + flavor["ephemeral"]}
    return {name: amount for name, amount in resources.items() if amount}


def owner(server: Row) -> Context:
    """The project that a server belongs to, as the caller: its work may use what the project may use, nothing more."""
    return Context(user_id=server["user_id"], project_id=server["project_id"], roles=frozenset({"member", "reader"}))


def image_ref(info: ImageInfo) -> ImageRef:
    """Raises BadRequest for an image without data, which no host could fetch."""
    if info.status != "active" or not info.disk_format:
        raise BadRequest(f"image {info.id} is not active; upload its data, or name another kernel or ramdisk")
    return ImageRef(info.id, info.disk_format, info.size, info.sha512, info.virtual_size)
