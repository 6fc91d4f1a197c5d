"""Keypairs: generated, imported, whose they are."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pileus.compute import servers
from pileus.compute.service import Compute
from pileus.settings import Quota, Settings
from tests.compute.api.conftest import CALLERS, Api, api, compute

__all__ = ["api", "compute"]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDiscBauiss48B4U3d69C5/F++VHeBnLwx2gbwloe81p me@example"


async def add(api: Api, name: str = "mine", version: str = "2.96", token: str = "member", **values: Any) -> Any:
    return await api.call("POST", "/os-keypairs", version, {"keypair": {"name": name, "public_key": KEY, **values}}, token)


async def test_generated(api: Api) -> None:
    answer = await api.call("POST", "/os-keypairs", "2.91", {"keypair": {"name": "new"}})
    assert answer.status_code == 201
    made = answer.json()["keypair"]
    key: Any = load_pem_private_key(made["private_key"].encode(), None)
    assert key.key_size == 2048 and made["public_key"].startswith("ssh-rsa ")
    assert "private_key" not in (await api.get("/os-keypairs/new"))["keypair"]


async def test_imported(api: Api) -> None:
    answer = await add(api)
    made = answer.json()["keypair"]
    assert answer.status_code == 201 and "private_key" not in made
    assert made["public_key"] == KEY and made["type"] == "ssh" and made["user_id"] == "user"
    assert len(made["fingerprint"].split(":")) == 16
    shown = (await api.get("/os-keypairs/mine"))["keypair"]
    assert shown["deleted"] is False and shown["deleted_at"] is None and isinstance(shown["id"], int)
    assert (await api.get("/os-keypairs"))["keypairs"] == [{"keypair": {k: made[k] for k in ("name", "public_key", "fingerprint", "type")}}]
    await api.refused(409, "POST", "/os-keypairs", {"keypair": {"name": "mine", "public_key": KEY}})
    assert (await api.call("DELETE", "/os-keypairs/mine")).status_code == 204
    await api.refused(404, "DELETE", "/os-keypairs/mine")
    await api.refused(404, "GET", "/os-keypairs/mine")


async def test_fingerprint_is_md5_of_the_key(api: Api) -> None:
    made = (await add(api)).json()["keypair"]
    digest = hashlib.md5(base64.b64decode(KEY.split()[1])).hexdigest()
    assert made["fingerprint"].replace(":", "") == digest


@pytest.mark.parametrize(
    "values",
    [
        {"public_key": "ssh-rsa nonsense"},
        {"public_key": ""},
        {"public_key": "x" * 20000},
        {"public_key": 5},
        {"type": "x509"},
        {"type": "other"},
        {"name": ""},
        {"name": "a/b"},
        {"name": "x" * 256},
        {"name": "é"},
        {"more": 1},
    ],
)
async def test_create_refuses(api: Api, values: dict[str, Any]) -> None:
    await api.refused(400, "POST", "/os-keypairs", {"keypair": {"name": "mine", "public_key": KEY, **values}})


async def test_of_other_users(api: Api) -> None:
    await add(api)
    assert (await api.get("/os-keypairs", token="other"))["keypairs"] == []
    await api.refused(404, "GET", "/os-keypairs/mine", token="other")
    await api.refused(403, "GET", "/os-keypairs/mine?user_id=user", token="other")
    await api.refused(403, "POST", "/os-keypairs", {"keypair": {"name": "x", "public_key": KEY, "user_id": "user"}}, token="other")
    assert (await api.get("/os-keypairs/mine?user_id=user", token="admin"))["keypair"]["user_id"] == "user"
    assert (await add(api, "given", token="admin", user_id="user")).status_code == 201
    assert len((await api.get("/os-keypairs"))["keypairs"]) == 2
    assert (await api.call("DELETE", "/os-keypairs/given?user_id=user", token="admin")).status_code == 204


async def test_paging(api: Api) -> None:
    for name in ("b", "a", "c"):
        await add(api, name)
    page = await api.get("/os-keypairs?limit=2")
    assert [each["keypair"]["name"] for each in page["keypairs"]] == ["a", "b"]
    assert page["keypairs_links"] == [{"rel": "next", "href": "http://pileus/compute/v2.1/os-keypairs?limit=2&marker=b"}]
    assert [each["keypair"]["name"] for each in (await api.get("/os-keypairs?marker=b"))["keypairs"]] == ["c"]
    await api.refused(400, "GET", "/os-keypairs?marker=z")


async def test_quota(api: Api, compute: Compute) -> None:
    compute.settings = Settings(quota=Quota(key_pairs=1))
    await add(api)
    assert "too many key pairs" in await api.refused(403, "POST", "/os-keypairs", {"keypair": {"name": "two", "public_key": KEY}})


async def test_a_server_gets_the_key(api: Api, compute: Compute) -> None:
    await add(api)
    server_id = await api.make(key_name="mine")
    assert (await api.get(f"/servers/{server_id}"))["server"]["key_name"] == "mine"
    assert (await compute.store.read(servers.get, CALLERS["member"], server_id))["public_keys"] == {"mine": KEY}
