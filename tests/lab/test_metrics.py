"""Figures of a load from what processes tell Prometheus before and after it."""

from __future__ import annotations

import pytest

from pileus.lab.metrics import BLOCKED, HEALED, figures, parsed

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

    metrics.CACHE_READS.labels(why="healing", outcome="read").inc(0)
    told = parsed(generate_latest().decode())
    assert {HEALED, BLOCKED} <= told.keys()
    assert {f"pileus_{name}_count" for name in ("db_wait_seconds", "agent_details_seconds", "agent_report_seconds")} <= told.keys()
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
        "worker": {HEALED: 107.0},
    }
    found = figures(before, after, seconds=120, hosts=10, heal_requests=9)
    assert found["pool_wait_s"] == pytest.approx(4.0 / 20)
    assert found["rpc_wait_s"] == found["rpc_details_s"] == pytest.approx(1.5)
    assert found["agent_blocked_s"] == pytest.approx(20 / 10 / 2)
    assert (found["healed_per_min"], found["heal_requests_per_min"]) == (50, 450)
    assert "agent_turn_s" not in found
