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
DB_TIMEOUTS = Counter("pileus_db_wait_timeouts", "Transactions refused because no connection was free within database.pool_timeout.")
DB_RETRIES = Counter("pileus_db_retries", "Transactions that were tried again.", ["why"])
DB_POOL_SIZE = Gauge("pileus_db_pool_size", "Most database connections of this process (database.max_pool_size).")
DB_IN_USE = Gauge("pileus_db_connections_in_use", "Database connections of this process that a transaction runs on.")
DB_WAITING = Gauge("pileus_db_waiting", "Transactions that wait for a database connection now.")
BUS_LOST = Counter("pileus_bus_messages_lost_total", "Messages that found a full buffer.", ["where"])
for _where in ("subscription", "connection"):
    BUS_LOST.labels(_where)  # so that it is shown before the first is lost
