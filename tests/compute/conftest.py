"""Both engines: a connection for rules that are tested without a store, and a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.engines.stores import ENGINES, AnyStore, both, connected, opened, run_in_greenlet

pytest_generate_tests = both


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return run_in_greenlet(pyfuncitem)


@pytest.fixture
def tx(request: pytest.FixtureRequest, engine: str) -> Iterator[Connection]:
    with connected(request, engine) as connection:
        yield connection


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStore]:
    async with opened(request, request.param, tmp_path) as opened_store:
        yield opened_store
