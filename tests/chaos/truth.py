"""Whether what is written down is consistent with itself: nobody holds what nobody has, and every counter counts."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

LIMIT = 30.0


def _number(column: str) -> str:
    """The address of a column of hexadecimal digits."""
    return f"('x' || lpad({column}, 16, '0'))::bit(64)::bigint"


_NOW = "extract(epoch FROM clock_timestamp())"

# Each asks for what must not be there. A row of an answer is a lie, and names itself.
LIES = {
    "an action is open on no server, or on one that is gone": """
        SELECT a.id, a.name, a.state, a.server_id FROM compute_actions a LEFT JOIN compute_servers s ON s.id = a.server_id
        WHERE a.state NOT IN ('done', 'failed', 'overtaken') AND (s.id IS NULL OR s.deleted_at IS NOT NULL)""",
    "an action never ends: it is open and never due": """
        SELECT id, name, state, server_id FROM compute_actions WHERE state NOT IN ('done', 'failed', 'overtaken') AND due_at IS NULL""",
    "a server is on its way, and nothing is open on it": """
        SELECT s.id, s.vm_state, s.task_state FROM compute_servers s
        WHERE s.deleted_at IS NULL AND (s.vm_state = 'building' OR s.task_state IS NOT NULL) AND NOT EXISTS (
            SELECT 1 FROM compute_actions a WHERE a.server_id = s.id AND a.state NOT IN ('done', 'failed', 'overtaken'))""",
    "a server in ERROR has no fault": """
        SELECT id FROM compute_servers WHERE vm_state = 'error' AND deleted_at IS NULL AND (fault IS NULL OR fault::text = 'null')""",
    "a claim outlives its server, or stands where the server is not": """
        SELECT c.id, p.name, s.host, s.vm_state FROM placement_consumers c
        LEFT JOIN placement_allocations a ON a.consumer_id = c.id LEFT JOIN placement_providers p ON p.id = a.provider_id
        LEFT JOIN compute_servers s ON s.id = c.id AND s.deleted_at IS NULL
        WHERE s.id IS NULL OR s.host IS DISTINCT FROM p.name""",
    "a server is on a host without a claim": """
        SELECT s.id, s.host, s.vm_state FROM compute_servers s LEFT JOIN placement_consumers c ON c.id = s.id
        WHERE s.deleted_at IS NULL AND s.host IS NOT NULL AND c.id IS NULL""",
    "an inventory's use is not the sum of its allocations": """
        SELECT i.provider_id, i.resource_class, i.used, sum(a.used) FROM placement_inventories i
        LEFT JOIN placement_allocations a USING (provider_id, resource_class)
        GROUP BY 1, 2, 3 HAVING i.used <> coalesce(sum(a.used), 0)""",
    "an inventory is overbooked": "SELECT provider_id, resource_class, used, capacity FROM placement_inventories WHERE used > capacity",
    "a port outlives its server": """
        SELECT p.id, p.server_id, s.vm_state FROM network_ports p LEFT JOIN compute_servers s ON s.id = p.server_id AND s.deleted_at IS NULL
        WHERE p.server_id IS NOT NULL AND (s.id IS NULL OR s.host IS NULL)""",
    "a server that is active has a port that is not wired on its host": """
        SELECT s.id, s.host, p.host, p.level FROM compute_servers s JOIN network_ports p ON p.server_id = s.id
        WHERE s.deleted_at IS NULL AND s.vm_state = 'active' AND (p.host <> s.host OR p.level <> 'wired')""",
    "a server that is active has no port": """
        SELECT s.id FROM compute_servers s LEFT JOIN network_ports p ON p.server_id = s.id
        WHERE s.deleted_at IS NULL AND s.vm_state = 'active' AND p.id IS NULL""",
    "an address outlives its port": """
        SELECT a.ip, a.port_id FROM network_allocations a LEFT JOIN network_ports p ON p.id = a.port_id WHERE p.id IS NULL""",
    "an address is free and given": """
        SELECT a.ip, f.first, f.last FROM network_allocations a
        JOIN network_free_addresses f ON f.subnet_id = a.subnet_id
        AND {address} BETWEEN {first} + f.taken AND {last}""".format(
        address=_number("a.address"), first=_number("f.first"), last=_number("f.last")
    ),
    "two free ranges overlap": f"""
        SELECT f.subnet_id, f.first, f.taken, f.last, g.first, g.taken, g.last FROM network_free_addresses f
        JOIN network_free_addresses g ON g.subnet_id = f.subnet_id AND g.last > f.last
        AND {_number("g.first")} + g.taken <= {_number("f.last")}""",
    "a free range is empty": f"""
        SELECT f.subnet_id, f.first, f.taken, f.last FROM network_free_addresses f
        WHERE {_number("f.first")} + f.taken > {_number("f.last")}""",
    "compute was never told of a port": "SELECT port_id, name, attempts FROM network_outbox",
    "a project's servers are not what its quota counts": """
        SELECT u.project_id, u.instances, count(s.id) FROM compute_usage u
        LEFT JOIN compute_servers s ON s.project_id = u.project_id AND s.deleted_at IS NULL
        GROUP BY 1, 2 HAVING u.instances <> count(s.id)""",
    "a project's ports are not what its quota counts": """
        SELECT q.project_id, q.used, count(p.id) FROM network_quota_usage q LEFT JOIN network_ports p ON p.project_id = q.project_id
        WHERE q.resource = 'port' GROUP BY 1, 2 HAVING q.used <> count(p.id)""",
    "a project's cores are not what its quota counts": """
        SELECT u.project_id, u.cores, sum((s.flavor::jsonb->>'vcpus')::int) FROM compute_usage u
        LEFT JOIN compute_servers s ON s.project_id = u.project_id AND s.deleted_at IS NULL
        GROUP BY 1, 2 HAVING u.cores <> coalesce(sum((s.flavor::jsonb->>'vcpus')::int), 0)""",
    "a server's info cache is not what its ports are": """
        SELECT s.id, s.vm_state, s.addresses::text AS cached, s.addresses_asked, s.addresses_known, s.refresh_at, t.found
        FROM compute_servers s LEFT JOIN LATERAL (
            SELECT array_agg(a.ip || ' ' || p.mac ORDER BY a.ip, p.mac) AS found FROM network_ports p
            JOIN network_allocations a ON a.port_id = p.id WHERE p.server_id = s.id
        ) t ON true
        WHERE s.deleted_at IS NULL AND s.host IS NOT NULL AND s.vm_state <> 'building' AND coalesce((
            SELECT array_agg(concat(e->>'address', ' ', e->>'mac') ORDER BY e->>'address', e->>'mac')
            FROM json_array_elements(s.addresses) e
        ), ARRAY[]::text[]) IS DISTINCT FROM coalesce(t.found, ARRAY[]::text[])""",
    "a host counts builds that nobody does": "SELECT name, building FROM compute_hosts WHERE building <> 0",
    "a worker that lives computes a server on which nothing is open": f"""
        SELECT s.id, s.lease_owner, s.lease_until FROM compute_servers s JOIN compute_workers w ON w.id = s.lease_owner
        WHERE w.seen_at > {_NOW} - 12 AND s.lease_until > {_NOW}""",
    "a tunnel network's members are not where its ports are": """
        SELECT coalesce(m.network_id, p.network_id) AS network, coalesce(m.host, p.host) AS host, m.ports, p.ports AS really, m.announced
        FROM network_members m FULL JOIN (
            SELECT n.id AS network_id, q.host, count(*) AS ports FROM network_ports q JOIN network_networks n ON n.id = q.network_id
            WHERE q.host <> '' AND n.type IN ('geneve', 'vxlan') GROUP BY 1, 2
        ) p ON p.network_id = m.network_id AND p.host = m.host
        WHERE m.ports IS DISTINCT FROM p.ports OR NOT m.announced""",
    "a port without a server is bound": """
        SELECT id, host, level FROM network_ports WHERE server_id IS NULL AND (host <> '' OR level <> 'unbound')""",
    "a host is not heard of": f"""
        SELECT h.name, b.seen_at FROM compute_hosts h LEFT JOIN compute_host_beats b ON b.name = h.name
        WHERE b.seen_at IS NULL OR b.seen_at < {_NOW} - {{down}}""",
    "a network agent is not heard of": f"""
        SELECT a.host, b.heartbeat_at FROM network_agents a LEFT JOIN network_agent_beats b ON b.host = a.host
        WHERE b.heartbeat_at IS NULL OR b.heartbeat_at < {_NOW} - {{down}}""",
}

ADDRESSES = f"""
    SELECT s.id, s.pools::text AS pools,
           (SELECT count(*) FROM network_allocations a WHERE a.subnet_id = s.id AND a.pooled) AS given,
           (SELECT coalesce(sum({_number("f.last")} - {_number("f.first")} + 1 - f.taken), 0)
            FROM network_free_addresses f WHERE f.subnet_id = s.id) AS free
    FROM network_subnets s WHERE s.ip_version = 4"""
"""Of each subnet: how many addresses are given and how many are free; together they are its pools."""

SERVERS = "SELECT id, host, generation, vm_state, power FROM compute_servers WHERE deleted_at IS NULL AND host IS NOT NULL"
PORTS = """
    SELECT p.id, p.host, p.generation, p.network_id, p.level, s.vm_state FROM network_ports p JOIN compute_servers s ON s.id = p.server_id
    WHERE s.deleted_at IS NULL AND (p.host <> '' OR s.vm_state = 'error')"""


@dataclass(frozen=True)
class Told:
    """What is written down of the hosts."""

    _servers: Sequence[Mapping[str, Any]]
    _ports: Sequence[Mapping[str, Any]]

    def hosts(self) -> set[str]:
        return {row["host"] for row in (*self._servers, *self._ports) if row["host"]}

    def guests(self, host: str) -> dict[str, tuple[int, str]]:
        """Server id → generation and power; of one in ERROR `error`."""
        mine = [row for row in self._servers if row["host"] == host]
        return {row["id"]: (row["generation"], "error" if row["vm_state"] == "error" else row["power"]) for row in mine}

    def ports(self, host: str) -> dict[str, int]:
        """Port id → generation, of those that are wired and no server's in ERROR."""
        return {row["id"]: row["generation"] for row in self._of(host) if row["vm_state"] != "error" and row["level"] == "wired"}

    def loose(self) -> dict[str, str]:
        """Port id → network, of servers in ERROR: after an evacuation that failed they are bound nowhere, and the old host may have its
        guest still."""
        return {row["id"]: row["network_id"] for row in self._ports if row["vm_state"] == "error"}

    def networks(self, host: str) -> set[str]:
        return {row["network_id"] for row in self._of(host) if row["level"] == "wired"}

    def _of(self, host: str) -> list[Mapping[str, Any]]:
        return [row for row in self._ports if row["host"] == host]


