"""/os-keypairs: a user's SSH keys; admins act for other users since 2.10."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from msgspec import UNSET, UnsetType

from pileus.compute import keypairs
from pileus.compute.api import forms
from pileus.compute.api.shape import add_next, micro, number_of
from pileus.compute.service import Compute
from pileus.errors import BadRequest, Forbidden
from pileus.http import paging
from pileus.http.face import Call, Reply, Route
from pileus.store.paging import Page
from pileus.store.sql import Row

MOST_KEY = 16383
_SAFE = re.compile(r"^[_\- a-zA-Z0-9]+\Z")
_SAFE_292 = re.compile(r"^[_\-@. a-zA-Z0-9]+\Z")


class NewKeypair(forms.Body):
    name: str
    public_key: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET


class CreateKeypair(forms.Body):
    keypair: NewKeypair


async def create_keypair(compute: Compute, call: Call) -> Reply:
    given = (await call.json(CreateKeypair)).keypair
    _check(call, given)
    user_id = _user(call, None if given.user_id is UNSET else given.user_id)
    private: str | None = None
    if given.public_key is UNSET:
        private, public = await asyncio.to_thread(keypairs.generate)
    else:
        public = given.public_key
    row = await compute.store.write(
        keypairs.create,
        compute.settings.quota,
        user_id=user_id,
        project_id=call.context.project,
        name=given.name,
        public_key=public,
        mark=keypairs.fingerprint(public),
    )
    view = _brief(call, row) | {"user_id": user_id}
    return Reply(201 if call.since(2, 2) else 200, {"keypair": view if private is None else view | {"private_key": private}})


async def list_keypairs(compute: Compute, call: Call) -> Reply:
    known = [*(["user_id"] if call.since(2, 10) else []), *(["limit", "marker"] if call.since(2, 35) else [])]
    forms.known_query(call, known)
    page = Page(limit=call.max_limit, sorts=(("name", "asc"),))
    if call.since(2, 35):
        asked = paging.parse(call)
        page = Page(asked.limit, asked.marker, page.sorts)
    found = await compute.store.read(keypairs.page, _asked_user(call), page)
    body: dict[str, Any] = {"keypairs": [{"keypair": _brief(call, row)} for row in found]}
    return Reply(body=add_next(body, call, found, page, "/os-keypairs", "keypairs_links", key="name") if call.since(2, 35) else body)


async def show_keypair(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(keypairs.get, _asked_user(call), call.path["name"])
    view = _brief(call, row) | {
        "user_id": row["user_id"],
        "created_at": micro(row["created_at"]),
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
        "id": number_of(f"{row['user_id']}/{row['name']}"),
    }
    return Reply(body={"keypair": view})


async def delete_keypair(compute: Compute, call: Call) -> Reply:
    await compute.store.write(keypairs.delete, _asked_user(call), call.path["name"])
    return Reply(204 if call.since(2, 2) else 202)


def _check(call: Call, given: NewKeypair) -> None:
    for key, since in (("type", (2, 2)), ("user_id", (2, 10))):
        if getattr(given, key) is not UNSET and call.version < since:
            raise BadRequest(f"Additional properties are not allowed ({key!r} was unexpected)")
    if given.type not in (UNSET, "ssh", "x509"):
        raise forms.invalid("type", given.type, "expected ssh")
    if given.type == "x509":
        raise BadRequest("type: x509 certificates are not offered; use ssh")
    forms.name(given.name)
    if not (_SAFE_292 if call.since(2, 92) else _SAFE).match(given.name):
        raise forms.invalid("name", given.name, "Keypair name contains unsafe characters")
    if given.public_key is UNSET:
        if call.since(2, 92):
            raise BadRequest("Invalid input for field/attribute keypair. 'public_key' is a required property")
    elif not 1 <= len(given.public_key) <= MOST_KEY:
        raise forms.invalid("public_key", given.public_key, f"expected 1 to {MOST_KEY} characters")


def _asked_user(call: Call) -> str:
    return _user(call, call.query("user_id") if call.since(2, 10) else None)


def _user(call: Call, asked: str | None) -> str:
    """Whose keys: the caller's, or for an admin another user's."""
    if asked is None or asked == call.context.user_id:
        return call.context.user_id
    if not call.context.is_admin:
        raise Forbidden("Policy doesn't allow another user's keypairs: it needs the admin role.")
    return asked


def _brief(call: Call, row: Row) -> dict[str, Any]:
    keys = ("name", "public_key", "fingerprint", "type") if call.since(2, 2) else ("name", "public_key", "fingerprint")
    return {key: row[key] for key in keys}


ROUTES = [
    Route("GET", "/v2.1/os-keypairs", list_keypairs, "reader"),
    Route("POST", "/v2.1/os-keypairs", create_keypair, "reader"),
    Route("GET", "/v2.1/os-keypairs/{name}", show_keypair, "reader"),
    Route("DELETE", "/v2.1/os-keypairs/{name}", delete_keypair, "reader"),
]
