"""A test for each microversion that changes something here: the version before it, and the version itself."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from pileus.placement.api.versions import MICROVERSIONS
from tests.placement.conftest import at
from tests.placement.test_api import C1, C2, OWNER, RP, detail, hold, make

ALLOCATIONS = {"allocations": {RP: {"resources": {"VCPU": 1}}}}
AS_LIST = {"allocations": [{"resource_provider": {"uuid": RP}, "resources": {"VCPU": 1}}]}


async def status(client: httpx.AsyncClient, version: str, method: str, path: str, body: Any = None) -> int:
    return (await client.request(method, path, json=body, headers=at(version))).status_code


async def body(client: httpx.AsyncClient, version: str, path: str) -> Any:
    return (await client.get(path, headers=at(version))).json()


def test_there_is_a_row_for_each() -> None:
    assert list(MICROVERSIONS) == [(1, minor) for minor in range(40)]
    assert all(MICROVERSIONS.values())


@pytest.mark.parametrize(
    ("asked", "answer"), [("1.0", 200), ("1.39", 200), ("latest", 200), ("1.40", 406), ("2.0", 406), ("0.9", 400), ("x", 400)]
)
async def test_negotiation(client: httpx.AsyncClient, asked: str, answer: int) -> None:
    found = await client.get("/resource_providers", headers=at(asked))
    assert found.status_code == answer
    if answer == 200:
        spoken = "1.39" if asked == "latest" else asked
        assert found.headers["OpenStack-API-Version"] == f"placement {spoken}"


async def test_without_a_version_it_is_the_first(client: httpx.AsyncClient) -> None:
    del client.headers["OpenStack-API-Version"]
    assert (await client.get("/resource_providers")).headers["OpenStack-API-Version"] == "placement 1.0"


@pytest.mark.parametrize(
    ("before", "since", "method", "path", "absent", "there"),
    [
        ("1.1", "1.2", "GET", "/resource_classes", 404, 200),
        ("1.4", "1.5", "DELETE", f"/resource_providers/{RP}/inventories", 405, 204),
        ("1.8", "1.9", "GET", "/usages?project_id=p", 404, 200),
        ("1.9", "1.10", "GET", "/allocation_candidates?resources=VCPU:1", 404, 200),
        ("1.12", "1.13", "POST", "/allocations", 404, 400),
        ("1.3", "1.4", "GET", "/resource_providers?resources=VCPU:1", 400, 200),
        ("1.15", "1.16", "GET", "/allocation_candidates?resources=VCPU:1&limit=1", 400, 200),
        ("1.37", "1.38", "GET", "/usages?project_id=p&consumer_type=all", 400, 200),
    ],
)
async def test_routes_and_parameters_that_came_later(
    client: httpx.AsyncClient, before: str, since: str, method: str, path: str, absent: int, there: int
) -> None:
    await make(client)
    assert await status(client, before, method, path, {} if method == "POST" else None) == absent
    assert await status(client, since, method, path, {} if method == "POST" else None) == there


async def test_1_7_put_of_a_class(client: httpx.AsyncClient) -> None:
    await client.post("/resource_classes", json={"name": "CUSTOM_A"})
    await client.post("/resource_classes", json={"name": "CUSTOM_C"})
    await make(client, CUSTOM_A=2)
    await hold(client, CUSTOM_A=1)
    renamed = await client.put("/resource_classes/CUSTOM_A", json={"name": "CUSTOM_B"}, headers=at("1.6"))
    assert renamed.status_code == 200 and renamed.json()["name"] == "CUSTOM_B"
    assert (await body(client, "1.39", f"/resource_providers/{RP}/usages"))["usages"] == {"CUSTOM_B": 1}
    assert list((await body(client, "1.39", f"/allocations/{C1}"))["allocations"][RP]["resources"]) == ["CUSTOM_B"]
    assert await status(client, "1.6", "PUT", "/resource_classes/CUSTOM_B", {"name": "CUSTOM_C"}) == 409
    assert await status(client, "1.6", "PUT", "/resource_classes/VCPU", {"name": "CUSTOM_D"}) == 400
    assert await status(client, "1.6", "PUT", "/resource_classes/CUSTOM_NONE", {"name": "CUSTOM_D"}) == 404
    assert await status(client, "1.7", "PUT", "/resource_classes/CUSTOM_E") == 201
    assert await status(client, "1.7", "PUT", "/resource_classes/CUSTOM_E") == 204


async def test_1_8_and_1_12_forms_of_allocations(client: httpx.AsyncClient) -> None:
    await make(client)
    path = f"/allocations/{C1}"
    assert await status(client, "1.7", "PUT", path, {**AS_LIST, **OWNER}) == 400
    assert await status(client, "1.7", "PUT", path, AS_LIST) == 204
    assert (await body(client, "1.12", path))["project_id"] == "00000000-0000-0000-0000-000000000000"
    assert await status(client, "1.8", "PUT", path, AS_LIST) == 400
    assert await status(client, "1.11", "PUT", path, {**AS_LIST, **OWNER}) == 204
    assert await status(client, "1.11", "PUT", path, {**ALLOCATIONS, **OWNER}) == 400
    assert await status(client, "1.12", "PUT", path, {**AS_LIST, **OWNER}) == 400
    assert await status(client, "1.12", "PUT", path, {**ALLOCATIONS, **OWNER}) == 204
    assert set(await body(client, "1.11", path)) == {"allocations"}
    assert set(await body(client, "1.12", path)) == {"allocations", "project_id", "user_id"}


async def test_1_11_links(client: httpx.AsyncClient) -> None:
    await make(client)
    for version, relations in (("1.10", {"self", "inventories", "usages"}), ("1.11", {"self", "inventories", "usages", "allocations"})):
        assert {link["rel"] for link in (await body(client, version, f"/resource_providers/{RP}"))["links"]} == relations


async def test_1_12_and_1_34_candidates(client: httpx.AsyncClient) -> None:
    await make(client)
    path = "/allocation_candidates?resources=VCPU:1"
    assert (await body(client, "1.11", path))["allocation_requests"] == [AS_LIST]
    assert (await body(client, "1.33", path))["allocation_requests"] == [ALLOCATIONS]
    assert (await body(client, "1.34", path))["allocation_requests"] == [{**ALLOCATIONS, "mappings": {"": [RP]}}]


async def test_1_13_and_1_28_empty_allocations(client: httpx.AsyncClient) -> None:
    await make(client)
    await hold(client)
    empty = {"allocations": {}, **OWNER}
    assert await status(client, "1.27", "PUT", f"/allocations/{C1}", empty) == 400
    assert await status(client, "1.27", "POST", "/allocations", {C1: empty}) == 204
    await hold(client)
    assert await status(client, "1.28", "PUT", f"/allocations/{C1}", {**empty, "consumer_generation": 1}) == 204
    assert (await body(client, "1.39", f"/allocations/{C1}"))["allocations"] == {}


async def test_1_14_parents(client: httpx.AsyncClient) -> None:
    await make(client)
    path = f"/resource_providers/{RP}"
    assert "root_provider_uuid" not in await body(client, "1.13", path)
    shown = await body(client, "1.14", path)
    assert (shown["root_provider_uuid"], shown["parent_provider_uuid"]) == (RP, None)
    assert await status(client, "1.13", "PUT", path, {"name": "x", "parent_provider_uuid": None}) == 400
    assert await status(client, "1.14", "PUT", path, {"name": "x", "parent_provider_uuid": None}) == 200


async def test_1_15_dates(client: httpx.AsyncClient) -> None:
    await make(client)
    await hold(client)
    for path in (
        "/",
        "/resource_providers",
        f"/resource_providers/{RP}",
        f"/resource_providers/{RP}/inventories",
        f"/resource_providers/{RP}/inventories/VCPU",
        f"/resource_providers/{RP}/usages",
        f"/resource_providers/{RP}/allocations",
        f"/allocations/{C1}",
        f"/allocations/{C2}",
        "/usages?project_id=p",
        "/allocation_candidates?resources=VCPU:1",
        "/resource_classes",
        "/resource_classes/VCPU",
    ):
        before = (await client.get(path, headers=at("1.14"))).headers
        assert "Last-Modified" not in before and "Cache-Control" not in before
        since = (await client.get(path, headers=at("1.15"))).headers
        assert since["Last-Modified"].endswith("GMT") and since["Cache-Control"] == "no-cache"


async def test_1_17_1_27_and_1_29_summaries(client: httpx.AsyncClient) -> None:
    await make(client)
    path = "/allocation_candidates?resources=VCPU:1"
    assert (await body(client, "1.16", path))["provider_summaries"][RP] == {"resources": {"VCPU": {"capacity": 8, "used": 0}}}
    assert (await body(client, "1.17", path))["provider_summaries"][RP]["traits"] == []
    assert set((await body(client, "1.26", path))["provider_summaries"][RP]["resources"]) == {"VCPU"}
    assert set((await body(client, "1.27", path))["provider_summaries"][RP]["resources"]) == {"VCPU", "MEMORY_MB"}
    assert set((await body(client, "1.28", path))["provider_summaries"][RP]) == {"resources", "traits"}
    assert (await body(client, "1.29", path))["provider_summaries"][RP]["root_provider_uuid"] == RP


async def test_1_20_making_a_provider(client: httpx.AsyncClient) -> None:
    old = await client.post("/resource_providers", json={"name": "a"}, headers=at("1.19"))
    assert old.status_code == 201 and old.content == b"" and "/resource_providers/" in old.headers["Location"]
    new = await client.post("/resource_providers", json={"name": "b"}, headers=at("1.20"))
    assert new.status_code == 200 and new.headers["Location"].endswith(new.json()["uuid"])


async def test_1_26_all_of_it_reserved(client: httpx.AsyncClient) -> None:
    await client.post("/resource_providers", json={"name": "a", "uuid": RP})
    inventory = {"resource_class": "VCPU", "total": 4, "reserved": 4}
    refused = await client.post(f"/resource_providers/{RP}/inventories", json=inventory, headers=at("1.25"))
    assert refused.status_code == 400 and "as much as the capacity" in detail(refused)
    assert await status(client, "1.26", "POST", f"/resource_providers/{RP}/inventories", inventory) == 201


async def test_1_28_consumer_generation(client: httpx.AsyncClient) -> None:
    await make(client)
    path, old = f"/allocations/{C1}", {**ALLOCATIONS, **OWNER}
    assert await status(client, "1.27", "PUT", path, {**old, "consumer_generation": None}) == 400
    assert await status(client, "1.27", "PUT", path, old) == 204
    assert await status(client, "1.28", "PUT", path, old) == 400
    assert await status(client, "1.28", "PUT", path, {**old, "consumer_generation": None}) == 409
    assert "consumer_generation" not in await body(client, "1.27", path)
    assert (await body(client, "1.28", path))["consumer_generation"] == 1
    assert await status(client, "1.28", "POST", "/allocations", {C1: {**old, "consumer_generation": 1}}) == 204
    of_provider = f"/resource_providers/{RP}/allocations"
    assert "consumer_generation" not in (await body(client, "1.27", of_provider))["allocations"][C1]
    assert (await body(client, "1.28", of_provider))["allocations"][C1]["consumer_generation"] == 2


async def test_1_34_mappings_are_taken_and_ignored(client: httpx.AsyncClient) -> None:
    await make(client)
    mapped = {**ALLOCATIONS, **OWNER, "consumer_generation": None, "mappings": {"": [RP]}}
    assert await status(client, "1.33", "PUT", f"/allocations/{C1}", mapped) == 400
    assert await status(client, "1.34", "PUT", f"/allocations/{C1}", mapped) == 204


async def test_1_38_consumer_type(client: httpx.AsyncClient) -> None:
    await make(client)
    path, old = f"/allocations/{C1}", {**ALLOCATIONS, **OWNER, "consumer_generation": None}
    assert await status(client, "1.37", "PUT", path, {**old, "consumer_type": "INSTANCE"}) == 400
    assert await status(client, "1.37", "PUT", path, old) == 204
    assert "consumer_type" not in await body(client, "1.37", path)
    assert (await body(client, "1.38", path))["consumer_type"] == "unknown"
    assert await status(client, "1.38", "PUT", path, {**old, "consumer_generation": 1}) == 400
    assert await status(client, "1.38", "PUT", path, {**old, "consumer_generation": 1, "consumer_type": "INSTANCE"}) == 204
    # An older version does not take the type away again.
    assert await status(client, "1.37", "PUT", path, {**old, "consumer_generation": 2}) == 204
    assert (await body(client, "1.38", path))["consumer_type"] == "INSTANCE"
