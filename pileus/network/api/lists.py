"""Lists as Neutron gives them: filters on attributes, fields, sort keys, pages with links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Table, Text, cast, false, or_, select, true

from pileus.context import Context
from pileus.http import paging
from pileus.http.face import Call, Reply
from pileus.network.api.attributes import boolean, integer, invalid
from pileus.store import Store, Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row

Filter = Callable[[str, list[str]], ColumnElement[bool]]
"""(attribute's name, the values asked for: any of them) → condition."""

MOST_VALUES = 50
"""Of a filter that has to look into a list."""

_NOT_FILTERS = frozenset({"fields", "limit", "marker", "sort_key", "sort_dir", "page_reverse"})


@dataclass(frozen=True)
class Resource:
    """How one kind of thing is listed and shown. `decorate` fetches what belongs to a page of rows, in as many statements for
    one row as for a thousand."""

    singular: str
    plural: str
    table: Table
    visible: Callable[[Context], ColumnElement[bool]]
    filters: Mapping[str, Filter]
    sortable: Mapping[str, ColumnElement[Any]]
    decorate: Callable[[Tx, list[Row]], list[Row]]
    shape: Callable[[Row, Context], dict[str, Any]]
    admin_filters: frozenset[str] = frozenset()
    path: str = ""
    """Where it is under /v2.0, if not at its plural."""


@dataclass(frozen=True)
class Asked:
    """A list's query."""

    conditions: Sequence[ColumnElement[bool]]
    page: Page
    fields: Sequence[str]


def asked(call: Call, resource: Resource) -> Asked:
    """Read a list's query. Raises BadRequest."""
    params = call.http.query_params
    conditions = []
    for name in dict.fromkeys(params.keys()):
        if name in _NOT_FILTERS:
            continue
        if name not in resource.filters or (name in resource.admin_filters and not call.context.is_admin):
            raise invalid("filters", f"'{name}' is not a filter of {resource.plural}: {', '.join(sorted(resource.filters))}")
        conditions.append(resource.filters[name](name, params.getlist(name)))
    page = paging.parse(call, default=(), reverse=paging.boolean(call, "page_reverse") or False)
    if not page.limit:
        page = replace(page, limit=call.max_limit)
    page = replace(page, sorts=tuple(dict(reversed(page.sorts)).items())[::-1])  # a key counts where it is named first
    return Asked(conditions, page, params.getlist("fields"))


async def index(store: Store, call: Call, resource: Resource) -> Reply:
    """A list's answer."""
    query = asked(call, resource)
    found = await store.read(find, resource, call.context, query)
    return Reply(200, body(call, resource, query, found))


async def show(store: Store, call: Call, resource: Resource, load: Callable[[Tx, Context, str], Row]) -> Reply:
    """The answer to a GET of one; `load` raises NotFound."""
    row = await store.read(_load, resource, call.context, call.path["id"], load)
    shown = resource.shape(row, call.context)
    return Reply(200, {resource.singular: pick(shown, call.http.query_params.getlist("fields"))})


def created(resource: Resource, call: Call, made: list[Row], *, bulk: bool) -> Reply:
    """The answer to a POST."""
    shown = [resource.shape(row, call.context) for row in made]
    return Reply(201, {resource.plural: shown} if bulk else {resource.singular: shown[0]})


def find(tx: Tx, resource: Resource, context: Context, query: Asked) -> list[Row]:
    statement = select(resource.table).where(resource.visible(context), *query.conditions)
    found = fetch(tx, statement, query.page, id_column=resource.table.c.id, sortable={"id": resource.table.c.id, **resource.sortable})
    return resource.decorate(tx, found)


def body(call: Call, resource: Resource, query: Asked, found: list[Row]) -> dict[str, Any]:
    answer: dict[str, Any] = {resource.plural: [pick(resource.shape(row, call.context), query.fields) for row in found]}
    links = _links(call, resource, query.page, found)
    if links:
        answer[f"{resource.plural}_links"] = links
    return answer


def pick(shown: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only the fields asked for; all without any."""
    wanted = {field for field in fields if field}
    return {name: value for name, value in shown.items() if name in wanted} if wanted else shown


def of_text(column: ColumnElement[Any]) -> Filter:
    return lambda name, values: column.in_(values)


def of_bool(column: ColumnElement[Any]) -> Filter:
    return lambda name, values: column.in_([boolean(name, value) for value in values])


def of_int(column: ColumnElement[Any]) -> Filter:
    return lambda name, values: column.in_([integer(name, value) for value in values])


def of_json(column: ColumnElement[Any]) -> Filter:
    """A JSON list of strings that has one of the values."""

    def condition(name: str, values: list[str]) -> ColumnElement[bool]:
        if len(values) > MOST_VALUES:
            raise invalid(name, f"at most {MOST_VALUES} values")
        return or_(*[cast(column, Text).contains(f'"{value}"', autoescape=True) for value in values])

    return condition


def same(text: str) -> Filter:
    """An attribute that has this value everywhere."""
    return lambda name, values: true() if text in values else false()


def constant(value: bool) -> Filter:
    """An attribute that is the same everywhere."""
    return lambda name, values: true() if value in [boolean(name, asked) for asked in values] else false()


def _load(tx: Tx, resource: Resource, context: Context, of: str, load: Callable[[Tx, Context, str], Row]) -> Row:
    return resource.decorate(tx, [load(tx, context, of)])[0]


def _links(call: Call, resource: Resource, page: Page, found: list[Row]) -> list[dict[str, str]]:
    full = bool(found) and len(found) == page.limit
    links = []
    if found and (full or page.reverse):
        links.append({"rel": "next", "href": _href(call, resource, found[-1]["id"], reverse=False)})
    if found and (page.marker if not page.reverse else full):
        links.append({"rel": "previous", "href": _href(call, resource, found[0]["id"], reverse=True)})
    return links


def _href(call: Call, resource: Resource, marker: str, *, reverse: bool) -> str:
    query = [(key, value) for key, value in call.http.query_params.multi_items() if key not in ("marker", "page_reverse")]
    query.append(("marker", marker))
    if reverse:
        query.append(("page_reverse", "True"))
    return f"{call.base}/v2.0/{resource.path or resource.plural}?{urlencode(query)}"
