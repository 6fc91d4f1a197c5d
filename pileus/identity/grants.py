"""What a token comes to right now: its user, its scope and the roles there, read afresh from the tables."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select

from pileus.context import Context
from pileus.errors import Unauthorized
from pileus.identity import assignments
from pileus.identity.tables import domains, projects, revocations, users
from pileus.identity.tokens import Claims, ScopeKind
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new

REFUSED = "The request you have made requires authentication."
NO_ACCESS = "The user has no role in that scope, or there is no such scope: choose another project or domain, or ask an admin for a role."


@dataclass(frozen=True, slots=True)
class Named:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A good token. `scope`: the project or domain; `scope_domain`: the project's."""

    claims: Claims
    context: Context
    user: Named
    user_domain: Named
    scope: Named | None
    scope_domain: Named | None
    roles: tuple[Named, ...]


@dataclass(frozen=True)
class Ref:
    """A user, project or domain as a client names it: by id, or by name (and, but for a domain, its domain's id or name)."""

    id: str | None = None
    name: str | None = None
    domain_id: str | None = None
    domain_name: str | None = None


def resolve(tx: Tx, claims: Claims) -> Grant:
    """Raises Unauthorized for what has ended: revoked, or user, scope or role gone or disabled. The expiry is the caller's to check."""
    user = login(tx, Ref(id=claims.user_id))
    if user is None or not user["alive"] or user["token_epoch"] != claims.user_epoch:
        raise Unauthorized(REFUSED)
    if first(tx, select(revocations.c.audit_id).where(revocations.c.audit_id == claims.audit_ids[0])):
        raise Unauthorized(REFUSED)
    who, home = Named(user["id"], user["name"]), Named(user["domain_id"], user["domain_name"])
    scope, domain, roles = _scope(tx, claims)
    context = Context(
        user_id=who.id,
        user_name=who.name,
        user_domain_id=home.id,
        project_id=scope.id if scope is not None and claims.scope == "project" else None,
        project_name=scope.name if scope is not None and claims.scope == "project" else "",
        domain_id=scope.id if scope is not None and claims.scope == "domain" else None,
        roles=frozenset(role.name for role in roles),
        expires_at=claims.expires_at,
    )
    return Grant(claims, context, who, home, scope, domain, roles)


def login(tx: Tx, ref: Ref) -> Row | None:
    """The user, with `domain_name` and `alive`: are the user and the user's domain both enabled?"""
    statement = select(users, domains.c.name.label("domain_name"), (users.c.enabled & domains.c.enabled).label("alive")).join(
        domains, users.c.domain_id == domains.c.id
    )
    if ref.id is not None:
        return first(tx, statement.where(users.c.id == ref.id))
    home = domains.c.id == ref.domain_id if ref.domain_id is not None else domains.c.name == ref.domain_name
    return first(tx, statement.where(users.c.name == ref.name, home))


def find_scope(tx: Tx, kind: ScopeKind, ref: Ref) -> str | None:
    """The id of the project or domain that is meant; None if there is none. Whether it may be used is for `resolve` to say."""
    if ref.id is not None:
        return ref.id
    if kind == "domain":
        found = first(tx, select(domains.c.id).where(domains.c.name == ref.name))
    else:
        home = domains.c.id == ref.domain_id if ref.domain_id is not None else domains.c.name == ref.domain_name
        joined = select(projects.c.id).join(domains, projects.c.domain_id == domains.c.id)
        found = first(tx, joined.where(projects.c.name == ref.name, home))
    return None if found is None else found["id"]


def revoke(tx: Tx, claims: Claims) -> None:
    insert_new(tx, revocations, {"audit_id": claims.audit_ids[0], "expires_at": claims.expires_at})


def purge(tx: Tx, now: float) -> None:
    """Forget the revocations of tokens that are over by themselves."""
    tx.execute(delete(revocations).where(revocations.c.expires_at < now))


def _scope(tx: Tx, claims: Claims) -> tuple[Named | None, Named | None, tuple[Named, ...]]:
    if claims.scope == "unscoped" or claims.scope_id is None:
        return None, None, ()
    columns = (domains.c.id.label("domain_id"), domains.c.name.label("domain_name"))
    if claims.scope == "project":
        found = first(
            tx,
            select(projects.c.id, projects.c.name, *columns)
            .join(domains, projects.c.domain_id == domains.c.id)
            .where(projects.c.id == claims.scope_id, projects.c.enabled, domains.c.enabled),
        )
    else:
        found = first(tx, select(domains.c.id, domains.c.name, *columns).where(domains.c.id == claims.scope_id, domains.c.enabled))
    roles = assignments.effective_roles(tx, claims.user_id, claims.scope, claims.scope_id) if found is not None else {}
    if found is None or not roles:
        raise Unauthorized(NO_ACCESS)
    domain = Named(found["domain_id"], found["domain_name"]) if claims.scope == "project" else None
    return Named(found["id"], found["name"]), domain, tuple(Named(uid, name) for uid, name in roles.items())
