"""What this process counts, for Prometheus.

A metric is declared here, once; whoever counts imports it by name. `pileus.metrics_server` shows them.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DB_WAIT = Histogram(
    "pileus_db_wait_seconds",
    "How long a transaction waited for a database connection of this process.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0),
)
DB_RUN = Histogram(
    "pileus_db_run_seconds",
    "How long a transaction had its connection, from its turn to its answer.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0),
)
DB_TIMEOUTS = Counter("pileus_db_wait_timeouts", "Transactions refused because no connection was free within database.pool_timeout.")
DB_RETRIES = Counter("pileus_db_retries", "Transactions that were tried again.", ["why"])
DB_POOL_SIZE = Gauge("pileus_db_pool_size", "Most database connections of this process (database.max_pool_size).")
DB_IN_USE = Gauge("pileus_db_connections_in_use", "Database connections of this process that a transaction runs on.")
DB_WAITING = Gauge("pileus_db_waiting", "Transactions that wait for a database connection now.")
BUS_LOST = Counter("pileus_bus_messages_lost_total", "Messages that found a full buffer.", ["where"])
for _where in ("subscription", "connection"):
    BUS_LOST.labels(_where)  # so that it is shown before the first is lost
RPC_WAIT = Histogram(
    "pileus_network_rpc_wait_seconds",
    "How long an agent's request waited in this process until it began with it.",
    ["call"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0),
)
RPC_SECONDS = Histogram(
    "pileus_network_rpc_seconds",
    "How long this process took for an agent's request, from its beginning to the answer.",
    ["call"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0),
)
RPC_AT_ONCE = Gauge(
    "pileus_network_rpc_at_once", "Requests of each call that this process works on at once (network.executor_thread_pool_size)."
)
NETWORK_EVENTS_DROPPED = Counter(
    "pileus_network_events_dropped", "Events for the compute API that were given up after about a second (network.notify = once)."
)
COMPUTE_QUEUE = Histogram(
    "pileus_compute_queue_seconds",
    "How long creates waited, from their request to their turn.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0),
)
COMPUTE_SERVICE = Histogram(
    "pileus_compute_service_seconds",
    "How long actions took, from their turn to their end.",
    ["action"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0),
)
COMPUTE_FAILED = Counter("pileus_compute_failed", "Attempts of actions that failed, by the step that did.", ["action", "step"])
COMPUTE_CREATES = Gauge("pileus_compute_creates", "Creates of the whole cloud that are not over, as this worker last saw them.", ["state"])
CACHE_READS = Counter(
    "pileus_compute_cache_reads",
    "Servers whose network info cache was read anew, or was not since the network service did not answer (why: event, healing).",
    ["why", "outcome"],
)
CACHE_SECONDS = Counter(
    "pileus_compute_cache_read_seconds",
    "Seconds spent waiting for the network service's answers to such reads (why: event, healing).",
    ["why"],
)
CACHE_LATE = Counter("pileus_compute_heals_late", "Servers that were healed later than a fifth of the interval after their time.")
AGENT_BLOCKED = Counter("pileus_agent_blocked_seconds", "Seconds in which an agent of this process did nothing but remove ports.")
AGENT_TURN = Histogram(
    "pileus_agent_turn_seconds",
    "How long the turns of agents took, without the sleep between them (network.agent_loop serial).",
    buckets=(0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)
AGENT_DETAILS = Histogram(
    "pileus_agent_details_seconds",
    "How long agents waited for what ports are meant to be (get_devices_details_list), all tries together.",
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0),
)
AGENT_REPORT = Histogram(
    "pileus_agent_report_seconds",
    "How long agents waited until what they had made of ports was taken (update_device_list), all tries together.",
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0),
)
AGENT_WIRE_WAIT = Histogram(
    "pileus_agent_wire_wait_seconds",
    "How long ports waited from when the agent was asked to wire them, or noticed them, until it did.",
    buckets=(0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)
