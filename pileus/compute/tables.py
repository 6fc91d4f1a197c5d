"""Compute's tables. No other service reads them."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ColumnElement, ForeignKey, Index, Integer, Table, and_, literal_column

from pileus.store.schema import Big, Json, Time, metadata, text, uid

flavors = Table(
    "compute_flavors",
    metadata,
    text("id", primary_key=True),
    text("name", nullable=False, unique=True),
    Column("ram", Integer, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("disk", Integer, nullable=False),
    Column("ephemeral", Integer, nullable=False, default=0),
    Column("swap", Integer, nullable=False, default=0),
    Column("rxtx_factor", Time, nullable=False, default=1.0),
    Column("is_public", Boolean, nullable=False, default=True),
    text("description"),
    Column("extra_specs", Json, nullable=False, default=dict),
    Column("created_at", Time, nullable=False),
)

flavor_access = Table(
    "compute_flavor_access",
    metadata,
    Column("flavor_id", ForeignKey(flavors.c.id, ondelete="CASCADE"), primary_key=True),
    uid("project_id", primary_key=True),
)

keypairs = Table(
    "compute_keypairs",
    metadata,
    uid("user_id", primary_key=True),
    text("name", primary_key=True),
    text("type", nullable=False),
    text("public_key", nullable=False),
    text("fingerprint", nullable=False),
    Column("created_at", Time, nullable=False),
)

servers = Table(
    "compute_servers",
    metadata,
    uid("id", primary_key=True),
    uid("project_id", nullable=False),
    uid("user_id", nullable=False),
    text("name", nullable=False),
    text("hostname", nullable=False),
    text("description"),
    uid("reservation_id", nullable=False),
    Column("launch_index", Integer, nullable=False, default=0),
    Column("metadata", Json, nullable=False, default=dict),
    Column("flavor", Json, nullable=False),  # a snapshot: id, name, ram, vcpus, disk, ephemeral, swap, extra_specs
    uid("image_id"),
    Column("boot", Json),  # the BootSource, resolved once: a server outlives its image
    text("key_name"),
    Column("public_keys", Json, nullable=False, default=dict),
    text("user_data"),
    Column("config_drive", Boolean, nullable=False, default=False),
    text("zone"),  # the availability zone asked for
    text("forced_host"),
    Column("nics", Json, nullable=False),  # RequestedNic as a dict, each; "auto" is resolved
    text("host"),
    text("vm_state", nullable=False),
    text("task_state"),
    text("power", nullable=False),
    Column("locked", Boolean, nullable=False, default=False),
    text("locked_by"),  # owner or admin
    text("locked_reason"),
    text("access_ip_v4"),
    text("access_ip_v6"),
    Column("auto_disk_config", Boolean, nullable=False, default=False),
    Column("generation", Big, nullable=False, default=1),  # grows with each change that a host must make
    text("lease_owner", nullable=False, default="", server_default=""),  # the worker that computes an action of it
    Column("lease_until", Time, nullable=False, default=0.0),  # only one action of a server is computed at a time
    Column("fault", Json),  # code, message, details, created
    Column("addresses", Json),  # the network info cache: ServerAddress as a dict, each; None: never asked for
    Column("addresses_asked", Big, nullable=False, default=0, server_default="0"),  # reads of it that were begun
    Column("addresses_known", Big, nullable=False, default=0, server_default="0"),  # which of them `addresses` is from, at least
    Column("refresh_at", Time),  # when it must be read anew: somebody said so, or whoever reads it now died; None: nobody asks for it
    Column("heal_at", Time, nullable=False, default=0.0, server_default="0"),  # when it is read anew though nobody says it must
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("launched_at", Time),
    Column("deleted_at", Time),
    Index("compute_servers_project", "project_id", "deleted_at", "created_at"),
    Index("compute_servers_host", "host", "deleted_at"),
    Index("compute_servers_deleted", "deleted_at"),
)
IS_HEALED = and_(servers.c.deleted_at.is_(None), servers.c.host.is_not(None))
"""Of such servers there is a network info cache to keep right."""
MUST_READ = servers.c.refresh_at.is_not(None)
Index("compute_servers_refresh", servers.c.refresh_at, sqlite_where=MUST_READ, postgresql_where=MUST_READ)
Index("compute_servers_heal", servers.c.heal_at, sqlite_where=IS_HEALED, postgresql_where=IS_HEALED)
Index("compute_servers_heal_of_host", servers.c.host, servers.c.heal_at, sqlite_where=IS_HEALED, postgresql_where=IS_HEALED)

actions = Table(
    "compute_actions",
    metadata,
    uid("id", primary_key=True),
    uid("server_id", nullable=False),
    uid("project_id", nullable=False),
    uid("user_id", nullable=False),
    uid("request_id", nullable=False),
    text("name", nullable=False),
    text("state", nullable=False),  # waiting, blocked, queued, sent, parked, unwinding, done, failed, overtaken
    Column("hard", Boolean, nullable=False, default=False),
    Column("generation", Big, nullable=False),  # of the server, as this action wants it
    Column("attempt", Integer, nullable=False, default=1),
    Column("tried", Json, nullable=False, default=list),  # hosts
    Column("tag", Big),  # of a create: its place in the queue (pileus.compute.admission)
    text("build_host"),  # of a create: the host that it was sent to, which counts it while it is `sent`
    Column("due_at", Time),  # None: nothing to do any more
    Column("deadline", Time),
    Column("resends", Integer, nullable=False, default=0),
    Column("stamps", Json, nullable=False, default=dict),  # step → time
    Column("details", Json, nullable=False, default=dict),  # step → what to say of it (host, cause)
    text("message"),
    Column("started_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("finished_at", Time),
    Index("compute_actions_server", "server_id", "started_at"),
    Index("compute_actions_finished", "finished_at"),
)

# The words are in the indexes, so they stand in the statements as they stand here, never as parameters.
IS_DELETE = actions.c.name == literal_column("'delete'")
IS_NO_DELETE = actions.c.name != literal_column("'delete'")
IS_OPEN_CREATE = and_(actions.c.name == literal_column("'create'"), actions.c.finished_at.is_(None))


def _partial(name: str, *columns: str, where: ColumnElement[bool]) -> None:
    Index(name, *[actions.c[column] for column in columns], sqlite_where=where, postgresql_where=where)


_partial("compute_actions_due", "due_at", where=and_(IS_NO_DELETE, actions.c.due_at.is_not(None)))
_partial("compute_actions_due_deletes", "due_at", where=and_(IS_DELETE, actions.c.due_at.is_not(None)))
_partial("compute_actions_queue", "state", "tag", where=IS_OPEN_CREATE)
_partial("compute_actions_queue_of_project", "project_id", "state", where=IS_OPEN_CREATE)

workers = Table(
    "compute_workers",
    metadata,
    uid("id", primary_key=True),
    Column("seen_at", Time, nullable=False),
)

admission = Table(
    "compute_admission",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    Column("virtual_time", Big, nullable=False, default=0),  # the tag of the last create that was let in
)

chores = Table(
    "compute_chores",
    metadata,
    text("name", primary_key=True),
    Column("due_at", Time, nullable=False),
)
"""Periodic work that one worker at a time does for all."""

hosts = Table(
    "compute_hosts",
    metadata,
    text("name", primary_key=True),
    uid("id", nullable=False, unique=True),  # of the hypervisor and of its resource provider
    uid("service_id", nullable=False, unique=True),
    Column("facts", Json, nullable=False),
    text("zone", nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
    text("disabled_reason"),
    Column("forced_down", Boolean, nullable=False, default=False),
    Column("building", Integer, nullable=False, default=0, server_default="0"),  # creates that are `sent` to it
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

# What every heartbeat writes, apart from what stays. No index but the key: PostgreSQL then changes a row in place (HOT), given room.
host_beats = Table(
    "compute_host_beats",
    metadata,
    text("name", primary_key=True),  # a host's; "" is the control plane itself: when it heard its own echo, and since when it hears
    Column("seen_at", Time, nullable=False),
    Column("started_at", Time, nullable=False, default=0.0),
    Column("guests", Integer, nullable=False, default=0),
    Column("mark", Big, nullable=False, default=-1),  # of the facts that placement was told of
    Column("down_at", Time, nullable=False, default=0.0),  # when its silence was noticed and acted upon; 0: not
    Column("heal_at", Time, nullable=False, default=0.0, server_default="0"),  # when one of its servers is healed (heal_scope = one)
    postgresql_with={"fillfactor": 50},
)

quotas = Table(
    "compute_quotas",
    metadata,
    uid("project_id", primary_key=True),
    text("resource", primary_key=True),
    Column("value", Integer, nullable=False),
)

usage = Table(
    "compute_usage",
    metadata,
    uid("project_id", primary_key=True),
    Column("instances", Integer, nullable=False, default=0),
    Column("cores", Integer, nullable=False, default=0),
    Column("ram", Integer, nullable=False, default=0),
    Column("last_tag", Big, nullable=False, default=0, server_default="0"),  # where the project's next create queues at the earliest
    Column("admit_rate", Time, nullable=False, default=0.0, server_default="0"),  # creates let in a second, of late
    Column("admitted_at", Time, nullable=False, default=0.0, server_default="0"),
)
