"""One running QEMU: its process, watched by a pidfd, and its monitor (QMP), one lasting connection.

Reference: QEMU's QMP reference manual; `SHUTDOWN` and `RunState` there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.message import Message

from pileus.host.hypervisor import HypervisorError
from pileus.host.hypervisor.guestfolder import connect_unix
from pileus.messages import PowerState

COMMAND_LIMIT = 10.0
"""Seconds for one monitor command. QEMU answers in less than a millisecond unless its disk or the machine stands still."""

QUIT_LIMIT = 5.0
"""Seconds for QEMU to write out its disk and end, before it is killed."""

KILL_LIMIT = 10.0
"""Seconds for a killed process to be gone; one that waits for a dead disk does not end."""

PRESS_INTERVAL = 3.0
"""Seconds after which a guest that has not powered off is asked again."""

LAST_EVENTS_LIMIT = 0.5
"""Seconds that the monitor's last lines may take to be read after the process has ended."""

POWER: dict[str, PowerState] = {
    "running": "running",
    "shutdown": "stopped",
    "internal-error": "crashed",
    "guest-panicked": "crashed",
}
"""QEMU's run states as power states; every other one (prelaunch, paused, io-error, suspended, …) is paused."""

_SIGNALS = frozenset({"host-signal"})


@dataclass(frozen=True)
class Exit:
    """How a QEMU process ended: "stopped" after a clean shutdown, "crashed" without one; why, in words."""

    power: PowerState
    cause: str


