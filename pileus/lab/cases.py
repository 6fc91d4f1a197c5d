"""The settings that the story's experiment compares: its start, each of its four changes alone, all of them in its order, our default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pileus.profiles import PROFILES
from pileus.settings import Settings

HEAL = "compute.heal_instance_info_cache_interval"
WORKERS = "network.rpc_workers"
POOL = "database.max_pool_size"
DELETION = "network.flow_deletion"
RESUME = "compute.heal_resume"


@dataclass(frozen=True)
class Change:
    """One of the four. `was`, `becomes`: the setting's value in the story before and after."""

    name: str
    words: str
    key: str
    was: Any
    becomes: Any


CHANGES = (
    Change("heal", "heal every 600 s", HEAL, 60.0, 600.0),
    Change("rpc", "20 RPC workers", WORKERS, 1, 20),
    Change("pool", "60 connections each", POOL, 1, 60),
    Change("deletion", "flow deletion deferred", DELETION, "blocking", "deferred"),
)
"""In the story's order."""


@dataclass(frozen=True)
class Case:
    """`name`: on the command line; `words`: for people. `settings`: those that cases differ in, by dotted keys. `restarts`: of the compute
    services of all hosts, a minute."""

    name: str
    words: str
    settings: Mapping[str, Any]
    profile: Literal["story", "default"] = "story"
    changed: tuple[str, ...] = ()
    """Names of the changes that are made."""
    restarts: float = 0.1

    @property
    def heal_interval(self) -> float:
        return float(self.settings[HEAL])


START: Mapping[str, Any] = {change.key: change.was for change in CHANGES}
OFTEN = 2.0
"""Restarts a minute of every host's compute service, where it is restarts that a case is about."""


def _with(name: str, words: str, *changes: Change, **more: Any) -> Case:
    settings = {**START, RESUME: False, **{change.key: change.becomes for change in changes}, **more.pop("settings", {})}
    return Case(name, words, settings, changed=tuple(change.name for change in changes), **more)


def _default() -> Case:
    told = Settings()
    settings = {
        HEAL: told.compute.heal_instance_info_cache_interval,
        WORKERS: told.network.rpc_workers,
        POOL: told.database.max_pool_size,
        DELETION: told.network.flow_deletion,
        RESUME: told.compute.heal_resume,
    }
    return Case("default", "Pileus's default", settings, profile="default")


ALONE = tuple(_with(change.name, f"only: {change.words}", change) for change in CHANGES)
BUNDLED = _with("bundled", "only: flow deletion bundled", settings={DELETION: "bundled"})
ADDED = tuple(
    _with("+".join(change.name for change in CHANGES[:count]), " + ".join(change.words for change in CHANGES[:count]), *CHANGES[:count])
    for count in range(2, len(CHANGES))
)
RESTARTS = (
    _with("restarts", "heal 600 s, restarts: healing starts over", *CHANGES, restarts=OFTEN),
    _with("restarts-resume", "heal 600 s, restarts: healing goes on", *CHANGES, restarts=OFTEN, settings={RESUME: True}),
)
CASES: tuple[Case, ...] = (
    _with("start", "the story's start"),
    *ALONE,
    BUNDLED,
    *ADDED,
    _with("all", "all four changes", *CHANGES),
    _default(),
    *RESTARTS,
)
"""The first change added up is the first change alone."""
BY_NAME = {case.name: case for case in CASES}


def first() -> Case:
    """The case whose breaking load is everybody's."""
    return CASES[0]


def of_role(case: Case, role: str) -> dict[str, Any]:
    """The case's settings as a process of this role has them. The pool is the network service's: Neutron's, in the story. Steps are
    written down in each case: they are what the lab measures."""
    ours = {"profile": case.profile, "compute.explain": True, **case.settings}
    if case.profile == "story" and role not in ("network-rpc", "network-api"):
        del ours[POOL]
    return ours


def value(case: Case, key: str) -> Any:
    """A setting as the case's processes have it: the case's own, its profile's, or the default."""
    if key in case.settings:
        return case.settings[key]
    for choice in PROFILES[case.profile]:
        if choice.key == key:
            return choice.value
    section, _, name = key.partition(".")
    return getattr(getattr(Settings(), section), name)
