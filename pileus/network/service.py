"""The network service: its rules on a store, and what runs beside its API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pileus.bus import Bus, Subscription
from pileus.clients.compute import ComputeEvents
from pileus.context import Context
from pileus.messages import OUTBOX, OutboxHint, PortsChanged, PortWiring, SetChange, ports_subject
from pileus.network import config, ports, security_announcer
from pileus.network.announcer import Announcer
from pileus.network.client import InProcessNetwork
from pileus.network.notifier import Notifier
from pileus.network.ports import NewPort
from pileus.network.rpc import Rpc
from pileus.network.security_announcer import SecurityAnnouncer
from pileus.settings import Settings
from pileus.store import Store
from pileus.store.sql import Row
from pileus.together import Together

TOGETHER = 32
"""Most port requests of one transaction."""
BATCH = 200
"""Ports of one message about changes."""
NOTIFIERS = "network-notifier"


class Network:
    """`client` is what compute uses. Compute is told of changes of ports, with `notify` (the `callback` plug signal) of their levels,
    too, by what `notify_by` is given before the start; without it no notifier runs here, and what is noted is another process's to tell."""

    def __init__(self, store: Store, bus: Bus, settings: Settings, *, notify: bool) -> None:
        self.store = store
        self.config = config.read(settings, notify=notify)
        self.client = InProcessNetwork(store, self.config, self._ports_changed)
        self._bus = bus
        self._creations: Together[tuple[Context, str, NewPort], Row] = Together(self._create_ports, most=TOGETHER, name="ports")
        self._announcer = Announcer(store, bus, settings.network)
        self._security = SecurityAnnouncer(store, bus, settings.network)
        self._rpc = Rpc(store, bus, self.config, self._wake_notifier, self._security.wake)
        self._notifier: Notifier | None = None
        self._hints: Subscription | None = None

    def notify_by(self, events: ComputeEvents) -> None:
        """How compute is told. `events` stays the caller's to close."""
        network = self.config.settings.network
        self._notifier = Notifier(
            self.store,
            events,
            interval=network.send_events_interval,
            limit=network.notify_timeout,
            at_most_once=network.notify == "once",
        )

    async def start(self) -> None:
        if self.config.notify and self._notifier is None:
            raise RuntimeError("notify without notify_by: levels would be noted for compute and never told")
        if self._notifier is not None:
            await self._notifier.start()
            self._hints = self._bus.subscribe(OUTBOX, OutboxHint, self._hinted, queue=NOTIFIERS)
        await self._rpc.start()
        await self._announcer.start()
        await self._security.start()

    async def close(self) -> None:
        await self._security.close()
        await self._announcer.close()
        await self._rpc.close()
        if self._hints is not None:
            await self._hints.close()
            self._hints = None
        if self._notifier is not None:
            await self._notifier.close()

    async def create_port(self, context: Context, network_id: str, new: NewPort) -> Row:
        """Make a port on a network; those of one caller that come at the same time are one transaction. Raises what
        `ports.create_on` raises."""
        key = (context.user_id, context.project_id, context.roles)
        return await self._creations.call(key, (context, network_id, new))

    async def _create_ports(self, wanted: Sequence[tuple[Context, str, NewPort]]) -> list[Row | Exception]:
        context = wanted[0][0]
        return [*await self.store.write(ports.create_on, self.config, context, [(on, new) for _, on, new in wanted])]

    async def tell(self, changed: Mapping[str, Sequence[PortWiring]]) -> None:
        """Let hosts know of changed ports (host → ports). Only a hint: an agent that asks for details gets the same."""
        for host, wirings in changed.items():
            for start in range(0, len(wirings), BATCH):
                await self._bus.publish(ports_subject(host), PortsChanged(list(wirings[start : start + BATCH])))

    async def tell_rules(self, group_ids: Sequence[str]) -> None:
        """Let hosts know that the rules of these groups are others."""
        await security_announcer.tell_rules(self.store, self._bus, group_ids)

    async def tell_set(self, change: SetChange) -> None:
        """Let hosts know that an address group is another."""
        await security_announcer.tell_sets(self.store, self._bus, [change])

    async def _ports_changed(self, told: Mapping[str, Sequence[PortWiring]]) -> None:
        await self.tell(told)
        await self.wake()

    async def wake(self) -> None:
        """Compute has something to be told: by the notifier of this process, or of another one."""
        if self._notifier is not None:
            self._notifier.wake()
        else:
            await self._bus.publish(OUTBOX, OutboxHint())

    async def _hinted(self, _: OutboxHint) -> None:
        self._wake_notifier()

    def _wake_notifier(self) -> None:
        if self._notifier is not None:
            self._notifier.wake()
