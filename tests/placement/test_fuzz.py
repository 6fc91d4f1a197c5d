"""No nonsense brings placement to a 5xx."""

from __future__ import annotations

import httpx
import pytest

from pileus.placement.api.face import ROUTES
from tests.http.fuzzing import Fuzz
from tests.placement.test_api import C1, C2, OWNER, RP, RP2, hold, make

KEYS = ["name", "uuid", "total", "reserved", "resource_provider_generation", "inventories", "allocations", "resources", "VCPU", "mappings"]
QUERIES = ["name", "uuid", "resources", "limit", "project_id", "user_id", "consumer_type", "member_of"]
ALLOCATIONS = {"allocations": {RP: {"resources": {"VCPU": 1}}}, **OWNER, "consumer_generation": 1, "consumer_type": "INSTANCE"}
INVENTORY = {"total": 5, "reserved": 1, "allocation_ratio": 1.5, "resource_provider_generation": 2}
GOOD = [
    ALLOCATIONS,
    {C1: ALLOCATIONS, C2: {**ALLOCATIONS, "consumer_generation": None}},
    {"allocations": [{"resource_provider": {"uuid": RP}, "resources": {"VCPU": 1}}]},
    {"name": "host3", "uuid": RP2, "parent_provider_uuid": None},
    INVENTORY,
    {**INVENTORY, "resource_class": "DISK_GB"},
    {"resource_provider_generation": 3, "inventories": {"VCPU": {"total": 5}}},
    {"name": "CUSTOM_GOLD"},
]


@pytest.mark.parametrize("seed", range(3))
async def test_nonsense(client: httpx.AsyncClient, seed: int) -> None:
    await make(client)
    await hold(client)
    await Fuzz(seed, [RP, RP2, C1, C2], KEYS, QUERIES, GOOD).run(
        client, ROUTES, 20, ["1.0", "1.7", "1.8", "1.12", "1.27", "1.28", "1.34", "1.39", "1.39", "latest"], "placement"
    )
