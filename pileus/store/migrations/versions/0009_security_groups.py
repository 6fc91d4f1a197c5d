"""Security groups: rules, which ports have them, whose addresses they stand for, and which hosts are told."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0009_security_groups"
down_revision = "0008_info_cache"


def _id(name: str, *more: sa.ForeignKey, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=64), *more, nullable=nullable)


def _times() -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double(), nullable=False) for name in ("created_at", "updated_at")]


def _open_what_is_there() -> None:
    """Ports that are there let everything pass, and go on to: their projects get a group whose rules say so. Without one, nothing
    would pass from now on."""
    to, now = op.get_bind(), time.time()
    tables = sa.MetaData()
    names = ("ports", "allocations", "security_groups", "security_rules", "set_members", "quota_usage")
    ports, allocations, groups, rules, members, usage = (sa.Table(f"network_{name}", tables, autoload_with=to) for name in names)
    secure = sa.and_(ports.c.port_security, ports.c.device_owner != "network:dhcp")
    for project in to.execute(sa.select(ports.c.project_id).where(secure).distinct()).scalars().all():
        group, stamps = str(uuid.uuid4()), {"created_at": now, "updated_at": now, "revision": 1}
        said = {"name": "open", "description": "Everything passes, as before there were security groups"}
        versions = {"rules_version": 1, "members_version": 1, "members_due": 0.0}
        whose = {"project_id": project, **stamps}
        to.execute(groups.insert().values(id=group, stateful=True, is_default=False, **said, **versions, **whose))
        for way, version in (("ingress", 4), ("ingress", 6), ("egress", 4), ("egress", 6)):
            rule = {"direction": way, "ip_version": version, "meaning": f"{way} {version} - - - -"}
            to.execute(rules.insert().values(id=str(uuid.uuid4()), group_id=group, description="", **rule, **whose))
        mine = sa.and_(secure, ports.c.project_id == project)
        address = sa.func.coalesce(allocations.c.ip, "")
        given = sa.select(sa.literal(group), address, ports.c.id, sa.false(), sa.true()).where(mine).distinct()
        given = given.select_from(ports.outerjoin(allocations, allocations.c.port_id == ports.c.id))
        to.execute(members.insert().from_select(["set_id", "address", "port_id", "gone", "announced"], given))
        several = sa.and_(mine, sa.cast(ports.c.pairs, sa.Text()) != "[]")
        for port, pairs in to.execute(sa.select(ports.c.id, ports.c.pairs).where(several)).all():
            known = to.execute(sa.select(members.c.address).where(members.c.port_id == port)).scalars().all()
            for ip in sorted({pair["ip"] for pair in pairs} - set(known)):
                to.execute(members.insert().values(set_id=group, address=ip, port_id=port, gone=False, announced=True))
        to.execute(ports.update().where(mine).values(security_groups=[group]))
        for resource, used in (("security_group", 1), ("security_group_rule", 4)):
            to.execute(usage.insert().values(project_id=project, resource=resource, used=used))


def upgrade() -> None:
    group = "network_security_groups"
    op.create_table(
        group,
        _id("id"),
        _id("project_id"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("stateful", sa.Boolean(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("rules_version", sa.BigInteger(), nullable=False),
        sa.Column("members_version", sa.BigInteger(), nullable=False),
        sa.Column("members_due", sa.Double(), nullable=False),
        *_times(),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_network_security_groups_project_id", group, ["project_id"])
    default = sa.text("is_default")
    op.create_index(f"{group}_default", group, ["project_id"], unique=True, sqlite_where=default, postgresql_where=default)
    op.create_table(
        "network_security_rules",
        _id("id"),
        _id("group_id", sa.ForeignKey(f"{group}.id")),
        _id("project_id"),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("direction", sa.String(length=8), nullable=False),
        sa.Column("ip_version", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.Text()),
        sa.Column("port_min", sa.Integer()),
        sa.Column("port_max", sa.Integer()),
        sa.Column("remote_prefix", sa.Text()),
        sa.Column("remote_cidr", sa.Text()),
        _id("remote_group_id", nullable=True),
        _id("remote_address_group_id", nullable=True),
        sa.Column("meaning", sa.String(length=255), nullable=False),
        *_times(),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("group_id", "meaning"),
    )
    for column in ("project_id", "remote_group_id", "remote_address_group_id"):
        op.create_index(f"ix_network_security_rules_{column}", "network_security_rules", [column])
    op.create_table(
        "network_set_members",
        _id("set_id"),
        sa.Column("address", sa.String(length=64), nullable=False),
        _id("port_id"),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("announced", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("set_id", "address", "port_id"),
    )
    op.create_index("network_set_members_of_port", "network_set_members", ["port_id"])
    news = sa.text("announced IS false") if op.get_bind().dialect.name == "postgresql" else sa.text("announced IS 0")
    op.create_index("network_set_members_news", "network_set_members", ["set_id"], sqlite_where=news, postgresql_where=news)
    op.create_table(
        "network_address_groups",
        _id("id"),
        _id("project_id"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        *_times(),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_network_address_groups_project_id", "network_address_groups", ["project_id"])
    op.create_table(
        "network_security_readers",
        _id("subject_id"),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("subject_id", "host"),
    )
    op.create_index("ix_network_security_readers_host", "network_security_readers", ["host"])
    with op.batch_alter_table("network_ports") as table:
        table.add_column(sa.Column("security_groups", sa.JSON(), nullable=False, server_default="[]"))
    _open_what_is_there()
