"""The table of cases is the story's: its start, each change alone, added up, all, and our default."""

from __future__ import annotations

import pytest

from pileus.configuration import load
from pileus.lab import cases
from pileus.lab.cases import ADDED, ALONE, BY_NAME, CASES, CHANGES, START, Case, of_role, value


def test_the_start_is_the_storys() -> None:
    assert dict(START) == {
        "compute.heal_instance_info_cache_interval": 60.0,
        "network.rpc_workers": 1,
        "database.max_pool_size": 1,
        "network.flow_deletion": "blocking",
    }
    assert [(change.key, change.becomes) for change in CHANGES] == [
        ("compute.heal_instance_info_cache_interval", 600.0),
        ("network.rpc_workers", 20),
        ("database.max_pool_size", 60),
        ("network.flow_deletion", "deferred"),
    ]


def test_each_change_alone_then_added_up_in_order_then_all() -> None:
    assert [case.changed for case in ALONE] == [(change.name,) for change in CHANGES]
    assert [case.changed for case in ADDED] == [("heal", "rpc"), ("heal", "rpc", "pool")]
    assert BY_NAME["all"].changed == tuple(change.name for change in CHANGES)
    for case in CASES:
        if case.profile == "story":
            for change in CHANGES:
                wanted = "bundled" if (case.name, change.name) == ("bundled", "deletion") else change.was
                assert case.settings[change.key] == (change.becomes if change.name in case.changed else wanted)
    assert len(BY_NAME) == len(CASES)
    assert cases.first().name == "start"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("role", ["api", "network-api", "worker", "network-rpc", "hosts"])
def test_processes_of_every_case_would_start_with_its_settings(case: Case, role: str) -> None:
    environ = {"PILEUS_" + key.upper().replace(".", "__"): str(each) for key, each in of_role(case, role).items()}
    told, _ = load(environ=environ)
    assert told.profile == case.profile
    assert told.network.flow_deletion == case.settings[cases.DELETION]
    pool = case.settings[cases.POOL] if case.profile == "default" or role.startswith("network-") else 10
    assert told.database.max_pool_size == pool


def test_values_come_from_case_profile_and_default() -> None:
    assert value(BY_NAME["rpc"], cases.WORKERS) == 20
    assert (value(BY_NAME["rpc"], "network.rpc_statements"), value(BY_NAME["default"], "network.rpc_statements")) == (137, 0)
    assert value(BY_NAME["rpc"], "compute.max_concurrent_builds") == 10
    assert value(BY_NAME["default"], cases.RESUME) is True
