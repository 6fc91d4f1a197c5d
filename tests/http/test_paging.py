"""limit, marker, sort keys, links; and the pages that come of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, func, insert, select
from starlette.requests import Request

from pileus.context import Context
from pileus.errors import BadRequest
from pileus.http import paging
from pileus.http.face import Call
from pileus.store import paging as store_paging
from pileus.store.paging import Page

TABLE = Table("things", MetaData(), Column("id", String, primary_key=True), Column("size", Integer), Column("name", String))
SORTABLE: dict[str, Any] = {"size": func.coalesce(TABLE.c.size, 0), "name": TABLE.c.name}


def call(query: str) -> Call:
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": []}
    return Call(Request(scope), Context("u"), (0, 0), {}, "http://x/base", 1000, 50)


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("", Page(50, None, (("created_at", "desc"),))),
        ("limit=3&marker=m", Page(3, "m", (("created_at", "desc"),))),
        ("limit=999999", Page(50, None, (("created_at", "desc"),))),
        ("limit=0", Page(0, None, (("created_at", "desc"),))),
        ("marker=", Page(50, None, (("created_at", "desc"),))),
        ("sort_key=name", Page(50, None, (("name", "desc"),))),
        ("sort_key=name&sort_dir=asc&sort_key=size", Page(50, None, (("name", "asc"), ("size", "asc")))),
        ("sort_key=name&sort_dir=asc&sort_key=size&sort_dir=desc", Page(50, None, (("name", "asc"), ("size", "desc")))),
        ("sort=name:asc,size", Page(50, None, (("name", "asc"), ("size", "desc")))),
    ],
)
def test_parse(query: str, page: Page) -> None:
    assert paging.parse(call(query)) == page


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1e3",
        "limit=%D9%A3",
        "limit=9999999999",
        "sort_key=a&sort_dir=up",
        "sort=a:up",
        "sort_key=a&sort_dir=asc&sort_dir=asc",
    ],
)
def test_what_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        paging.parse(call(query))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("1", True), ("no", False), ("0", False)])
def test_booleans(text: str, value: bool) -> None:
    assert paging.boolean(call(f"on={text}"), "on") is value
    assert paging.boolean(call(""), "on") is None
    with pytest.raises(BadRequest, match="expected true or false"):
        paging.boolean(call("on=maybe"), "on")


def test_the_next_link_keeps_the_filters_and_is_there_only_after_a_full_page() -> None:
    asked = call("name=a%26b&limit=2&marker=old")
    page = paging.parse(asked)
    assert paging.next_link(asked, [{"id": "1"}, {"id": "2"}], page, "/things") == "http://x/base/things?name=a%26b&limit=2&marker=2"
    assert paging.next_link(asked, [{"id": "1"}], page, "/things") is None
    assert paging.next_link(call("limit=0"), [], paging.parse(call("limit=0")), "/things") is None


@pytest.mark.parametrize("sorts", [(("size", "asc"),), (("size", "desc"), ("name", "asc")), ()])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_hold_everything_once_and_in_order(sorts: Any, limit: int) -> None:
    items = [{"id": f"i{n}", "size": (None, 1, 2)[n % 3], "name": "ab"[n % 2]} for n in range(12)]
    engine = create_engine("sqlite://")
    with engine.connect() as tx:
        TABLE.metadata.create_all(tx)
        tx.execute(insert(TABLE), items)
        statement = select(TABLE)
        whole = store_paging.fetch(tx, statement, Page(None, None, sorts), id_column=TABLE.c.id, sortable=SORTABLE)
        assert len(whole) == 12
        found: list[Any] = []
        marker = None
        while batch := store_paging.fetch(tx, statement, Page(limit, marker, sorts), id_column=TABLE.c.id, sortable=SORTABLE):
            assert len(batch) <= limit
            found += batch
            marker = batch[-1]["id"]
        assert found == whole
        before = store_paging.fetch(
            tx, statement, Page(limit, whole[-1]["id"], sorts, reverse=True), id_column=TABLE.c.id, sortable=SORTABLE
        )
        assert before == whole[:-1][-limit:]


def test_a_marker_must_be_in_the_filtered_list() -> None:
    with create_engine("sqlite://").connect() as tx:
        TABLE.metadata.create_all(tx)
        tx.execute(insert(TABLE), [{"id": "1", "size": 1, "name": "a"}, {"id": "2", "size": 1, "name": "b"}])
        mine = select(TABLE).where(TABLE.c.name == "a")
        with pytest.raises(BadRequest) as caught:
            store_paging.fetch(tx, mine, Page(1, "2"), id_column=TABLE.c.id, sortable=SORTABLE)
        assert caught.value.kind == "MarkerNotFound"
        with pytest.raises(BadRequest, match="not one of: name, size"):
            store_paging.fetch(tx, mine, Page(1, None, (("password", "asc"),)), id_column=TABLE.c.id, sortable=SORTABLE)
