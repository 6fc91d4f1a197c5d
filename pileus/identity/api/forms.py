"""What the resources' requests and answers have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from pileus.errors import BadRequest, Forbidden
from pileus.http import paging
from pileus.http.face import Call, Reply, decode
from pileus.identity.grants import Ref
from pileus.store.paging import Page

T = TypeVar("T", bound=msgspec.Struct)

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\S")]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
Description = Annotated[str, Meta(max_length=4096)]
Options = Annotated[dict[str, Any], Meta(max_length=0)]
"""Keystone's resource options. None is offered, so none may be given."""

MAX_EXTRA = 1 << 16
MAX_DEPTH = 16
_MANAGED = frozenset({"id", "links", "is_domain", "password_expires_at"})
"""Attributes that clients send back as they got them; they are not theirs to set."""


class Reference(msgspec.Struct):
    """A domain in a request: by id or by name."""

    id: Id | None = None
    name: Name | None = None

    def ref(self, where: str) -> Ref:
        return Ref(id=self.id, name=None if self.id else _given(self.name, where))


class NestedReference(Reference):
    """A user or project in a request: by id, or by name with its domain."""

    domain: Reference | None = None

    def ref(self, where: str) -> Ref:
        if self.id is not None:
            return Ref(id=self.id)
        if self.domain is None:
            raise BadRequest(f"Expecting to find id, or name with domain, in {where}.")
        domain = self.domain.ref(f"{where}.domain")
        return Ref(name=_given(self.name, where), domain_id=domain.id, domain_name=domain.name)


async def resource(call: Call, key: str, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """The body's one resource, and the attributes beyond `kind`'s own that its author wants kept. Raises BadRequest."""
    data = await call.body()
    whole = decode(data, dict[str, msgspec.Raw])
    if key not in whole:
        raise BadRequest(f"Expecting to find {key} in request body.")
    known = decode(bytes(whole[key]), kind)
    everything = decode(bytes(whole[key]), dict[str, Any])
    own = {*kind.__struct_fields__, *_MANAGED}
    return known, checked({name: value for name, value in everything.items() if name not in own})


def given(struct: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Those of the fields that the request has set."""
    values = {name: getattr(struct, name) for name in names}
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def checked(extra: dict[str, Any]) -> dict[str, Any]:
    """Raises BadRequest for attributes that are too large or too deep to be kept."""
    if _depth(extra) > MAX_DEPTH:
        raise BadRequest(f"Extra attributes may be nested {MAX_DEPTH} levels deep at most.")
    if len(msgspec.json.encode(extra)) > MAX_EXTRA:
        raise BadRequest(f"Extra attributes may take {MAX_EXTRA} bytes at most.")
    if any(not name or len(name) > 255 for name in extra):
        raise BadRequest("The name of an extra attribute has 1 to 255 characters.")
    return extra


def page(call: Call) -> Page:
    return paging.parse(call, default=(("name", "asc"),))


def listing(call: Call, path: str, key: str, items: Sequence[Mapping[str, Any]], asked: Page | None = None) -> Reply:
    """A collection in Keystone's form; `asked` where it comes in pages. A next page stands outside of `links` too: openstacksdk
    overlooks it inside, and would take the first page for everything."""
    following = paging.next_link(call, items, asked, path) if asked is not None else None
    body = {key: items, "links": {"self": url(call, path), "previous": None, "next": following}}
    return Reply(body=body | ({"next": following} if following is not None else {}))


def url(call: Call, path: str) -> str:
    query = call.http.scope["query_string"].decode("latin-1")
    return f"{call.base}{path}?{query}" if query else f"{call.base}{path}"


def flag(call: Call, name: str) -> bool:
    """A query parameter that stands for yes by being there, as Keystone takes it."""
    value = call.query(name)
    return value is not None and value.lower() not in ("0", "false")


def check_self(call: Call, user_id: str) -> None:
    """Raises Forbidden unless the caller is that user or an admin, whether or not there is such a user."""
    if not call.context.is_admin and call.context.user_id != user_id:
        raise Forbidden("You are not authorized to perform the requested action: it is for the user and for admins.")


def _given(name: str | None, where: str) -> str:
    if name is None:
        raise BadRequest(f"Expecting to find id or name in {where}.")
    return name


def _depth(value: Any) -> int:
    """Levels of nesting, counted no further than needed to know that there are too many."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        level, depth = inner, depth + 1
    return depth
