"""The body of a refusal in each service's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pileus.errors import Conflict, NotFound, QuotaExceeded
from pileus.http import faults
from pileus.http.faults import Shape

ERROR = NotFound("no <such> thing")


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (faults.identity, {"error": {"code": 404, "message": "no <such> thing", "title": "Not Found"}}),
        (faults.compute, {"itemNotFound": {"code": 404, "message": "no <such> thing"}}),
        (faults.network, {"NeutronError": {"type": "NotFound", "message": "no <such> thing", "detail": ""}}),
        (
            faults.placement,
            {
                "errors": [
                    {
                        "status": 404,
                        "title": "Not Found",
                        "detail": "no <such> thing",
                        "code": "placement.undefined_code",
                        "request_id": "req-1",
                    }
                ]
            },
        ),
        (faults.image, {"message": "no <such> thing", "code": "404 Not Found", "title": "Not Found"}),
    ],
)
def test_json(shape: Shape, body: dict[str, Any]) -> None:
    status, data, media = shape(ERROR, "req-1", "application/json")
    assert (status, json.loads(data), media) == (404, body, "application/json")


def test_an_image_fault_for_who_wants_no_json_is_an_escaped_page() -> None:
    status, data, media = faults.image(ERROR, "req-1", "*/*")
    assert (status, media) == (404, "text/html; charset=UTF-8")
    assert b"no &lt;such&gt; thing" in data


def test_quotas_are_409_in_the_network_service_and_403_elsewhere() -> None:
    error = QuotaExceeded("full")
    assert faults.network(error, "", "")[0] == 409
    assert json.loads(faults.network(error, "", "")[1])["NeutronError"]["type"] == "OverQuota"
    assert faults.compute(error, "", "")[0] == 403


def test_placement_says_its_own_codes() -> None:
    data = faults.placement(Conflict("again", kind="placement.concurrent_update"), "", "")[1]
    assert json.loads(data)["errors"][0]["code"] == "placement.concurrent_update"


def test_a_status_without_a_name_of_novas_is_a_compute_fault() -> None:
    class Teapot(NotFound):
        status = 418

    assert list(json.loads(faults.compute(Teapot("short and stout"), "", "")[1])) == ["computeFault"]
