"""Many at once, about the same thing: exactly as many get it as there is, the others are refused, and nothing is left behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.blackbox.cloud import Person, fresh

Together = Callable[[int, Callable[[int], httpx.Response]], Counter[int]]


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    """Asks so often, all at the same time; how often each status came."""
    with ThreadPoolExecutor(20) as pool:
        yield lambda times, ask: Counter(answer.status_code for answer in pool.map(ask, range(times)))


@pytest.fixture(scope="module")
def network(member: Person) -> Iterator[str]:
    made: str = member.network("10.70.0.0/24")["id"]
    yield made
    member.delete("network", f"/v2.0/networks/{made}")


def boot(person: Person, networks: Any, name: str = "s") -> httpx.Response:
    body = {"name": name, "flavorRef": "1", "networks": networks}
    return person.call("POST", "compute", "/v2.1/servers", {"server": body}, version="2.37")


def test_one_address_one_port(member: Person, network: str, together: Together) -> None:
    body = {"port": {"network_id": network, "name": "raced", "fixed_ips": [{"ip_address": "10.70.0.50"}]}}
    assert together(20, lambda _: member.call("POST", "network", "/v2.0/ports", body)) == {201: 1, 409: 19}
    (made,) = member.get("network", "/v2.0/ports", params={"name": "raced"})["ports"]
    member.delete("network", f"/v2.0/ports/{made['id']}")


def test_one_range_one_subnet(member: Person, together: Together) -> None:
    made = member.network(None)["id"]
    body = {"subnet": {"network_id": made, "cidr": "10.71.0.0/24", "ip_version": 4}}
    assert together(20, lambda _: member.call("POST", "network", "/v2.0/subnets", body)) == {201: 1, 400: 19}
    member.delete("network", f"/v2.0/networks/{made}")


def test_one_name_one_project_key_and_upload(admin: Person, member: Person, together: Together) -> None:
    name = fresh("raced")
    project, key = {"project": {"name": name}}, {"keypair": {"name": name}}
    assert together(10, lambda _: admin.call("POST", "identity", "/v3/projects", project)) == {201: 1, 409: 9}
    assert together(10, lambda _: member.call("POST", "compute", "/v2.1/os-keypairs", key)) == {200: 1, 409: 9}
    image_id = member.post("image", "/v2/images", {"disk_format": "raw", "container_format": "bare"})["id"]
    path, headers = f"/v2/images/{image_id}/file", {"Content-Type": "application/octet-stream"}
    sent = together(10, lambda turn: member.call("PUT", "image", path, content=bytes([turn]) * 100_000, headers=headers))
    assert sent == {204: 1, 409: 9}
    assert len(set(member.call("GET", "image", path).content)) == 1
    member.delete("image", f"/v2/images/{image_id}")


def test_a_quota_is_never_passed(admin: Person, member: Person, network: str, together: Together) -> None:
    admin.ask("PUT", "compute", f"/v2.1/os-quota-sets/{member.project_id}", {"quota_set": {"instances": 5}})
    try:
        assert together(20, lambda _: boot(member, [{"uuid": network}])) == {202: 5, 403: 15}
        made = [row["id"] for row in member.get("compute", "/v2.1/servers")["servers"]]
        assert [member.settled(server)["status"] for server in made] == ["ACTIVE"] * 5
        member.gone(*made)
    finally:
        admin.delete("compute", f"/v2.1/os-quota-sets/{member.project_id}")


def test_one_port_one_server(member: Person, network: str, together: Together) -> None:
    port = member.post("network", "/v2.0/ports", {"port": {"network_id": network}})["port"]["id"]
    together(10, lambda _: boot(member, [{"port": port}]))
    made = [member.settled(row["id"]) for row in member.get("compute", "/v2.1/servers")["servers"]]
    assert Counter(server["status"] for server in made)["ACTIVE"] == 1
    assert {port in server["fault"]["message"] for server in made if server["status"] == "ERROR"} <= {True}
    member.gone(*[server["id"] for server in made])
    assert member.get("network", f"/v2.0/ports/{port}")["port"]["device_id"] == ""
    member.delete("network", f"/v2.0/ports/{port}")


def test_servers_deleted_while_they_are_made(admin: Person, member: Person, network: str, together: Together) -> None:
    made: list[str] = []

    def make_and_delete(turn: int) -> httpx.Response:
        server = boot(member, [{"uuid": network}]).json()["server"]["id"]
        made.append(server)
        time.sleep(turn * 0.002)  # a little later each: every step of the boot is met
        return member.call("DELETE", "compute", f"/v2.1/servers/{server}")

    assert together(40, make_and_delete) == {204: 40}
    member.gone_by_itself(*made)
    assert member.get("compute", "/v2.1/limits")["limits"]["absolute"]["totalInstancesUsed"] == 0
    assert admin.get("placement", "/usages", params={"project_id": member.project_id}, version="1.9")["usages"] == {}
    ports = member.get("network", "/v2.0/ports", params={"network_id": network})["ports"]
    assert {port["device_owner"] for port in ports} <= {"network:dhcp"}


def test_actions_at_once_are_in_order(member: Person, together: Together) -> None:
    server = member.server()["id"]
    actions = [{"os-stop": None}, {"os-start": None}, {"pause": None}, {"unpause": None}]
    path = f"/v2.1/servers/{server}/action"
    taken = together(60, lambda turn: member.call("POST", "compute", path, actions[turn % 4]))
    assert set(taken) <= {202, 409} and taken[202] >= 1
    assert member.settled(server)["status"] in ("ACTIVE", "SHUTOFF", "PAUSED")
    done = member.get("compute", f"/v2.1/servers/{server}/os-instance-actions", version="2.96")["instanceActions"]
    assert len(done) == taken[202] + 1 and {action["message"] for action in done} == {None}
    metadata = f"/v2.1/servers/{server}/metadata"
    assert together(20, lambda turn: member.call("POST", "compute", metadata, {"metadata": {f"k{turn}": "v"}})) == {200: 20}
    assert len(member.get("compute", metadata)["metadata"]) == 20
    assert set(together(20, lambda _: member.call("DELETE", "compute", f"/v2.1/servers/{server}"))) <= {204, 404}
    member.gone_by_itself(server)
