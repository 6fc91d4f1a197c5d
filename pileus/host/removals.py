"""Ports on their way out: gathered, removed in one batch, tried until they are gone. Who does it, and what waits meanwhile, is a loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from pileus.host.dhcp import Dhcp
from pileus.host.ports import Ports
from pileus.host.switch import FlowDeletion, Switch, SwitchError
from pileus.messages import PortLevel, PortWiring

log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class _Removal:
    """`told`: of these it is reported that they are gone."""

    ids: tuple[str, ...]
    told: tuple[PortWiring, ...]
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Removals:
    def __init__(self, host: str, ports: Ports, switch: Switch, dhcp: Dhcp, deletion: FlowDeletion) -> None:
        self._host = host
        self._ports = ports
        self._switch = switch
        self._dhcp = dhcp
        self._deletion: FlowDeletion = deletion
        self._waiting: dict[_Removal, None] = {}
        self._of: dict[str, _Removal] = {}
        self._some = asyncio.Event()

    def put(self, ids: Iterable[str], told: Sequence[PortWiring] = ()) -> asyncio.Future[None]:
        """Done when the ports are gone; who waits may be cancelled, the removal goes on."""
        removal = _Removal(tuple(ids), tuple(told))
        self._waiting[removal] = None
        self._of.update(dict.fromkeys(removal.ids, removal))
        self._some.set()
        return asyncio.shield(removal.done)

    def has(self, port_id: str) -> bool:
        return port_id in self._of

    async def left(self, ids: Collection[str]) -> None:
        """Wait until those of these that are being removed are gone."""
        leaving = {self._of[port_id].done for port_id in ids if port_id in self._of}
        if leaving:
            await asyncio.wait(leaving)

    async def some(self) -> None:
        """Wait until there is something to remove."""
        await self._some.wait()

    async def remove(self) -> bool:
        """Remove all that has gathered. False: it did not work, and is to be tried again."""
        batch = list(self._waiting)
        ids = list(dict.fromkeys(port_id for removal in batch for port_id in removal.ids))
        if not ids:
            self._some.clear()
            return True
        try:
            await self._dhcp.release(ids)
            await self._switch.unplug(ids, deletion=self._deletion)
            await self._ports.switch_sets.gone(ids)
        except (SwitchError, OSError) as error:
            log.warning("ports not removed, trying again", ports=len(ids), cause=str(error))
            return False
        except Exception:
            log.exception("ports not removed, trying again", ports=len(ids))  # the lane must not end by a mistake of ours
            return False
        for removal in batch:
            self._end(removal)
        if not self._waiting:
            self._some.clear()
        return True

    def _end(self, removal: _Removal) -> None:
        del self._waiting[removal]
        for port_id in removal.ids:
            if self._of.get(port_id) is removal:
                del self._of[port_id]
        for port in removal.told:
            self._ports.reporter.put(PortLevel(port.port_id, self._host, port.generation, "gone"))
        if not removal.done.done():
            removal.done.set_result(None)
