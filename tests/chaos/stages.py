"""Clouds that a run can be on: their roles, what can happen to them, and how their reality is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from tests.chaos import faults, hollow, real
from tests.chaos.faults import Fault, Scene
from tests.chaos.truth import Told
from tests.engines.cluster import Cluster

SETTINGS: dict[str, Any] = {
    "compute.heartbeat_interval": 0.5,
    "compute.report_interval": 2,
    "compute.resend_interval": 0.5,
    "compute.vif_plugging_timeout": 60,
    "network.send_events_interval": 0.1,
    "network.rpc_timeout": 2,
    "network.rpc_workers": 2,
    "network.members_interval": 1,
    "log_level": "warning",
}


@dataclass(frozen=True)
class Stage:
    """`faults`: a name of what it happens to and the fault, by what it is called; of one thing nothing happens twice at once.
    `apart`: processes with a way to NATS of their own. `rate`: creates a second; `most`: servers that are there, about."""

    roles: Sequence[str]
    faults: Mapping[str, tuple[str, Fault]]
    apart: str
    lies: Callable[[Scene, Told], Awaitable[dict[str, Any]]]
    settings: Mapping[str, Any]
    rate: float
    most: int
    machines: Callable[[Cluster, AsyncExitStack], Awaitable[dict[str, Any]]]
    last: Callable[[Scene, Any], Awaitable[dict[str, Any]]]


async def _no_machines(cluster: Cluster, stack: AsyncExitStack) -> dict[str, Any]:
    return {}


async def _nothing_more(scene: Scene, load: Any) -> dict[str, Any]:
    return {}


def _on(name: str, fault: Fault) -> tuple[str, Fault]:
    return name, fault


LEFT, RIGHT = "hollow:5@left", "hollow:5@right"
_ENGINES: dict[str, tuple[str, Fault]] = {
    "kill PostgreSQL": ("PostgreSQL", faults.kill_postgresql),
    "kill NATS": ("NATS", faults.kill_nats),
    "freeze PostgreSQL": ("PostgreSQL", faults.freeze_postgresql),
    "freeze NATS": ("NATS", faults.freeze_nats),
    "bad weather": ("weather", faults.bad_weather),
    "cut everybody": ("weather", faults.cut_everybody),
}
HOLLOW = Stage(
    roles=("api --workers 2", "worker@1", "worker@2", "network-rpc", LEFT, RIGHT),
    faults={
        **{f"kill {name}": _on(name, faults.kill(name)) for name in ("api", "worker@1", "worker@2", "network-rpc", LEFT, RIGHT)},
        **{f"freeze {name}": _on(name, faults.freeze(name)) for name in ("api", "worker@1", "network-rpc", LEFT)},
        **{f"restart {name}": _on(name, faults.restart(name)) for name in ("worker@2", "network-rpc", RIGHT)},
        **{f"restart the agents of {name}": _on(name, faults.restart_agents(name)) for name in (LEFT, RIGHT)},
        f"cut off {LEFT}": _on(LEFT, faults.cut_off(LEFT)),
        f"cut off {LEFT} until it is given up": _on(LEFT, faults.cut_off(LEFT, given_up=True)),
        f"{RIGHT} is dead until it is given up": _on(RIGHT, faults.stay_away(RIGHT)),
        **_ENGINES,
    },
    apart=LEFT,
    lies=hollow.lies,
    settings=SETTINGS,
    rate=8.0,
    most=60,
    machines=_no_machines,
    last=_nothing_more,
)

WHOLE, COMPUTE, NETWORK = "host@h1", "host/compute@h2", "host/network@h2"
REAL = Stage(
    roles=("api", "worker@1", "worker@2", "network-rpc", WHOLE, COMPUTE, NETWORK),
    faults={
        **{f"kill {name}": _on(name, faults.kill(name)) for name in ("api", "worker@1", "network-rpc", WHOLE, COMPUTE, NETWORK)},
        **{f"freeze {name}": _on(name, faults.freeze(name)) for name in ("worker@2", NETWORK, COMPUTE)},
        "kill a guest": ("guests", faults.kill_a_guest),
        "kill the switch of h1": ("switch of h1", faults.kill_switch("h1")),
        "kill the switch of h2": ("switch of h2", faults.kill_switch("h2")),
        f"cut off {WHOLE} until it is given up": _on(WHOLE, faults.cut_off(WHOLE, given_up=True)),
        **_ENGINES,
    },
    apart=WHOLE,
    lies=real.lies,
    # Nothing here powers guests off in good order but the end of a run, and most of them have no system that would hear.
    settings=SETTINGS | {"host.hypervisor": "qemu", "host.acceleration": "tcg", "compute.shutdown_timeout": 1},
    rate=2.0,
    most=6,
    machines=real.machines,
    last=real.guests_have_addresses,
)
