"""The security groups of a page of servers, by Neutron's API."""

from __future__ import annotations

from typing import cast

from pileus.clients.rest import Params, Rest
from pileus.compute import neutron_security
from pileus.compute.neutron_api import NeutronApi
from pileus.compute.neutron_facts import PROFILE, Json, Mark, marked


class Asked(NeutronApi):
    """Every server has a port with one of two groups."""

    def __init__(self) -> None:
        super().__init__(cast(Rest, None))
        self.asked: list[str] = []
        self.longest = 0

    async def listed(self, plural: str, params: Params) -> list[Json]:
        self.asked.append(plural)
        of = params["id" if plural == "security-groups" else "device_id"]
        self.longest = max(self.longest, sum(len(f"&device_id={one}") for one in of))
        if plural == "security-groups":
            return [{"id": one, "name": f"name of {one}", "tenant_id": "p"} for one in of]
        mark = {one: marked({}, Mark(server=one)) for one in of}
        return [{"device_id": one, "security_groups": [f"g{index % 2}"], PROFILE: mark[one]} for index, one in enumerate(of)]


async def test_a_thousand_servers_are_a_few_questions() -> None:
    api = Asked()
    ids = [f"{number:036}" for number in range(1000)]
    found = await neutron_security.of_servers(api, ids)
    assert [group.name for group in found[ids[1]]] == ["name of g1"] and len(found) == 1000
    assert (api.asked.count("ports"), api.asked.count("security-groups")) == (7, 1)
    assert api.longest < 8000