class Guest:
    """A QEMU process. Made from a child just started or from a pid found; `close` lets go of it without ending it."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None, monitor_socket: Path) -> None:
        """Raises ProcessLookupError where there is no such process."""
        self.pid = pid
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.on_stop: Callable[[], object] | None = None
        """Called when QEMU stops the guest's CPUs, whoever asked for it."""
        self._monitor_socket = monitor_socket
        self._child = child
        self._qmp: QMPClient | None = None
        self._connecting = asyncio.Lock()
        self._shutdown_reason = ""
        self._powered_down = asyncio.Event()
        self._resumed = asyncio.Event()
        self._failed = ""
        self._ending: asyncio.Task[None] | None = None
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._process_ended)

    @property
    def alive(self) -> bool:
        return not self.exit.done() and self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0)[0]

    async def connect(self, limit: float = COMMAND_LIMIT) -> None:
        """Be connected to the monitor, waiting at most `limit` seconds for its greeting.

        The socket listens before QEMU runs, so there is nothing to try again. Raises HypervisorError and TimeoutError.
        """
        async with self._connecting:
            if self._qmp is not None and self._qmp.runstate is Runstate.RUNNING:
                return
            await self._disconnect()
            qmp = _Client()
            qmp.events.event_filter = self._event
            connection: socket.socket | None = None
            try:
                connection = connect_unix(self._monitor_socket)
                async with asyncio.timeout(limit):
                    await qmp.connect(connection)
            except (OSError, QMPError, EOFError) as error:
                raise HypervisorError(f"QEMU's monitor cannot be reached: {error}") from None
            finally:
                if connection is not None and qmp.runstate is not Runstate.RUNNING:
                    connection.close()
            self._qmp = qmp

    async def command(self, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """One monitor command. Raises HypervisorError: refused, too late, or QEMU is gone."""
        try:
            async with asyncio.timeout(COMMAND_LIMIT):
                await self.connect()
                assert self._qmp is not None
                return await self._qmp.execute(name, dict(arguments) if arguments else None)
        except ExecuteError as error:
            raise HypervisorError(f"QEMU refused {name}: {error}") from None
        except QMPError:
            raise HypervisorError(f"QEMU ended during {name}") from None
        except TimeoutError:
            raise HypervisorError(f"QEMU did not answer {name} within {COMMAND_LIMIT:g} s") from None

    async def resume(self) -> None:
        """Let the guest run. Raises HypervisorError.

        QEMU says RESUME right before the CPUs run (0.2 ms), but its answer to `cont` competes with them for a lock and comes up
        to 8 ms later, so whichever is first will do.
        """
        self._resumed.clear()
        answer = asyncio.create_task(self.command("cont"))
        resumed = asyncio.create_task(self._resumed.wait())
        try:
            await asyncio.wait({answer, resumed}, return_when=asyncio.FIRST_COMPLETED)
            if not self._resumed.is_set():
                answer.result()
        finally:
            answer.cancel()
            resumed.cancel()
            await asyncio.gather(answer, resumed, return_exceptions=True)

    async def power(self) -> PowerState:
        """The guest's power state as QEMU sees it. Raises HypervisorError."""
        status = (await self.command("query-status"))["status"]
        return POWER.get(status, "paused")

    async def end(self) -> None:
        """End the process: by the monitor, so that its disk is written out; killed when that takes too long."""
        try:
            async with asyncio.timeout(QUIT_LIMIT):
                await self.command("quit")
                await asyncio.shield(self.exit)
        except (HypervisorError, TimeoutError):
            await self.kill()

    async def kill(self) -> None:
        """End the process at once, and wait until it is gone. Raises HypervisorError where the kernel holds it back."""
        self._signal_kill()
        if not await self.wait(KILL_LIMIT):
            raise HypervisorError(f"QEMU (process {self.pid}) was killed but has not ended; is the host's disk answering?")

    async def wait(self, limit: float) -> bool:
        """Whether the process ends within `limit` seconds."""
        return bool((await asyncio.wait([self.exit], timeout=limit))[0])

    async def press_power_button(self, limit: float) -> bool:
        """Ask the guest to power off (ACPI). Whether it did so, or ended otherwise, within `limit` seconds.

        It is asked again from time to time: a guest that is still booting misses the first. Raises HypervisorError.
        """
        end = asyncio.get_running_loop().time() + limit
        self._powered_down.clear()
        while self.alive and (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await self.command("system_powerdown")
            except HypervisorError:
                if self.alive:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, PRESS_INTERVAL)):
                    await self._powered_down.wait()
                    return True
        return not self.alive

    async def halt(self, limit: float) -> bool:
        """Ask the guest to power off and keep the process, halted. Whether it is so within `limit` seconds."""
        await self.command("set-action", {"shutdown": "pause"})
        try:
            return await self.press_power_button(limit) and self.alive
        finally:
            if self.alive:
                await self.command("set-action", {"shutdown": "poweroff"})

    def fail(self, cause: str) -> None:
        """Kill the process of a guest that cannot go on; its exit counts as a crash for this cause."""
        self._failed = cause
        self._signal_kill()

    async def close(self) -> None:
        """Let go of the process, which goes on."""
        if self._ending is not None:
            await self._ending
        self._forget()
        await self._disconnect()

    def _signal_kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _process_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._ending = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        """Read the monitor to its end first: its last line says whether the guest shut down or died."""
        qmp = self._qmp
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_EVENTS_LIMIT):
                while qmp is not None and qmp.runstate is Runstate.RUNNING:
                    await qmp.runstate_changed()
        await self._disconnect()
        code = self._child.wait() if self._child is not None else None
        self._powered_down.set()
        self._forget()
        if not self.exit.done():
            self.exit.set_result(self._verdict(code))

    def _verdict(self, code: int | None) -> Exit:
        if self._failed:
            return Exit("crashed", self._failed)
        if self._shutdown_reason:
            by_host = self._shutdown_reason in _SIGNALS
            return Exit("stopped", "QEMU was asked to end by a signal" if by_host else "the guest shut itself down")
        if code is None:
            return Exit("crashed", "QEMU ended unexpectedly")
        if code < 0:
            return Exit("crashed", f"QEMU was ended by {signal.Signals(-code).name}")
        return Exit("crashed", f"QEMU ended with exit code {code}")

    def _event(self, event: Message) -> bool:
        """Called for each event as it is read; False keeps the library from storing it (it would do so for ever)."""
        if event["event"] == "SHUTDOWN":
            self._shutdown_reason = _reason(event)
            self._powered_down.set()
        elif event["event"] == "RESUME":
            self._shutdown_reason = ""
            self._resumed.set()
        elif event["event"] == "STOP" and self.on_stop is not None:
            self.on_stop()
        return False

    async def _disconnect(self) -> None:
        qmp, self._qmp = self._qmp, None
        if qmp is not None:
            with contextlib.suppress(QMPError, EOFError, OSError):
                await qmp.disconnect()

    def _forget(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def _reason(event: Message) -> str:
    data = event.get("data")
    return str(data.get("reason")) if isinstance(data, dict) else "unknown"


class _Client(QMPClient):
    """The library logs each lost connection as an error; here the process's end tells, so its log goes nowhere."""

    logger = logging.getLogger("pileus.qmp")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
