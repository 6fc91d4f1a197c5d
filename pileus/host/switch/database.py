"""Our part of the switch's database: ports by name, and a writer that puts what is asked at the same time into one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pileus.host.chores import Chores
from pileus.host.switch import SwitchError, rows
from pileus.host.switch.ovsdb import Change, Ovsdb, OvsdbError, OvsdbLost
from pileus.host.switch.rows import Operation, Plugged
from pileus.host.switch.sockets import SwitchGone
from pileus.host.switch.tags import LocalTags

_APPLY_LIMIT = 10.0
_LARGEST_BATCH = 64
_LARGEST_REMOVAL = 2


@dataclass
class _Request:
    """Port `name` in the next transaction. `network_id`: whose tag it needs until its row is there. `written`: the transaction
    is over, whether somebody still waits for it or not."""

    name: str
    make: Callable[[int], list[Operation]]
    done: asyncio.Future[None]
    network_id: str
    written: asyncio.Event = field(default_factory=asyncio.Event)


class Database:
    """`on_port(before, after)` hears of each change of a row of ours."""

    def __init__(
        self,
        path: Path,
        bridge: str,
        *,
        on_port: Callable[[Plugged | None, Plugged | None], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.bridge = bridge
        self.plugged: dict[str, Plugged] = {}
        self.tags = LocalTags()
        self._on_port = on_port
        self._numbers: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._port_uuids: dict[str, str] = {}
        self._port_names: dict[str, str] = {}
        self._port_waits: dict[str, set[asyncio.Future[None]]] = {}
        self._applied_waits: set[tuple[int, asyncio.Future[None]]] = set()
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._adding: dict[str, list[_Request]] = {}
        self._chores = Chores()
        self._ovsdb = Ovsdb(path, rows.COLUMNS, on_changes=self._changed, on_lost=on_lost)

    async def start(self, *, limit: float) -> None:
        """Connect and read; an empty database gets its root row. Raises TimeoutError after `limit` seconds, SwitchError."""
        await self._ovsdb.start(limit=limit)
        if not self._ovsdb.rows["Open_vSwitch"]:
            await self._transact([rows.insert_root()])
        self._chores.start(self._write(), "switch-database-writer")

    async def close(self) -> None:
        await self._chores.close(patience=0)
        await self._ovsdb.close()

    # --- Reading

    def number(self, name: str) -> int:
        """The OpenFlow port number of an interface, ours or not; 0 while it has none, -1 when the switch could not take it."""
        return self._numbers.get(name, 0)

    def unused_networks(self, names: Iterable[str]) -> list[tuple[str, int]]:
        """Id and tag of these ports' networks that have no port which stays, and none being added."""
        return self.tags.unused({self.plugged[name].network_id for name in names if name in self.plugged})

    def bridge_note(self, name: str, key: str) -> str:
        """What is noted in a bridge's `external_ids`; empty where nothing is."""
        row = self._ovsdb.rows["Bridge"][self._bridge_uuid(name)]
        return str(row["external_ids"].get(key, ""))

    async def connected(self, limit: float) -> None:
        """Returns when the database is connected and read. Raises TimeoutError."""
        await self._ovsdb.connected(limit)

    # --- Writing

    async def add_port(self, name: str, network_id: str, notes: Callable[[int], Mapping[str, str]]) -> Plugged:
        """Add a port of a network, or change what is noted of it, and wait until the switch has it. `notes` is given the
        network's tag. Raises SwitchError with the switch's own words."""
        tag = self.tags.hold(network_id)
        wanted = dict(notes(tag))

        def make(number: int) -> list[Operation]:
            standing = self.plugged.get(name)
            if standing is not None:
                return [rows.update_notes(standing.uuid, wanted)]
            return rows.insert_port(self._bridge_uuid(self.bridge), name, wanted, number=number)

        standing = self.plugged.get(name)
        if standing is not None and self._notes(standing) == wanted:
            self.tags.release(network_id)
        else:
            await self._submit(name, make, network_id)
        await self._port_applied(name)
        return self.plugged[name]

    async def settled(self, names: Iterable[str]) -> None:
        """Wait until no transaction that adds one of these ports is under way: one may be although whoever asked was cancelled."""
        for request in [request for name in names for request in self._adding.get(name, ())]:
            await request.written.wait()

    async def delete_ports(self, names: Iterable[str]) -> None:
        """Remove ports; returns when the switch has let go of their devices. In small transactions: Open vSwitch stands still
        for more than 10 ms for each port that it lets go of, and ports being added must not wait for all of a batch (law 3).
        Raises SwitchError."""
        uuids = [self._port_uuids[name] for name in names if name in self._port_uuids]
        for start in range(0, len(uuids), _LARGEST_REMOVAL):
            some = uuids[start : start + _LARGEST_REMOVAL]
            await self.apply(rows.delete_ports(self._bridge_uuid(self.bridge), some))

    def port_note(self, name: str, key: str) -> str:
        """What is noted in an interface's `external_ids`; empty where nothing is, and where there is none."""
        found = [row for row in self._ovsdb.rows["Interface"].values() if row["name"] == name]
        return str(found[0]["external_ids"].get(key, "")) if found else ""

    async def ensure_bridge(self, name: str, notes: Mapping[str, str], *, forwards: bool = False) -> None:
        """Make a bridge, or make an existing one what it must be. `forwards`: by itself, as any Ethernet switch; otherwise it does what
        flows say. Raises SwitchError."""
        try:
            standing = self._bridge_uuid(name)
        except SwitchError:
            await self._transact(rows.insert_bridge(self._root(), name, notes, forwards=forwards))
        else:
            await self._transact([rows.keep_bridge(standing, forwards=forwards)])

    async def ensure_port(
        self, bridge: str, name: str, *, kind: str = "", options: Mapping[str, str] = {}, notes: Mapping[str, str] = {}
    ) -> None:
        """Have a port that belongs to no network (a device, a patch) on a bridge. Raises SwitchError."""
        if name not in self._port_uuids:
            notes = {"pileus-bridge": self.bridge, **notes}
            await self._transact(rows.insert_port(self._bridge_uuid(bridge), name, notes, kind=kind, options=options))

    async def remove_port(self, bridge: str, name: str) -> None:
        """Take a port that belongs to no network off a bridge. Not there: nothing."""
        uuid = self._port_uuids.get(name)
        if uuid is not None:
            await self.apply(rows.delete_ports(self._bridge_uuid(bridge), [uuid]))

    async def remove_bridge(self, name: str) -> None:
        """Remove a bridge with its ports. Not there: nothing."""
        with contextlib.suppress(SwitchError):
            await self._transact([rows.delete_bridge(self._root(), self._bridge_uuid(name))])

    def bridges(self, prefix: str) -> list[str]:
        return [row["name"] for row in self._ovsdb.rows["Bridge"].values() if row["name"].startswith(prefix)]

    async def apply(self, operations: Sequence[Operation] = ()) -> None:
        """A transaction, and wait until the switch has applied it. Raises SwitchError."""
        results = await self._transact([*operations, *rows.ask_applied(self._root())])
        wanted = results[-1]["rows"][0]["next_cfg"]
        if self._current() >= wanted:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wait = (wanted, done)
        self._applied_waits.add(wait)
        try:
            async with asyncio.timeout(_APPLY_LIMIT):
                await done
        except TimeoutError:
            raise SwitchError(f"Open vSwitch did not apply a change within {_APPLY_LIMIT:.0f} s") from None
        finally:
            self._applied_waits.discard(wait)

    # ---

    async def _transact(self, operations: list[Operation]) -> list[Any]:
        try:
            return await self._ovsdb.transact(operations)
        except OvsdbLost as error:
            raise SwitchGone(str(error)) from None
        except OvsdbError as error:
            raise SwitchError(f"the switch's database refused: {error}") from None
        except TimeoutError:
            raise SwitchError("the switch's database did not answer") from None

    async def _submit(self, name: str, make: Callable[[int], list[Operation]], network_id: str) -> None:
        request = _Request(name, make, asyncio.get_running_loop().create_future(), network_id)
        self._adding.setdefault(name, []).append(request)
        self._queue.put_nowait(request)
        await request.done

    async def _write(self) -> None:
        """The single writer: what has gathered while one transaction was under way becomes the next one."""
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and len(batch) < _LARGEST_BATCH:
                batch.append(self._queue.get_nowait())
            await self._write_batch(batch)

    async def _write_batch(self, batch: list[_Request]) -> None:
        try:
            await self._transact([op for number, request in enumerate(batch) for op in request.make(number)])
        except SwitchError as error:
            if len(batch) > 1 and not isinstance(error, SwitchGone):
                # One bad request must not spoil its neighbours'.
                for request in batch:
                    await self._write_batch([request])
                return
            for request in batch:
                if not request.done.done():
                    request.done.set_exception(type(error)(str(error)))
        except asyncio.CancelledError:
            for request in batch:
                request.done.cancel()
            raise
        for request in batch:
            self.tags.release(request.network_id)
            if not request.done.done():
                request.done.set_result(None)
            request.written.set()
            self._adding[request.name].remove(request)
            if not self._adding[request.name]:
                del self._adding[request.name]

    async def _port_applied(self, name: str) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waits = self._port_waits.setdefault(name, set())
        waits.add(done)
        try:
            if not self._numbers.get(name):
                async with asyncio.timeout(_APPLY_LIMIT):
                    await done
        except TimeoutError:
            raise SwitchError(f"Open vSwitch did not take port {name} within {_APPLY_LIMIT:.0f} s") from None
        finally:
            waits.discard(done)
            if not waits and self._port_waits.get(name) is waits:
                del self._port_waits[name]
        if self._numbers.get(name, 0) < 0:
            raise SwitchError(f"Open vSwitch could not take port {name}: {self._errors.get(name) or 'no reason given'}")

    # --- The replica

    def _changed(self, changes: list[Change]) -> None:
        told: list[tuple[Plugged | None, Plugged | None]] = []
        for table, uuid, row in changes:
            if table == "Port":
                self._port_changed(uuid, row)
            elif table == "Interface":
                told += self._interface_changed(uuid, row)
        if any(table == "Open_vSwitch" for table, _, _ in changes):
            current = self._current()
            for wanted, done in list(self._applied_waits):
                if current >= wanted and not done.done():
                    done.set_result(None)
        for before, after in told:
            self._on_port(before, after)

    def _port_changed(self, uuid: str, row: dict[str, Any] | None) -> None:
        if row is not None:
            self._port_uuids[row["name"]], self._port_names[uuid] = uuid, row["name"]
            return
        name = self._port_names.pop(uuid, "")
        if self._port_uuids.get(name) == uuid:
            del self._port_uuids[name]

    def _interface_changed(self, uuid: str, row: dict[str, Any] | None) -> list[tuple[Plugged | None, Plugged | None]]:
        name = self._names.pop(uuid, "") if row is None else row["name"]
        before = self.plugged.get(name)
        if row is None:
            # A row of the same name may have come before the old one's end is told.
            if before is not None and before.uuid != uuid:
                return []
            self._numbers.pop(name, None)
            self._errors.pop(name, None)
            after = None
        else:
            self._names[uuid] = name
            self._numbers[name] = rows.optional(row["ofport"], 0)
            self._errors[name] = rows.optional(row["error"], "")
            if self._numbers[name]:
                for done in self._port_waits.get(name, ()):
                    if not done.done():
                        done.set_result(None)
            after = rows.read_plugged(uuid, row, self.bridge)
        if before == after:
            return []
        if after is not None:
            self.tags.add_port(after.network_id, after.tag, name)
            self.plugged[name] = after
        if before is not None and (after is None or after.network_id != before.network_id):
            self.tags.remove_port(before.network_id, name)
        if after is None:
            del self.plugged[name]
        return [(before, after)]

    def _notes(self, plugged: Plugged) -> dict[str, str]:
        return dict(self._ovsdb.rows["Interface"][plugged.uuid]["external_ids"])

    def _root(self) -> str:
        return next(iter(self._ovsdb.rows["Open_vSwitch"]))

    def _current(self) -> int:
        return int(next(iter(self._ovsdb.rows["Open_vSwitch"].values()))["cur_cfg"])

    def _bridge_uuid(self, name: str) -> str:
        for uuid, row in self._ovsdb.rows["Bridge"].items():
            if row["name"] == name:
                return uuid
        raise SwitchError(f"bridge {name} is not there")