async def lies(url: str, down_time: float) -> dict[str, list[dict[str, Any]]]:
    """What the database says that cannot be, by what is wrong with it; empty when all is well."""
    connection = await asyncpg.connect(url, timeout=LIMIT)
    try:
        found = {
            what: [dict(row) for row in await connection.fetch(query.replace("{down}", str(down_time)), timeout=LIMIT)]
            for what, query in LIES.items()
        }
        lost = [dict(row) for row in await connection.fetch(ADDRESSES, timeout=LIMIT)]
    finally:
        await connection.close(timeout=LIMIT)
    found["addresses are lost"] = [row for row in lost if row["given"] + row["free"] != _size(row["pools"])]
    return {what: rows for what, rows in found.items() if rows}


async def told(url: str) -> Told:
    connection = await asyncpg.connect(url, timeout=LIMIT)
    try:
        return Told(await connection.fetch(SERVERS, timeout=LIMIT), await connection.fetch(PORTS, timeout=LIMIT))
    finally:
        await connection.close(timeout=LIMIT)


HISTORY = """
    SELECT s.id, s.host, s.generation, s.vm_state, s.task_state, s.power, s.fault::text, s.deleted_at, json_agg(json_build_object(
        'name', a.name, 'state', a.state, 'attempt', a.attempt, 'generation', a.generation, 'tried', a.tried,
        'stamps', a.stamps, 'details', a.details, 'message', a.message
    ) ORDER BY a.started_at)::text AS actions
    FROM compute_servers s LEFT JOIN compute_actions a ON a.server_id = s.id WHERE s.id = ANY($1) GROUP BY s.id"""
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def histories(url: str, wrong: Mapping[str, Any]) -> list[str]:
    """Of each server that is named in what is wrong: how it is, and all that was done to it."""
    if not (ids := sorted(set(_ID.findall(str(wrong))))):
        return []
    connection = await asyncpg.connect(url, timeout=LIMIT)
    try:
        return [str(dict(row)) for row in await connection.fetch(HISTORY, ids, timeout=LIMIT)]
    finally:
        await connection.close(timeout=LIMIT)


def _size(pools: str) -> int:
    return sum(int(ipaddress.ip_address(last)) - int(ipaddress.ip_address(first)) + 1 for first, last in json.loads(pools))
