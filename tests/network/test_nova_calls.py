"""The calls that a Nova makes to a Neutron in the life of a server, recorded and answered by our network API.

`data/nova-34-calls.json` was recorded so: nova 34.0.0 with python-neutronclient 14.0.0 from PyPI in a virtual environment of its own; a
cloud (`pileus up --hypervisor simulated`); a project with a network, a subnet and a port of its user's; `nova.network.neutron.API` called
with that user's token, its service user an admin's, and what it keeps in Nova's database (virtual interfaces, the info cache) in memory.
Each request of neutronclient was written down with its status, and every key that Nova read of the answer: `reads`, those that our
answer had; `reads_if_there`, those that it looked for and did without. Ids became names in braces. The scenarios, in this order:
validate_networks, create_resource_requests, allocate_for_instance (one network, one given port, one security group), get_instance_nw_info
with force_refresh (healing) and for one port (network-changed), the security groups of GET /servers, get_requested_resource_for_instance,
migrate_instance_finish, unbind_ports, deallocate_for_instance. Binding a port twice (`binding-extended`) is not offered, so Nova does not
ask for it; floating IPs are not offered, which it takes as none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from tests.network.conftest import Client

RECORD = Path(__file__).parent / "data" / "nova-34-calls.json"
PLACES = re.compile(r"[^.\[\]]+|\[\]")


def filled(value: Any, names: dict[str, str]) -> Any:
    """The recorded value with the ids of this run."""
    if isinstance(value, dict):
        return {key: filled(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, names) for each in value]
    return re.sub(r"\{[a-z ]+\}", lambda match: names[match[0]], value) if isinstance(value, str) else value


def holds(answer: Any, place: str) -> bool:
    """Has the answer, at some item of its lists, this key?"""
    found = [answer]
    for part in PLACES.findall(place):
        deeper: list[Any] = []
        for each in found:
            if part == "[]":
                deeper += each
            elif part in each:
                deeper.append(each[part])
        found = deeper
    return bool(found)


async def prepared(client: Client) -> dict[str, str]:
    """What the recording had, and the names of it."""
    user = client.as_("alice")
    network, subnet = await user.network(cidr="10.9.0.0/24")
    await user.put(
        f"/v2.0/subnets/{subnet['id']}",
        {"subnet": {"dns_nameservers": ["192.0.2.53"], "host_routes": [{"destination": "192.0.2.0/24", "nexthop": "10.9.0.9"}]}},
    )
    given = await user.port(network, name="given")
    group = (await user.post("/v2.0/security-groups", {"security_group": {"name": "web"}}))["security_group"]
    return {
        "{network}": network["id"],
        "{subnet}": subnet["id"],
        "{given}": given["id"],
        "{given address}": given["fixed_ips"][0]["ip_address"],
        "{default group}": given["security_groups"][0],
        "{group}": group["id"],
        "{server}": "5ad2ba0f-2a2c-4cb4-a9de-5b3ad6b9a2aa",
        "{project}": "p-alice",
    }


async def test_what_nova_asks_is_answered_rightly(client: Client) -> None:
    names = await prepared(client)
    record = msgspec.json.decode(RECORD.read_bytes())
    healing: list[dict[str, Any]] = []
    for call in record["calls"]:
        query = [(key, filled(value, names)) for key, value in call["query"]]
        answer = await client.session.request(
            call["method"],
            filled(call["path"], names),
            params=query,
            content=msgspec.json.encode(filled(call["body"], names)) if "body" in call else None,
            headers={"X-Auth-Token": "alice" if call["as"] == "user" else "service"},
        )
        assert answer.status_code == call["status"], (call, answer.text)
        found = answer.json() if answer.content else {}
        if call["method"] == "POST":
            names["{made}"], names["{made address}"] = found["port"]["id"], found["port"]["fixed_ips"][0]["ip_address"]
        assert [place for place in call.get("reads", []) if not holds(found, place)] == [], call
        if call["scenario"] == "heal":
            healing.append(found)
    assert {port["id"] for port in healing[0]["ports"]} == {names["{made}"], names["{given}"]}
    assert [network["id"] for network in healing[1]["networks"]] == [names["{network}"]]
    assert [found["subnets"][0]["id"] for found in healing if "subnets" in found] == [names["{subnet}"]] * 2
    left = (await client.get("/v2.0/ports", network_id=names["{network}"]))["ports"]
    assert [(port["device_owner"], port["device_id"]) for port in left if port["id"] == names["{given}"]] == [("", "")]
    assert names["{made}"] not in {port["id"] for port in left}


def test_the_record_is_of_a_whole_life() -> None:
    record = msgspec.json.decode(RECORD.read_bytes())
    assert record["nova"] == "34.0.0"
    counts: dict[str, int] = {}
    for call in record["calls"]:
        counts[call["scenario"]] = counts.get(call["scenario"], 0) + 1
    assert counts.keys() >= {"validate", "boot", "heal", "network-changed", "migrate", "delete"}
    assert counts["heal"] == 2 + 2 * 4  # two ports with one address each: see pileus/compute/neutron_healing.py
