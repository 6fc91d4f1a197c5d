"""/v3/users."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from pileus.errors import Unauthorized
from pileus.http.face import Call, Reply, Route
from pileus.http.paging import boolean
from pileus.identity import login, projects, users
from pileus.identity.api.forms import Description, Id, Name, Options, check_self, given, listing, page, resource
from pileus.identity.api.projects import show_project
from pileus.identity.grants import REFUSED, Ref
from pileus.identity.passwords import MAX_LENGTH
from pileus.identity.service import Identity
from pileus.store.sql import Row

Password = Annotated[str, Meta(min_length=1, max_length=MAX_LENGTH)]


class _Create(Struct):
    name: Name
    domain_id: Id | None = None
    password: Password | None = None
    default_project_id: Id | None = None
    description: Description | UnsetType | None = UNSET
    enabled: bool = True
    options: Options = {}


class _Update(Struct):
    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    password: Password | UnsetType | None = UNSET
    default_project_id: Id | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options = {}


class _NewPassword(Struct):
    original_password: Annotated[str, Meta(max_length=MAX_LENGTH)]
    password: Password


class _PasswordBody(Struct):
    user: _NewPassword


async def create(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "user", _Create)
    values = {
        "domain_id": new.domain_id or call.context.domain_id or call.context.user_domain_id,
        "name": new.name,
        "password_hash": await identity.passwords.hash(new.password) if new.password is not None else None,
        "default_project_id": new.default_project_id,
        "enabled": new.enabled,
        "extra": extra | given(new, "description"),
    }
    return Reply(201, {"user": show_user(call, await identity.write(users.create, values))})


async def index(identity: Identity, call: Call) -> Reply:
    asked = page(call)
    filters = {name: call.query(name) for name in ("name", "domain_id")} | {"enabled": boolean(call, "enabled")}
    found = await identity.read(users.index, asked, filters)
    return listing(call, "/v3/users", "users", [show_user(call, row) for row in found], asked)


async def show(identity: Identity, call: Call) -> Reply:
    check_self(call, call.path["user"])
    return Reply(body={"user": show_user(call, await identity.read(users.show, call.path["user"]))})


async def update(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "user", _Update)
    values = given(new, "name", "domain_id", "default_project_id", "enabled")
    if not isinstance(new.password, UnsetType):
        values["password_hash"] = await identity.passwords.hash(new.password) if new.password is not None else None
    row = await identity.write(users.change, call.path["user"], values, extra | given(new, "description"))
    return Reply(body={"user": show_user(call, row)})


async def remove(identity: Identity, call: Call) -> Reply:
    await identity.write(users.remove, call.path["user"])
    return Reply(204)


async def change_password(identity: Identity, call: Call) -> Reply:
    """For who knows the old password; no token is needed, as in Keystone. All of the user's tokens end."""
    new = (await call.json(_PasswordBody)).user
    user = await login.check_password(identity, Ref(id=call.path["user"]), new.original_password)
    hashed = await identity.passwords.hash(new.password)
    if not await identity.write(users.change_password, user["id"], user["password_hash"], hashed):
        raise Unauthorized(REFUSED)
    return Reply(204)


async def list_projects(identity: Identity, call: Call) -> Reply:
    user_id = call.path["user"]
    check_self(call, user_id)
    await identity.read(users.show, user_id)
    found = await identity.read(projects.of_user, user_id, enabled_only=False)
    return listing(call, f"/v3/users/{user_id}/projects", "projects", [show_project(call, row) for row in found])


ROUTES: list[Route[Identity]] = [
    Route("GET", "/v3/users", index, "admin"),
    Route("POST", "/v3/users", create, "admin"),
    Route("GET", "/v3/users/{user}", show, "user"),
    Route("PATCH", "/v3/users/{user}", update, "admin"),
    Route("DELETE", "/v3/users/{user}", remove, "admin"),
    Route("POST", "/v3/users/{user}/password", change_password, "anyone"),
    Route("GET", "/v3/users/{user}/projects", list_projects, "user"),
]


def show_user(call: Call, row: Row) -> dict[str, Any]:
    own = {key: row[key] for key in ("id", "name", "domain_id", "enabled")}
    default = {"default_project_id": row["default_project_id"]} if row["default_project_id"] is not None else {}
    fixed: dict[str, Any] = {"password_expires_at": None, "options": {}}
    return {**row["extra"], **own, **default, **fixed, "links": {"self": f"{call.base}/v3/users/{row['id']}"}}
