"""Roles of users on projects and domains, and /v3/role_assignments."""

from __future__ import annotations

from typing import Any

from pileus.errors import BadRequest
from pileus.http.face import Call, Handler, Reply, Route
from pileus.identity import assignments
from pileus.identity.api.forms import flag, listing, url
from pileus.identity.api.roles import show_role
from pileus.identity.assignments import Assignment, Kind
from pileus.identity.service import Identity
from pileus.store import Tx

_NOT_OFFERED = ("group.id", "scope.system", "scope.OS-INHERIT:inherited_to")
"""Filters that find nothing, since no assignment has that."""


async def grant(identity: Identity, call: Call) -> Reply:
    await identity.write(assignments.grant, _named(call))
    return Reply(204)


async def revoke(identity: Identity, call: Call) -> Reply:
    await identity.write(assignments.revoke, _named(call))
    return Reply(204)


async def check(identity: Identity, call: Call) -> Reply:
    await identity.read(assignments.check, _named(call))
    return Reply(204)


def _index_on(scope: Kind) -> Handler[Identity]:
    async def index(identity: Identity, call: Call) -> Reply:
        user_id, scope_id = call.path["user"], call.path[scope]
        found = await identity.read(assignments.of, user_id, scope, scope_id)
        path = f"/v3/{scope}s/{scope_id}/users/{user_id}/roles"
        return listing(call, path, "roles", [show_role(call, row) for row in found])

    return index


async def index(identity: Identity, call: Call) -> Reply:
    project_id, domain_id = call.query("scope.project.id"), call.query("scope.domain.id")
    if project_id is not None and domain_id is not None:
        raise BadRequest("Specify a domain or project, not both.")
    if flag(call, "include_subtree"):
        raise BadRequest("include_subtree is not offered; ask for each project.")
    if any(call.query(name) is not None for name in _NOT_OFFERED):
        return listing(call, "/v3/role_assignments", "role_assignments", [])
    scope: Kind | None = "project" if project_id is not None else "domain" if domain_id is not None else None
    found, names = await identity.read(
        _with_names if flag(call, "include_names") else _without_names,
        effective=flag(call, "effective"),
        role_id=call.query("role.id"),
        user_id=call.query("user.id"),
        scope=scope,
        scope_id=project_id or domain_id,
    )
    shaped = [_shape(call, each, names) for each in found]
    return Reply(body={"role_assignments": shaped, "links": {"self": url(call, "/v3/role_assignments"), "previous": None, "next": None}})


def _routes(scope: Kind) -> list[Route[Identity]]:
    path = f"/v3/{scope}s/{{{scope}}}/users/{{user}}/roles"
    return [
        Route("GET", path, _index_on(scope), "admin"),
        Route("PUT", f"{path}/{{role}}", grant, "admin"),
        Route("GET", f"{path}/{{role}}", check, "admin"),
        Route("DELETE", f"{path}/{{role}}", revoke, "admin"),
    ]


ROUTES: list[Route[Identity]] = [*_routes("project"), *_routes("domain"), Route("GET", "/v3/role_assignments", index, "admin")]


def _named(call: Call) -> Assignment:
    scope: Kind = "project" if "project" in call.path else "domain"
    return Assignment(call.path["user"], scope, call.path[scope], call.path["role"])


def _with_names(tx: Tx, /, **filters: Any) -> tuple[list[Assignment], assignments.Names]:
    found = assignments.index(tx, **filters)
    return found, assignments.names(tx, found)


def _without_names(tx: Tx, /, **filters: Any) -> tuple[list[Assignment], assignments.Names]:
    return assignments.index(tx, **filters), {}


def _shape(call: Call, each: Assignment, names: assignments.Names) -> dict[str, Any]:
    path = f"/v3/{each.scope}s/{each.scope_id}/users/{each.user_id}/roles/{each.prior_id or each.role_id}"
    links = {"assignment": call.base + path}
    if each.prior_id is not None:
        links["prior_role"] = f"{call.base}/v3/roles/{each.prior_id}"
    return {
        "role": _thing(each.role_id, names),
        "user": _thing(each.user_id, names),
        "scope": {each.scope: _thing(each.scope_id, names)},
        "links": links,
    }


def _thing(uid: str, names: assignments.Names) -> dict[str, Any]:
    if uid not in names:
        return {"id": uid}
    name, domain_id = names[uid]
    return {"id": uid, "name": name} | ({"domain": {"id": domain_id, "name": names[domain_id][0]}} if domain_id is not None else {})
