"""/v3/auth: tokens, and what a token's user can reach."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.errors import BadRequest, Forbidden, NotFound, Unauthorized
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso_micro
from pileus.identity import domains as domain_rules
from pileus.identity import grants, login
from pileus.identity import projects as project_rules
from pileus.identity.api.domains import show_domain
from pileus.identity.api.forms import NestedReference, Reference, flag, listing
from pileus.identity.api.projects import show_project
from pileus.identity.grants import Grant, Named
from pileus.identity.login import Request, Scope
from pileus.identity.service import Identity
from pileus.identity.tokens import METHODS


class _User(NestedReference):
    password: str | UnsetType = UNSET


class _Password(msgspec.Struct):
    user: _User


class _Token(msgspec.Struct):
    id: str


class _Identity(msgspec.Struct):
    methods: Annotated[list[str], Meta(max_length=16)]
    password: _Password | UnsetType = UNSET
    token: _Token | UnsetType = UNSET


class _Scope(msgspec.Struct):
    project: NestedReference | UnsetType = UNSET
    domain: Reference | UnsetType = UNSET
    unscoped: dict[str, Any] | UnsetType = UNSET
    system: dict[str, Any] | UnsetType = UNSET


class _Auth(msgspec.Struct):
    identity: _Identity
    scope: _Scope | Literal["unscoped"] | UnsetType = UNSET


class _Body(msgspec.Struct):
    auth: _Auth


async def create(identity: Identity, call: Call) -> Reply:
    request = _request((await call.json(_Body)).auth)
    token, grant = await login.issue(identity, request)
    return Reply(201, _shape(identity, call, grant), _headers(token))


async def show(identity: Identity, call: Call) -> Reply:
    token, grant = await _subject(identity, call)
    if not (call.context.is_admin or "service" in call.context.roles or call.context.user_id == grant.user.id):
        raise Forbidden("You are not authorized to perform the requested action: the token is another user's.")
    return Reply(200, _shape(identity, call, grant), _headers(token))


async def revoke(identity: Identity, call: Call) -> Reply:
    _, grant = await _subject(identity, call)
    if not (call.context.is_admin or call.context.user_id == grant.user.id):
        raise Forbidden("You are not authorized to perform the requested action: the token is another user's.")
    await identity.write(grants.revoke, grant.claims)
    return Reply(204)


async def catalog(identity: Identity, call: Call) -> Reply:
    if call.context.project_id is None:
        raise Forbidden("A project-scoped token is required to produce a service catalog.")
    return listing(call, "/v3/auth/catalog", "catalog", identity.catalog)


async def projects(identity: Identity, call: Call) -> Reply:
    found = await identity.read(project_rules.of_user, call.context.user_id, enabled_only=True)
    return listing(call, "/v3/auth/projects", "projects", [show_project(call, row) for row in found])


async def domains(identity: Identity, call: Call) -> Reply:
    found = await identity.read(domain_rules.of_user, call.context.user_id)
    return listing(call, "/v3/auth/domains", "domains", [show_domain(call, row) for row in found])


ROUTES: list[Route[Identity]] = [
    Route("POST", "/v3/auth/tokens", create, "anyone"),
    Route("GET", "/v3/auth/tokens", show, "user"),
    Route("DELETE", "/v3/auth/tokens", revoke, "user"),
    Route("GET", "/v3/auth/catalog", catalog, "user"),
    Route("GET", "/v3/auth/projects", projects, "user"),
    Route("GET", "/v3/auth/domains", domains, "user"),
]


def _request(auth: _Auth) -> Request:
    identity = auth.identity
    unknown = [name for name in identity.methods if name not in METHODS]
    if unknown or not identity.methods:
        raise Unauthorized(f"Attempted to authenticate with an unsupported method; supported: {', '.join(METHODS)}.")
    if "password" in identity.methods and isinstance(identity.password, UnsetType):
        raise BadRequest("Expecting to find password in identity, since methods names it.")
    if "token" in identity.methods and isinstance(identity.token, UnsetType):
        raise BadRequest("Expecting to find token in identity, since methods names it.")
    user, password, token = None, "", None
    if "password" in identity.methods and not isinstance(identity.password, UnsetType):
        named = identity.password.user
        if isinstance(named.password, UnsetType):
            raise BadRequest("Expecting to find password in identity.password.user.")
        user, password = named.ref("identity.password.user"), named.password
    if "token" in identity.methods and not isinstance(identity.token, UnsetType):
        token = identity.token.id
    return Request(user, password, token, _scope(auth.scope))


def _scope(asked: _Scope | Literal["unscoped"] | UnsetType) -> Scope | None:
    if isinstance(asked, UnsetType):
        return None
    if isinstance(asked, str):
        return Scope("unscoped", grants.Ref())
    if sum(value is not UNSET for value in (asked.project, asked.domain, asked.unscoped, asked.system)) != 1:
        raise BadRequest("Expecting to find exactly one of project, domain, unscoped in scope.")
    if not isinstance(asked.project, UnsetType):
        return Scope("project", asked.project.ref("scope.project"))
    if not isinstance(asked.domain, UnsetType):
        return Scope("domain", asked.domain.ref("scope.domain"))
    if asked.system is not UNSET:
        raise Unauthorized("There is no system scope here: take a project in which the user has the admin role.")
    return Scope("unscoped", grants.Ref())


async def _subject(identity: Identity, call: Call) -> tuple[str, Grant]:
    token = call.http.headers.get("x-subject-token")
    if not token:
        raise BadRequest("Expecting to find X-Subject-Token among the headers.")
    try:
        return token, await identity.validate(token)
    except Unauthorized:
        raise NotFound("Could not find token: it is none of ours, or it has ended.") from None


def _headers(token: str) -> dict[str, str]:
    return {"X-Subject-Token": token, "Vary": "X-Auth-Token"}


def _shape(identity: Identity, call: Call, grant: Grant) -> dict[str, Any]:
    claims = grant.claims
    token: dict[str, Any] = {
        "methods": claims.methods,
        "user": {**_within(grant.user, grant.user_domain), "password_expires_at": None},
        "audit_ids": claims.audit_ids,
        "issued_at": f"{iso_micro(claims.issued_at)}Z",
        "expires_at": f"{iso_micro(claims.expires_at)}Z",
    }
    if grant.scope is not None:
        if grant.scope_domain is not None:
            token["project"] = _within(grant.scope, grant.scope_domain)
            token["is_domain"] = False
        else:
            token["domain"] = _named(grant.scope)
        token["roles"] = [_named(role) for role in grant.roles]
        if not flag(call, "nocatalog"):
            token["catalog"] = identity.catalog
    return {"token": token}


def _named(what: Named) -> dict[str, Any]:
    return {"id": what.id, "name": what.name}


def _within(what: Named, domain: Named) -> dict[str, Any]:
    return {"id": what.id, "name": what.name, "domain": _named(domain)}
