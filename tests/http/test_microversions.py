"""Microversions as the API-SIG wants them."""

from __future__ import annotations

import pytest

from pileus.errors import BadRequest, NotAcceptable
from pileus.http.microversions import Microversions, Version

SPEAKS = Microversions("compute", (2, 1), (2, 96), legacy="X-OpenStack-Nova-API-Version")


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({}, (2, 1)),
        ({"openstack-api-version": "compute 2.96"}, (2, 96)),
        ({"openstack-api-version": "COMPUTE 2.5"}, (2, 5)),
        ({"openstack-api-version": "volume 3.1, compute 2.7"}, (2, 7)),
        ({"openstack-api-version": "volume 3.1"}, (2, 1)),
        ({"openstack-api-version": "compute latest"}, (2, 96)),
        ({"x-openstack-nova-api-version": "2.40"}, (2, 40)),
        ({"x-openstack-nova-api-version": "latest"}, (2, 96)),
        ({"openstack-api-version": "compute 2.9", "x-openstack-nova-api-version": "2.40"}, (2, 9)),
    ],
)
def test_asked(headers: dict[str, str], version: Version) -> None:
    assert SPEAKS.asked(headers) == version


@pytest.mark.parametrize("text", ["2.0", "2.97", "1.1", "3.1", "2.9999"])
def test_outside(text: str) -> None:
    with pytest.raises(NotAcceptable, match=r"2\.1 and maximum is 2\.96"):
        SPEAKS.asked({"openstack-api-version": f"compute {text}"})


@pytest.mark.parametrize("text", ["2", "2.01", "two", "2.1.1", "-2.1", "2.99999", "٢.١", "Latest"])
def test_no_version(text: str) -> None:
    with pytest.raises(BadRequest):
        SPEAKS.asked({"openstack-api-version": f"compute {text}"})


def test_without_a_legacy_header() -> None:
    placement = Microversions("placement", (1, 0), (1, 39))
    assert placement.asked({"x-openstack-nova-api-version": "2.40"}) == (1, 0)
    assert placement.headers((1, 39)) == {"OpenStack-API-Version": "placement 1.39", "Vary": "OpenStack-API-Version"}
