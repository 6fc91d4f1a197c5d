"""Each of placement's routes, and what each refuses."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.placement.conftest import at

RP, RP2, C1, C2 = (f"{number:08d}-aaaa-4aaa-8aaa-aaaaaaaaaaaa" for number in range(1, 5))
OWNER = {"project_id": "project", "user_id": "user"}


async def make(client: httpx.AsyncClient, provider: str = RP, name: str = "host1", **totals: int) -> None:
    assert (await client.post("/resource_providers", json={"name": name, "uuid": provider})).status_code == 200
    inventories = {kind: {"total": total} for kind, total in (totals or {"VCPU": 8, "MEMORY_MB": 1024}).items()}
    body = {"resource_provider_generation": 0, "inventories": inventories}
    assert (await client.put(f"/resource_providers/{provider}/inventories", json=body)).status_code == 200


async def hold(client: httpx.AsyncClient, consumer: str = C1, provider: str = RP, **resources: Any) -> httpx.Response:
    body = {
        "allocations": {provider: {"resources": resources or {"VCPU": 2}}},
        **OWNER,
        "consumer_generation": None,
        "consumer_type": "INSTANCE",
    }
    return await client.put(f"/allocations/{consumer}", json=body)


def code(answer: httpx.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


def detail(answer: httpx.Response) -> str:
    return str(answer.json()["errors"][0]["detail"])


async def test_discovery_needs_no_token(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers={"X-Auth-Token": "nonsense"})
    assert answer.status_code == 200
    (version,) = answer.json()["versions"]
    assert (version["id"], version["min_version"], version["max_version"], version["status"]) == ("v1.0", "1.0", "1.39", "CURRENT")


async def test_who_may_ask(client: httpx.AsyncClient) -> None:
    refused = await client.get("/resource_providers", headers={"X-Auth-Token": "unheard"})
    assert refused.status_code == 401 and "Keystone" in refused.headers["WWW-Authenticate"]
    assert (await client.get("/resource_providers", headers={"X-Auth-Token": "member"})).status_code == 403
    assert (await client.get("/resource_providers", headers={"X-Auth-Token": "service"})).status_code == 200


async def test_a_provider_from_its_making_to_its_end(client: httpx.AsyncClient) -> None:
    made = await client.post("/resource_providers", json={"name": "host1", "uuid": RP.replace("-", "").upper()})
    assert made.status_code == 200 and made.headers["Location"] == f"http://pileus/placement/resource_providers/{RP}"
    assert made.json() | {"links": []} == {
        "uuid": RP,
        "name": "host1",
        "generation": 0,
        "parent_provider_uuid": None,
        "root_provider_uuid": RP,
        "links": [],
    }
    assert (await client.get(f"/resource_providers/{RP}")).json() == made.json()
    renamed = await client.put(f"/resource_providers/{RP}", json={"name": "host2", "parent_provider_uuid": None})
    assert renamed.status_code == 200 and renamed.json()["name"] == "host2"
    listed = await client.get("/resource_providers", params={"name": "host2"})
    assert [row["uuid"] for row in listed.json()["resource_providers"]] == [RP]
    assert (await client.get("/resource_providers", params={"name": "host1"})).json() == {"resource_providers": []}
    assert (await client.delete(f"/resource_providers/{RP}")).status_code == 204
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"/resource_providers/{RP}")).status_code == 404
    assert (await client.put(f"/resource_providers/{RP}", json={"name": "x"})).status_code == 404


async def test_a_provider_that_cannot_be(client: httpx.AsyncClient) -> None:
    await make(client)
    again = await client.post("/resource_providers", json={"name": "host1"})
    assert again.status_code == 409 and code(again) == "placement.duplicate_name"
    assert (await client.post("/resource_providers", json={"name": "x", "uuid": RP})).status_code == 409
    await make(client, RP2, "host2")
    taken = await client.put(f"/resource_providers/{RP2}", json={"name": "host1"})
    assert taken.status_code == 409 and code(taken) == "placement.duplicate_name"
    bodies: list[Any] = [{}, {"name": ""}, {"name": "x" * 201}, {"name": 5}, {"name": "x", "uuid": "y"}, {"name": "x", "traits": []}, []]
    for body in bodies:
        assert (await client.post("/resource_providers", json=body)).status_code == 400
    nested = await client.post("/resource_providers", json={"name": "child", "parent_provider_uuid": RP})
    assert nested.status_code == 400 and "Nested" in detail(nested)
    old = await client.post("/resource_providers", json={"name": "child", "parent_provider_uuid": None}, headers=at("1.13"))
    assert old.status_code == 400


async def test_a_provider_in_use_stays(client: httpx.AsyncClient) -> None:
    await make(client)
    assert (await hold(client)).status_code == 204
    refused = await client.delete(f"/resource_providers/{RP}")
    assert refused.status_code == 409 and code(refused) == "placement.resource_provider.inuse"
    for url in (f"/resource_providers/{RP}/inventories", f"/resource_providers/{RP}/inventories/VCPU"):
        assert (await client.delete(url)).status_code == 409
    assert (await client.delete(f"/allocations/{C1}")).status_code == 204
    assert (await client.delete(f"/resource_providers/{RP}")).status_code == 204


async def test_providers_by_what_they_have_room_for(client: httpx.AsyncClient) -> None:
    await make(client)
    await make(client, RP2, "host2", VCPU=1)
    for resources, expected in (
        ("VCPU:1", [RP, RP2]),
        ("VCPU:2", [RP]),
        ("VCPU:1,MEMORY_MB:1024", [RP]),
        ("VCPU:9", []),
        ("DISK_GB:1", []),
    ):
        found = await client.get("/resource_providers", params={"resources": resources})
        assert [row["uuid"] for row in found.json()["resource_providers"]] == expected
    for bad in ("VCPU", "VCPU:0", "VCPU:-1", "VCPU:1,VCPU:1", ":1", "CUSTOM_NONE:1", "", "VCPU:99999999999"):
        assert (await client.get("/resource_providers", params={"resources": bad})).status_code == 400


@pytest.mark.parametrize("query", ["member_of=x", "required=HW_CPU", "in_tree=x", "color=red", "name=a&name=b", "uuid=nonsense"])
async def test_provider_queries_that_are_not_offered(client: httpx.AsyncClient, query: str) -> None:
    refused = await client.get(f"/resource_providers?{query}")
    assert refused.status_code == 400 and len(detail(refused)) > 20


async def test_inventories_one_by_one(client: httpx.AsyncClient) -> None:
    await client.post("/resource_providers", json={"name": "host1", "uuid": RP})
    url = f"/resource_providers/{RP}/inventories"
    made = await client.post(url, json={"resource_class": "VCPU", "total": 8, "allocation_ratio": 4})
    assert made.status_code == 201 and made.headers["Location"].endswith(f"{url}/VCPU")
    assert made.json() == {
        "total": 8,
        "reserved": 0,
        "min_unit": 1,
        "max_unit": 2**31 - 1,
        "step_size": 1,
        "allocation_ratio": 4.0,
        "resource_provider_generation": 1,
    }
    assert (await client.get(f"{url}/VCPU")).json() == made.json()
    again = await client.post(url, json={"resource_class": "VCPU", "total": 8})
    assert again.status_code == 409 and code(again) == "placement.concurrent_update"
    changed = await client.put(f"{url}/VCPU", json={"total": 16, "resource_provider_generation": 1})
    assert changed.status_code == 200 and changed.json()["total"] == 16 and changed.json()["resource_provider_generation"] == 2
    stale = await client.put(f"{url}/VCPU", json={"total": 4, "resource_provider_generation": 1})
    assert stale.status_code == 409 and code(stale) == "placement.concurrent_update"
    assert (await client.put(f"{url}/VCPU", json={"total": 4})).status_code == 400
    assert (await client.put(f"{url}/DISK_GB", json={"total": 4, "resource_provider_generation": 2})).status_code == 400
    assert (await client.delete(f"{url}/VCPU")).status_code == 204
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"{url}/VCPU")).status_code == 404


async def test_inventories_all_at_once(client: httpx.AsyncClient) -> None:
    await make(client)
    url = f"/resource_providers/{RP}/inventories"
    found = (await client.get(url)).json()
    assert found["resource_provider_generation"] == 1 and set(found["inventories"]) == {"VCPU", "MEMORY_MB"}
    body = {"resource_provider_generation": 1, "inventories": {"VCPU": {"total": 4}, "DISK_GB": {"total": 10}}}
    changed = await client.put(url, json=body)
    assert changed.status_code == 200 and set(changed.json()["inventories"]) == {"VCPU", "DISK_GB"}
    stale = await client.put(url, json=body)
    assert stale.status_code == 409 and code(stale) == "placement.concurrent_update"
    await hold(client)
    in_use = await client.put(url, json={"resource_provider_generation": 3, "inventories": {}})
    assert in_use.status_code == 409 and code(in_use) == "placement.inventory.inuse"
    assert (await client.delete(f"/allocations/{C1}")).status_code == 204
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).json()["inventories"] == {}
    for method, path in (
        ("GET", url),
        ("PUT", url),
        ("DELETE", url),
        ("GET", f"{url}/VCPU"),
        ("GET", url.replace("inventories", "usages")),
    ):
        other = path.replace(RP, RP2)
        assert (await client.request(method, other, json=body if method == "PUT" else None)).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"total": 0},
        {"total": -1},
        {"total": 2**31},
        {"total": "8"},
        {"reserved": -1},
        {"reserved": 9},
        {"min_unit": 0},
        {"step_size": 0},
        {"max_unit": 0},
        {"allocation_ratio": "x"},
        {"allocation_ratio": 1e39},
        {"allocation_ratio": -1},
        {"color": "red"},
    ],
)
async def test_inventories_that_cannot_be(client: httpx.AsyncClient, change: dict[str, Any]) -> None:
    await client.post("/resource_providers", json={"name": "host1", "uuid": RP})
    refused = await client.post(f"/resource_providers/{RP}/inventories", json={"resource_class": "VCPU", "total": 8, **change})
    assert refused.status_code == 400
    body = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 8, **change}}}
    assert (await client.put(f"/resource_providers/{RP}/inventories", json=body)).status_code == 400


async def test_an_inventory_of_a_class_that_does_not_exist(client: httpx.AsyncClient) -> None:
    await client.post("/resource_providers", json={"name": "host1", "uuid": RP})
    for name in ("CUSTOM_NONE", "vcpu", ""):
        refused = await client.post(f"/resource_providers/{RP}/inventories", json={"resource_class": name, "total": 8})
        assert refused.status_code == 400


async def test_the_largest_inventory_can_be_shown(client: httpx.AsyncClient) -> None:
    await client.post("/resource_providers", json={"name": "host1", "uuid": RP})
    body = {"resource_class": "VCPU", "total": 2**31 - 1, "allocation_ratio": 3.4e38}
    assert (await client.post(f"/resource_providers/{RP}/inventories", json=body)).status_code == 201
    found = (await client.get("/allocation_candidates?resources=VCPU:1")).json()
    assert found["provider_summaries"][RP]["resources"]["VCPU"]["capacity"] > 2**60


async def test_allocations_of_a_consumer(client: httpx.AsyncClient) -> None:
    await make(client)
    assert (await client.get(f"/allocations/{C1}")).json() == {"allocations": {}}
    assert (await hold(client, VCPU=2, MEMORY_MB=512)).status_code == 204
    found = (await client.get(f"/allocations/{C1}")).json()
    assert found == {
        "allocations": {RP: {"generation": 2, "resources": {"VCPU": 2, "MEMORY_MB": 512}}},
        **OWNER,
        "consumer_generation": 1,
        "consumer_type": "INSTANCE",
    }
    assert (await client.get(f"/resource_providers/{RP}/allocations")).json() == {
        "allocations": {C1: {"resources": {"VCPU": 2, "MEMORY_MB": 512}, "consumer_generation": 1}},
        "resource_provider_generation": 2,
    }
    usages = await client.get(f"/resource_providers/{RP}/usages")
    assert usages.json() == {"resource_provider_generation": 2, "usages": {"VCPU": 2, "MEMORY_MB": 512}}
    stale = await hold(client, VCPU=1)
    assert stale.status_code == 409 and code(stale) == "placement.concurrent_update"
    # What GET shows can be changed and PUT back.
    found["allocations"][RP]["resources"] = {"VCPU": 3}
    assert (await client.put(f"/allocations/{C1}", json=found)).status_code == 204
    assert (await client.get(f"/resource_providers/{RP}/usages")).json()["usages"] == {"VCPU": 3, "MEMORY_MB": 0}
    empty = {**found, "allocations": {}, "consumer_generation": 2}
    assert (await client.put(f"/allocations/{C1}", json=empty)).status_code == 204
    gone = await client.delete(f"/allocations/{C1}")
    assert gone.status_code == 404 and C1 in detail(gone)
    assert (await client.get(f"/resource_providers/{RP2}/allocations")).status_code == 404


async def test_allocations_that_cannot_be(client: httpx.AsyncClient) -> None:
    await make(client)
    over = await hold(client, VCPU=9)
    assert over.status_code == 409 and "8 of 8 are left" in detail(over) and code(over) == "placement.undefined_code"
    missing = await hold(client, DISK_GB=1)
    assert missing.status_code == 409 and "no inventory of DISK_GB" in detail(missing)
    assert (await hold(client, provider=RP2, VCPU=1)).status_code == 400
    assert (await hold(client, consumer="nonsense", VCPU=1)).status_code == 400
    assert (await hold(client, provider="nonsense", VCPU=1)).status_code == 400
    for bad in ({"VCPU": 0}, {"VCPU": -1}, {"VCPU": 2**31}, {"VCPU": 1.5}, {"CUSTOM_NONE": 1}, {"vcpu": 1}):
        assert (await hold(client, **bad)).status_code == 400
    good = {"allocations": {RP: {"resources": {"VCPU": 1}}}, **OWNER, "consumer_generation": None, "consumer_type": "INSTANCE"}
    changes: list[dict[str, Any]] = [
        {"consumer_type": "x"},
        {"consumer_type": "ALL "},
        {"project_id": ""},
        {"user_id": None},
        {"mappings": {}},
        {"extra": 1},
    ]
    for change in changes:
        assert (await client.put(f"/allocations/{C1}", json={**good, **change})).status_code == 400
    for name in good:
        assert (await client.put(f"/allocations/{C1}", json={k: v for k, v in good.items() if k != name})).status_code == 400
    wrong = await client.put(f"/allocations/{C1}", json={**good, "consumer_generation": 1})
    assert wrong.status_code == 409 and code(wrong) == "placement.concurrent_update"
    assert (await client.get(f"/allocations/{C1}")).json() == {"allocations": {}}


async def test_units_are_kept(client: httpx.AsyncClient) -> None:
    await client.post("/resource_providers", json={"name": "host1", "uuid": RP})
    units = {"resource_class": "MEMORY_MB", "total": 1024, "min_unit": 128, "max_unit": 512, "step_size": 128}
    await client.post(f"/resource_providers/{RP}/inventories", json=units)
    for amount in (64, 192, 640):
        refused = await hold(client, MEMORY_MB=amount)
        assert refused.status_code == 409 and "from 128 to 512 in steps of 128" in detail(refused)
        found = await client.get(f"/allocation_candidates?resources=MEMORY_MB:{amount}")
        assert found.json()["allocation_requests"] == []
    assert (await hold(client, MEMORY_MB=256)).status_code == 204


async def test_several_consumers_are_swapped_in_one_step(client: httpx.AsyncClient) -> None:
    await make(client, VCPU=2)
    assert (await hold(client, C1, VCPU=2)).status_code == 204
    swap = {
        C1: {"allocations": {}, **OWNER, "consumer_generation": 1, "consumer_type": "INSTANCE"},
        C2: {
            "allocations": {RP: {"resources": {"VCPU": 2}}},
            **OWNER,
            "consumer_generation": None,
            "consumer_type": "MIGRATION",
            "mappings": {"": [RP]},
        },
    }
    assert (await client.post("/allocations", json=swap)).status_code == 204
    assert (await client.get(f"/allocations/{C1}")).json() == {"allocations": {}}
    assert (await client.get(f"/allocations/{C2}")).json()["consumer_type"] == "MIGRATION"
    again = await client.post("/allocations", json=swap)
    assert again.status_code == 409 and code(again) == "placement.concurrent_update"
    bodies: list[Any] = [{}, [], {"nonsense": swap[C1]}, {C1: {}}, {C1: swap[C2], C1.upper(): swap[C2]}]
    for body in bodies:
        assert (await client.post("/allocations", json=body)).status_code == 400


async def test_usages_of_a_project(client: httpx.AsyncClient) -> None:
    await make(client)
    await hold(client, C1, VCPU=2)
    old = {"allocations": {RP: {"resources": {"VCPU": 1, "MEMORY_MB": 5}}}, "project_id": "project", "user_id": "other"}
    assert (await client.put(f"/allocations/{C2}", json=old, headers=at("1.12"))).status_code == 204

    async def asked(query: str, version: str = "1.39") -> Any:
        return (await client.get(f"/usages?{query}", headers=at(version))).json()["usages"]

    instance, unknown = {"VCPU": 2, "consumer_count": 1}, {"VCPU": 1, "MEMORY_MB": 5, "consumer_count": 1}
    assert await asked("project_id=project") == {"INSTANCE": instance, "unknown": unknown}
    assert await asked("project_id=project&consumer_type=INSTANCE") == {"INSTANCE": instance}
    assert await asked("project_id=project&consumer_type=unknown") == {"unknown": unknown}
    assert await asked("project_id=project&consumer_type=all") == {"all": {"VCPU": 3, "MEMORY_MB": 5, "consumer_count": 2}}
    assert await asked("project_id=project&user_id=user&consumer_type=all") == {"all": instance}
    assert await asked("project_id=elsewhere") == {}
    assert await asked("project_id=elsewhere&consumer_type=all") == {}
    assert await asked("project_id=project", "1.37") == {"VCPU": 3, "MEMORY_MB": 5}
    assert await asked("project_id=project&user_id=user", "1.9") == {"VCPU": 2}
    for query in ("", "user_id=user", "project_id=project&consumer_type=x", "project_id=project&color=red"):
        assert (await client.get(f"/usages?{query}")).status_code == 400


async def test_candidates(client: httpx.AsyncClient) -> None:
    await make(client)
    await make(client, RP2, "host2", VCPU=8)
    await hold(client, VCPU=3)
    found = (await client.get("/allocation_candidates?resources=VCPU:4,MEMORY_MB:64")).json()
    assert found == {
        "allocation_requests": [{"allocations": {RP: {"resources": {"VCPU": 4, "MEMORY_MB": 64}}}, "mappings": {"": [RP]}}],
        "provider_summaries": {
            RP: {
                "resources": {"VCPU": {"capacity": 8, "used": 3}, "MEMORY_MB": {"capacity": 1024, "used": 0}},
                "traits": [],
                "parent_provider_uuid": None,
                "root_provider_uuid": RP,
            }
        },
    }
    # A candidate's request is a body for PUT.
    request = {**found["allocation_requests"][0], **OWNER, "consumer_generation": None, "consumer_type": "INSTANCE"}
    assert (await client.put(f"/allocations/{C2}", json=request)).status_code == 204
    assert len((await client.get("/allocation_candidates?resources=VCPU:1")).json()["allocation_requests"]) == 2
    assert len((await client.get("/allocation_candidates?resources=VCPU:1&limit=1")).json()["allocation_requests"]) == 1


@pytest.mark.parametrize(
    "query",
    [
        "",
        "resources=",
        "resources=CUSTOM_NONE:1",
        "resources=VCPU:1&limit=0",
        "resources=VCPU:1&limit=x",
        "resources=VCPU:1&required=HW_CPU",
        "resources=VCPU:1&member_of=x",
        "resources=VCPU:1&in_tree=x",
        "resources=VCPU:1&root_required=x",
        "resources=VCPU:1&same_subtree=_a",
        "resources=VCPU:1&group_policy=none",
        "resources1=VCPU:1",
        "resources_COMPUTE=VCPU:1",
    ],
)
async def test_candidates_that_cannot_be_looked_for(client: httpx.AsyncClient, query: str) -> None:
    refused = await client.get(f"/allocation_candidates?{query}")
    assert refused.status_code == 400 and len(detail(refused)) > 20


async def test_resource_classes(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/resource_classes")).json()["resource_classes"]
    assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= {row["name"] for row in listed}
    made = await client.post("/resource_classes", json={"name": "CUSTOM_GOLD"})
    assert made.status_code == 201 and made.headers["Location"] == "http://pileus/placement/resource_classes/CUSTOM_GOLD"
    assert (await client.post("/resource_classes", json={"name": "CUSTOM_GOLD"})).status_code == 409
    shown = (await client.get("/resource_classes/CUSTOM_GOLD")).json()
    assert shown == {"name": "CUSTOM_GOLD", "links": [{"rel": "self", "href": made.headers["Location"]}]}
    assert (await client.get("/resource_classes/VCPU")).status_code == 200
    await client.post("/resource_providers", json={"name": "host1", "uuid": RP})
    inventory = await client.post(f"/resource_providers/{RP}/inventories", json={"resource_class": "CUSTOM_GOLD", "total": 8})
    assert inventory.status_code == 201
    assert (await client.delete("/resource_classes/CUSTOM_GOLD")).status_code == 409
    await client.delete(f"/resource_providers/{RP}/inventories/CUSTOM_GOLD")
    assert (await client.delete("/resource_classes/CUSTOM_GOLD")).status_code == 204
    for method in ("GET", "DELETE"):
        assert (await client.request(method, "/resource_classes/CUSTOM_GOLD")).status_code == 404
    assert (await client.delete("/resource_classes/VCPU")).status_code == 400
    for name in ("GOLD", "CUSTOM_", "CUSTOM_gold", "CUSTOM_" + "X" * 249, 5):
        assert (await client.post("/resource_classes", json={"name": name})).status_code == 400
    assert (await client.put("/resource_classes/VCPU")).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/traits"),
        ("GET", f"/resource_providers/{RP}/traits"),
        ("PUT", f"/resource_providers/{RP}/aggregates"),
        ("POST", "/reshaper"),
        ("GET", "/nonsense"),
    ],
)
async def test_what_is_not_offered_is_absent(client: httpx.AsyncClient, method: str, path: str) -> None:
    await make(client)
    assert (await client.request(method, path)).status_code == 404
