"""Profiles: groups of settings under one name, each with its reason. What you set yourself wins over a profile.

A profile is values and nothing else: no other part of the code asks for its name. Figures and their sources: docs/STORY.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """What a profile sets. `role`: only in processes of that role (`pileus serve ROLE`); empty: everywhere."""

    key: str
    value: Any
    reason: str
    role: str = ""


STORY = (
    Choice(
        "compute.plug_signal",
        "callback",
        "The guest waits, paused, for a word that goes agent, network server, compute API, host: three transports in a row.",
    ),
    Choice(
        "compute.vif_plugging_timeout",
        300.0,
        "Nova's limit of that wait, and the failure that the story's users saw.",
    ),
    Choice(
        "compute.vif_plugging_is_fatal",
        True,
        "Past the limit the guest is destroyed and the server is in ERROR; it is not tried on another host.",
    ),
    Choice(
        "compute.vif_plugging_reread",
        False,
        "Nova believes events alone: before it gives a guest up it does not ask whether the port is ready.",
    ),
    Choice(
        "compute.hold_build_slot",
        True,
        "Nova holds one of a host's build slots through the whole wait for the network, so a slow network starves other builds.",
    ),
    Choice("compute.explain", False, "Nova writes down that an action began and how it ended, and nothing tells where a boot waits."),
    Choice("compute.max_builds", 0, "Nova counts builds for each host only, not in all."),
    Choice("compute.queue_limit", 0.0, "Nova's queue for a build slot has no limit."),
    Choice("compute.blocked_limit", 0.0, "A server that fits on no host fails at once: no valid host was found."),
    Choice("compute.deletes_beside_creates", 0.0, "Deletes begin as they come, however many servers are being made."),
    Choice(
        "compute.heal_instance_info_cache_interval",
        60.0,
        "The story's platform began with a healing every 60 s; its first change makes it 600.",
    ),
    Choice(
        "compute.heal_scope", "all", "The story tells that every server is refreshed each interval; Nova's code heals one of each host."
    ),
    Choice(
        "compute.heal_resume", False, "The list of whom to heal is in memory: each restart of a compute service begins again, all at once."
    ),
    Choice(
        "network.agent_loop", "serial", "One loop does all the agent's work in turns, removals before wires: each waits for the slowest."
    ),
    Choice("network.polling_interval", 2.0, "A new port is noticed at the next turn of that loop: neutron's polling_interval."),
    Choice(
        "network.flow_deletion",
        "blocking",
        "One call for each flow, and the agent does nothing else meanwhile; the story's fourth change ends it.",
    ),
    Choice(
        "simulated.flows_per_port", 43, "About so many flows has a port in Neutron before any rule; hollow hosts delete them one by one."
    ),
    Choice("network.notify", "once", "Neutron's notifier drops what it cannot deliver in about a second, and nobody sends it again."),
    Choice(
        "network.notify_agents",
        "all",
        "Neutron's word of a port that came up goes to all agents, and each looks whether it is concerned: a boot costs more in a larger "
        "cloud.",
    ),
    Choice("network.send_events_interval", 2.0, "Events are gathered for 2 s after each notification: neutron's send_events_interval."),
    Choice("network.rpc_workers", 1, "One process took all agents' RPC; the story's second change makes it 20."),
    Choice(
        "database.max_pool_size",
        1,
        "And it had one database connection; the story's third change makes it 60.",
        role="network-rpc",
    ),
    Choice("database.pool_timeout", 30.0, "How long SQLAlchemy, as Neutron uses it, waits for a connection of its pool."),
    Choice(
        "network.executor_thread_pool_size",
        64,
        "oslo.messaging works on so many RPC requests at once, however few database connections there are for them.",
    ),
    Choice("network.rpc_statements", 137, "What one boot costs in Neutron's RPC server, measured; each statement is a round trip."),
    Choice(
        "network.api_statements",
        16,
        "Healing one server costs about 90 statements in Neutron's API, measured; here 5 of its 6 requests cost.",
    ),
)
"""The platform as the story had it, before its four changes."""

PROFILES: dict[str, tuple[Choice, ...]] = {"default": (), "story": STORY}
