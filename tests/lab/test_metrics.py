"""Figures of a load from what processes tell Prometheus before and after it."""

from __future__ import annotations

import pytest

from pileus.lab.metrics import BLOCKED, HEALED, TOLD, figures, parsed, requests
from pileus.lab.proxy import Count, kind

TEXT = """
# HELP pileus_db_wait_seconds How long
# TYPE pileus_db_wait_seconds histogram
pileus_db_wait_seconds_bucket{le="0.001"} 3.0
pileus_db_wait_seconds_count 4.0
pileus_db_wait_seconds_sum 0.5
pileus_compute_cache_reads_total{why="healing",outcome="read"} 12.0
"""


def test_a_page_is_its_numbers() -> None:
    found = parsed(TEXT)
    assert (found["pileus_db_wait_seconds_count"], found["pileus_db_wait_seconds_sum"], found[HEALED]) == (4.0, 0.5, 12.0)


def test_the_names_are_those_that_pileus_tells() -> None:
    from prometheus_client import generate_latest

    from pileus import metrics

    for why in ("healing", "event"):
        metrics.CACHE_READS.labels(why=why, outcome="read").inc(0)
    told = parsed(generate_latest().decode())
    assert {HEALED, TOLD, BLOCKED} <= told.keys()
    assert {
        f"pileus_{name}_count" for name in ("db_wait_seconds", "db_run_seconds", "agent_details_seconds", "agent_report_seconds")
    } <= told.keys()
    assert {f"pileus_{name}_count" for name in ("agent_turn_seconds", "agent_wire_wait_seconds")} <= told.keys()


def test_figures_are_of_the_time_between() -> None:
    before = {
        "network-rpc": {"pileus_db_wait_seconds_count": 10.0, "pileus_db_wait_seconds_sum": 1.0},
        "hosts": {BLOCKED: 5.0, "pileus_agent_details_seconds_count": 1.0, "pileus_agent_details_seconds_sum": 9.0},
        "worker": {HEALED: 7.0},
    }
    after = {
        "network-rpc": {"pileus_db_wait_seconds_count": 20.0, "pileus_db_wait_seconds_sum": 3.0},
        "network-api": {"pileus_db_wait_seconds_count": 10.0, "pileus_db_wait_seconds_sum": 2.0},
        "hosts": {BLOCKED: 25.0, "pileus_agent_details_seconds_count": 3.0, "pileus_agent_details_seconds_sum": 12.0},
        "worker": {HEALED: 107.0, TOLD: 20.0},
    }
    found = figures(before, after, seconds=120, hosts=10)
    assert found["pool_wait_s"] == pytest.approx(4.0 / 20)
    assert found["rpc_wait_s"] == found["rpc_details_s"] == pytest.approx(1.5)
    assert found["agent_blocked_s"] == pytest.approx(20 / 10 / 2)
    assert (found["healed_per_min"], found["read_for_events_per_min"]) == (50, 10)
    assert "agent_turn_s" not in found


READING = (
    "ports?device_id=4f2a3b1c-0000-4000-8000-000000000001",
    "networks?id=4f2a3b1c-0000-4000-8000-000000000002",
    "floatingips?fixed_ip_address=10.0.0.9&port_id=4f2a3b1c-0000-4000-8000-000000000003",
    "subnets?id=4f2a3b1c-0000-4000-8000-000000000004",
    "ports?network_id=4f2a3b1c-0000-4000-8000-000000000002&device_owner=network%3Adhcp",
    "networks/4f2a3b1c-0000-4000-8000-000000000002?fields=provider%3Aphysical_network&fields=provider%3Anetwork_type",
)
"""What reads the cache of a server with one port and one address (tests/compute holds that these are the requests)."""
OF_A_BOOT = ("ports?device_id=1", "networks?id=2", "subnets?network_id=2", "ports?network_id=2&device_owner=x&fields=id", "extensions")


def test_requests_of_healing_are_told_from_those_of_boots_and_of_events() -> None:
    counted = Count()
    for path in [*READING * 12, *OF_A_BOOT * 7]:
        told = kind(f"GET /network/v2.0/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        counted.kinds[told] = counted.kinds.get(told, 0) + 1
    assert len(counted.kinds) == len(READING) + 3  # two look alike, and no id tells any apart
    found = requests(
        {"network": counted}, {"network": Count(kinds={each: 3 * n for each, n in counted.kinds.items()})}, seconds=120, healed=0.75
    )
    assert found == {"rest_requests_per_min": 12 * 6 + 7 * 5, "heal_requests_per_min": 0.75 * 12 * 6}
    assert requests({}, {}, seconds=1, healed=0.0) == {"rest_requests_per_min": 0, "heal_requests_per_min": 0}
