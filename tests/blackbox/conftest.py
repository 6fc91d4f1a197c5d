"""One cloud of three simulated hosts for this folder, and the people who use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.blackbox.cloud import Cloud, Person, hire, running


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running(tmp_path_factory.mktemp("blackbox"), "--hosts", "3") as started:
        yield started


@pytest.fixture(scope="session")
def admin(cloud: Cloud) -> Person:
    return cloud.admin()


@pytest.fixture(scope="module")
def people(cloud: Cloud, admin: Person) -> dict[str, Person]:
    """A project's `member` and `reader`, a module's own."""
    return hire(cloud, admin, {"member": "member", "reader": "reader"})


@pytest.fixture(scope="module")
def member(people: dict[str, Person]) -> Person:
    return people["member"]


@pytest.fixture(scope="module")
def reader(people: dict[str, Person]) -> Person:
    return people["reader"]


@pytest.fixture(scope="module")
def stranger(cloud: Cloud, admin: Person) -> Person:
    """A member of another project."""
    return hire(cloud, admin, {"stranger": "member"})["stranger"]
