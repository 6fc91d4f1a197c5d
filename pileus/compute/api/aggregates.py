"""/os-aggregates: there are none and none can be made. `openstack hypervisor show` reads this list, and fails without it."""

from __future__ import annotations

from pileus.compute.service import Compute
from pileus.http.face import Call, Reply, Route


async def list_aggregates(compute: Compute, call: Call) -> Reply:
    return Reply(body={"aggregates": []})


ROUTES = [Route("GET", "/v2.1/os-aggregates", list_aggregates, "admin")]
