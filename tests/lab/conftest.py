from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.browser import Browser, browser, program


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Where it can be installed it must be: tests/test_real_parts.py fails the run."""
    name = program()
    if name is None:
        pytest.skip("Chromium is not installed: tools/install-parts test")
    with browser(name) as started:
        yield started
