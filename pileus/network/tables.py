"""The network service's tables. No other service reads them. Times are Unix seconds.

Addresses are kept twice: as fixed-width lower-case hex (8 digits for IPv4, 32 for IPv6), which sorts as the address does, and as
text, which is what people search for.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint, literal_column, or_

from pileus.store.schema import Big, Json, Time, metadata, text, uid

networks = Table(
    "network_networks",
    metadata,
    uid("id", primary_key=True),
    uid("project_id", nullable=False, index=True),
    text("name", nullable=False),
    text("description", nullable=False),
    Column("admin_state_up", Boolean, nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("port_security", Boolean, nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("type", String(16), nullable=False),
    text("physical_network"),
    Column("segmentation_id", Integer),
    # Grows when a change of the hosts that have ports here is told (`members`).
    Column("members_version", Big, nullable=False),
    # Of a `local` network only: the one host it lives on, and how many ports are bound there.
    text("host"),
    Column("bound", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("revision", Big, nullable=False),
)

vlans = Table(
    "network_vlans",
    metadata,
    Column("physical_network", String(255), primary_key=True),
    Column("vlan", Integer, primary_key=True, autoincrement=False),
    uid("network_id", nullable=False, index=True),
)

vnis = Table(
    "network_vnis",
    metadata,
    Column("type", String(16), primary_key=True),
    Column("vni", Integer, primary_key=True, autoincrement=False),
    uid("network_id", nullable=False, index=True),
)

members = Table(
    "network_members",
    metadata,
    # Of tunnel networks: the hosts that ports are bound on, and how many.
    uid("network_id", primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("ports", Integer, nullable=False),
    # Where the host's tunnels end; empty: it has none, NULL: it was never heard of.
    text("address"),
    # Whether the other members were told of it.
    Column("announced", Boolean, nullable=False),
    Index("network_members_of_host", "host"),
)

MEMBERS_NEWS = or_(members.c.announced.is_(False), members.c.ports <= literal_column("0"))
"""What the sweep looks for: hosts that the others do not know of yet, and those that have no port any more. (With literals, since an
index of some rows serves only a question that says the same.)"""
Index("network_members_news", members.c.network_id, sqlite_where=MEMBERS_NEWS, postgresql_where=MEMBERS_NEWS)

subnets = Table(
    "network_subnets",
    metadata,
    uid("id", primary_key=True),
    Column("network_id", String(64), ForeignKey("network_networks.id"), nullable=False, index=True),
    uid("project_id", nullable=False, index=True),
    text("name", nullable=False),
    text("description", nullable=False),
    Column("ip_version", Integer, nullable=False),
    text("cidr", nullable=False),
    text("gateway"),
    Column("enable_dhcp", Boolean, nullable=False),
    # The address of the network's DHCP port in this subnet, so that wiring a port needs no look at that port.
    text("dhcp_address"),
    Column("pools", Json, nullable=False),
    Column("dns", Json, nullable=False),
    Column("routes", Json, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("revision", Big, nullable=False),
)

ports = Table(
    "network_ports",
    metadata,
    uid("id", primary_key=True),
    Column("network_id", String(64), ForeignKey("network_networks.id"), nullable=False),
    uid("project_id", nullable=False, index=True),
    text("name", nullable=False),
    text("description", nullable=False),
    Column("admin_state_up", Boolean, nullable=False),
    Column("mac", String(17), nullable=False),
    Column("device_id", String(255), nullable=False, index=True),
    Column("device_owner", String(255), nullable=False),
    Column("port_security", Boolean, nullable=False),
    Column("pairs", Json, nullable=False),
    Column("vnic_type", String(32), nullable=False),
    Column("profile", Json, nullable=False),
    Column("status", String(16), nullable=False),
    # The binding. `host` is empty while unbound; `generation` only grows; `level` is readiness.py's.
    Column("host", String(255), nullable=False, index=True),
    Column("generation", Big, nullable=False),
    Column("level", String(16), nullable=False),
    text("cause", nullable=False),
    text("binding_key", nullable=False),
    # Whom compute made or bound the port for. `device_id` is what its owner may write; nothing is decided by it.
    uid("server_id", index=True),
    Column("nic_index", Integer, nullable=False),
    text("dns_name", nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("revision", Big, nullable=False),
    # Ids of its security groups, so that who reads a port asks for nothing more. Who looks from a group: `set_members`.
    Column("security_groups", Json, nullable=False, server_default="[]"),
    UniqueConstraint("network_id", "mac"),
)

allocations = Table(
    "network_allocations",
    metadata,
    Column("subnet_id", String(64), ForeignKey("network_subnets.id"), primary_key=True),
    Column("address", String(32), primary_key=True),
    text("ip", nullable=False, index=True),
    Column("port_id", String(64), ForeignKey("network_ports.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    # Inside the subnet's pools: goes back to the free addresses when released.
    Column("pooled", Boolean, nullable=False),
)

free = Table(
    "network_free_addresses",
    metadata,
    uid("subnet_id", primary_key=True),
    # A range is known by its end. Free is what follows the first `taken` addresses of first … last.
    Column("last", String(32), primary_key=True),
    Column("first", String(32), nullable=False),
    Column("taken", Big, nullable=False),
    # 0 for what was never given; the time of release (µs) for the rest, so that it is given again last.
    Column("freed", Big, nullable=False),
    # No index holds what giving changes, so PostgreSQL changes the row in place (HOT).
    Index("network_free_order", "subnet_id", "freed", "last"),
)

agents = Table(
    "network_agents",
    metadata,
    uid("id", primary_key=True),
    Column("agent_type", String(64), nullable=False),
    Column("binary", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    text("availability_zone", nullable=False),
    Column("configurations", Json, nullable=False),
    Column("created_at", Time, nullable=False),
    UniqueConstraint("host", "agent_type"),
)

# What every heartbeat writes, apart from what stays. No index but the key: PostgreSQL then changes a row in place (HOT), given room.
agent_beats = Table(
    "network_agent_beats",
    metadata,
    Column("host", String(255), primary_key=True),  # "" is the control plane itself: when it heard its own echo, and since when it hears
    Column("heartbeat_at", Time, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("mark", Big, nullable=False),
    postgresql_with={"fillfactor": 50},
)

quota_limits = Table(
    "network_quota_limits",
    metadata,
    uid("project_id", primary_key=True),
    Column("resource", String(32), primary_key=True),
    Column("limit", Integer, nullable=False),
)

quota_usage = Table(
    "network_quota_usage",
    metadata,
    uid("project_id", primary_key=True),
    Column("resource", String(32), primary_key=True),
    Column("used", Integer, nullable=False),
)

outbox = Table(
    "network_outbox",
    metadata,
    # One row a port and kind (`level`, or `change` of what is known of it): a later event overtakes one that was not delivered yet.
    uid("port_id", primary_key=True),
    Column("kind", String(8), primary_key=True),
    uid("version", nullable=False),
    Column("generation", Big, nullable=False),
    Column("name", String(64), nullable=False),
    uid("server_id", nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("due_at", Time, nullable=False, index=True),
    # Of the notifier that is sending it (until `due_at`); empty: nobody is.
    uid("lease", nullable=False),
)

security_groups = Table(
    "network_security_groups",
    metadata,
    uid("id", primary_key=True),
    uid("project_id", nullable=False, index=True),
    text("name", nullable=False),
    text("description", nullable=False),
    Column("stateful", Boolean, nullable=False),
    # The group that a project's ports get when nobody says otherwise.
    Column("is_default", Boolean, nullable=False),
    # Grow when a change of the rules is committed, and when one of the members is told (`security_members`).
    Column("rules_version", Big, nullable=False),
    Column("members_version", Big, nullable=False),
    # When hosts may be told of members again.
    Column("members_due", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("revision", Big, nullable=False),
)
Index(
    "network_security_groups_default",
    security_groups.c.project_id,
    unique=True,
    sqlite_where=security_groups.c.is_default,
    postgresql_where=security_groups.c.is_default,
)

security_rules = Table(
    "network_security_rules",
    metadata,
    uid("id", primary_key=True),
    Column("group_id", String(64), ForeignKey("network_security_groups.id"), nullable=False),
    uid("project_id", nullable=False, index=True),
    text("description", nullable=False),
    Column("direction", String(8), nullable=False),
    Column("ip_version", Integer, nullable=False),
    # As it was given: a name or a number.
    text("protocol"),
    Column("port_min", Integer),
    Column("port_max", Integer),
    # As it was given, with its length; and as the network that it means.
    text("remote_prefix"),
    text("remote_cidr"),
    uid("remote_group_id", index=True),
    uid("remote_address_group_id", index=True),
    # All of a rule that decides what passes, in one form: two alike are refused.
    Column("meaning", String(255), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("revision", Big, nullable=False),
    UniqueConstraint("group_id", "meaning"),
)

set_members = Table(
    "network_set_members",
    metadata,
    # The addresses of a security group's ports; of a port that has none "", so that it is known to have the group. A row stands until
    # the hosts that must know have been told that it is gone.
    uid("set_id", primary_key=True),
    Column("address", String(64), primary_key=True),
    uid("port_id", primary_key=True),
    Column("gone", Boolean, nullable=False),
    # Whether hosts were told of it as it is.
    Column("announced", Boolean, nullable=False),
    Index("network_set_members_of_port", "port_id"),
)
SET_NEWS = set_members.c.announced.is_(False)
Index("network_set_members_news", set_members.c.set_id, sqlite_where=SET_NEWS, postgresql_where=SET_NEWS)

address_groups = Table(
    "network_address_groups",
    metadata,
    uid("id", primary_key=True),
    uid("project_id", nullable=False, index=True),
    text("name", nullable=False),
    text("description", nullable=False),
    Column("addresses", Json, nullable=False),
    Column("version", Big, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("revision", Big, nullable=False),
)

security_readers = Table(
    "network_security_readers",
    metadata,
    # Which hosts asked for a security group's rules, its members or an address group, and so are told of changes.
    uid("subject_id", primary_key=True),
    Column("host", String(255), primary_key=True, index=True),
    Column("asked_at", Time, nullable=False),
)
