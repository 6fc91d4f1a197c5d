"""A connection for rules that are tested on both engines without a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from tests.engines.stores import both, connected, run_in_greenlet

pytest_generate_tests = both


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return run_in_greenlet(pyfuncitem)


@pytest.fixture
def tx(request: pytest.FixtureRequest, engine: str) -> Iterator[Connection]:
    with connected(request, engine) as connection:
        yield connection
