"""Giving out tokens: for a password or for another token, with the scope that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from pileus.errors import Unauthorized
from pileus.identity.grants import NO_ACCESS, REFUSED, Grant, Ref, find_scope, login, resolve
from pileus.identity.service import Identity
from pileus.identity.tokens import METHODS, Claims, ScopeKind, new_audit_id
from pileus.store import Tx
from pileus.store.sql import Row


@dataclass(frozen=True)
class Scope:
    kind: ScopeKind
    ref: Ref


@dataclass(frozen=True)
class Request:
    """`user` with `password`, or `token`, or both for the same user. `scope` None: the user's default project, if it can be used."""

    user: Ref | None = None
    password: str = field(default="", repr=False)
    token: str | None = field(default=None, repr=False)
    scope: Scope | None = None


async def issue(identity: Identity, request: Request) -> tuple[str, Grant]:
    """A new token and what it is. Raises Unauthorized, alike for an unknown user, a wrong password and a disabled user."""
    former = await identity.validate(request.token) if request.token is not None else None
    user = await check_password(identity, request.user, request.password) if request.user is not None else None
    if former is not None and user is not None and user["id"] != former.user.id:
        raise Unauthorized(REFUSED)
    now = identity.now()
    grant = await identity.read(_grant, request.scope, former.claims if former is not None else None, user, now, identity.lifetime)
    return identity.seal(grant), grant


async def check_password(identity: Identity, ref: Ref, password: str) -> Row:
    """The user. Raises Unauthorized, in the same time whatever the reason."""
    user = await identity.read(login, ref)
    good = await identity.passwords.matches(user["password_hash"] if user is not None else None, password)
    if user is None or not good or not user["alive"]:
        raise Unauthorized(REFUSED)
    return user


def _grant(tx: Tx, scope: Scope | None, former: Claims | None, user: Row | None, now: float, lifetime: float) -> Grant:
    if former is not None:
        # bound to the first token's end and line, so that a token cannot prolong itself; and to its epoch: a password changed since ends it
        user_id, epoch, expires_at, line = former.user_id, former.user_epoch, former.expires_at, former.audit_ids[-1:]
    else:
        assert user is not None, "a request names a user or a token"
        user_id, epoch, expires_at, line = user["id"], user["token_epoch"], now + lifetime, ()
    used = {*(former.methods if former is not None else ()), *(("token",) if former is not None else ()), *(("password",) if user else ())}
    kind, scope_id = _scope_id(tx, scope, user_id)
    claims = Claims(
        user_id=user_id,
        user_epoch=epoch,
        methods=tuple(name for name in METHODS if name in used),
        scope=kind,
        scope_id=scope_id,
        issued_at=now,
        expires_at=expires_at,
        audit_ids=(new_audit_id(), *line),
    )
    try:
        return resolve(tx, claims)
    except Unauthorized:
        if scope is not None or kind == "unscoped":
            raise
    # a default project that cannot be used is no reason to refuse
    return resolve(tx, msgspec.structs.replace(claims, scope="unscoped", scope_id=None))


def _scope_id(tx: Tx, scope: Scope | None, user_id: str) -> tuple[ScopeKind, str | None]:
    if scope is None:
        user = login(tx, Ref(id=user_id))
        default = user["default_project_id"] if user is not None else None
        return ("project", default) if default else ("unscoped", None)
    if scope.kind == "unscoped":
        return "unscoped", None
    found = find_scope(tx, scope.kind, scope.ref)
    if found is None:
        raise Unauthorized(NO_ACCESS)
    return scope.kind, found
