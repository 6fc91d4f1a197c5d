"""What the report says of its own figures: what was real, what simulated, what added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pileus.lab import cases
from pileus.lab.calibrate import Calibration
from pileus.lab.physics import Costs, World
from pileus.lab.results import Rung
from pileus.lab.site import API_WORKERS


def real(world: World) -> list[str]:
    return [
        f"Processes: compute, identity, image and placement API; a network API of {API_WORKERS} processes; worker; network-rpc with the "
        "case's `rpc_workers`; PostgreSQL; NATS. Every request, message, transaction and wait between them.",
        f"Compute and network service apart, with the story's profile: compute asks the network API over HTTP, and the network service "
        f"tells compute of ports over HTTP. {world.servers} servers stand, are healed, deleted and replaced all the time.",
        f"{world.hosts} hosts' network agents, compute services and build slots: the code of real hosts.",
        "Time: nothing is scaled. The knee is the highest rate that was held with all servers ACTIVE and p99 under half the plug timeout.",
    ]


def simulated(calibration: Calibration) -> list[str]:
    return [
        "Guests and switches of the hosts: no QEMU and no Open vSwitch runs. What the switch's steps take was measured on a real one by "
        f"`pileus lab calibrate` ({calibration.words()}).",
        "A restart of a compute service is said by its host, and its healing follows; the process goes on.",
        "The database's commits are not on a disk (fsync off): all cases alike.",
    ]


def added(known: Mapping[str, Costs], round_trip: float, shortened: Sequence[str]) -> list[str]:
    """`known`: by profile. What predictions are made from is said, too."""
    costs = known.get("story")
    found = [
        f"{round_trip * 1000:g} ms more for each round trip to the database and of each REST request between compute and network, by a "
        "proxy that keeps the order of messages.",
    ]
    if costs is not None:
        rpc, api = costs.trips.create.get("network-rpc", 0.0), costs.trips.create.get("network-api", 0.0)
        per_port, per_request = (cases.value(cases.first(), f"network.{name}_statements") for name in ("rpc", "api"))
        found.append(
            "Statements that do nothing, so that the network service asks its database as often as Neutron does "
            f"({per_port} a port in its RPC server, {per_request} a request of its API). With our own a boot is {rpc:.0f} round "
            f"trips there and {api:.0f} here, and healing a server {costs.trips.heal.get('network-api', 0.0):.0f} in "
            f"{costs.heal_requests:.0f} requests."
        )
    return [*found, *(each.words for each in known.values()), *shortened]


def of_rung(rung: Rung) -> str:
    """One line for a person who watches."""
    p99 = f"p99 {rung.p99_s:.2f} s" if rung.p99_s is not None else "nobody ACTIVE"
    lost = f", {rung.plug_timeouts} lost to plug timeouts" if rung.plug_timeouts else ""
    good = "good" if rung.good else "not good"
    return f"{rung.rate_per_s:.2f}/s for {rung.seconds:.0f} s: {rung.active} of {rung.created} ACTIVE, {p99}{lost}: {good}"
