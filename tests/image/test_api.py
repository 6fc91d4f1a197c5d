"""Each of the image service's routes, and what each refuses."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from pileus.image.service import Images
from tests.image.conftest import MAX_SIZE, by, qcow2

DATA = os.urandom((1 << 20) + 17)
OCTETS = {"Content-Type": "application/octet-stream"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


async def make(client: httpx.AsyncClient, caller: str = "owner", **values: Any) -> str:
    body = {"name": "image", "disk_format": "raw", "container_format": "bare", "visibility": "private", **values}
    answer = await client.post("/v2/images", json=body, headers=by(caller))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def put(client: httpx.AsyncClient, image_id: str, content: bytes = DATA, headers: dict[str, str] | None = None) -> httpx.Response:
    return await client.put(f"/v2/images/{image_id}/file", content=content, headers={**OCTETS, **(headers or {})})


async def patch(client: httpx.AsyncClient, image_id: str, *changes: dict[str, Any], caller: str = "owner") -> httpx.Response:
    return await client.patch(
        f"/v2/images/{image_id}", content=httpx.Request("PATCH", "http://x", json=changes).content, headers={**PATCH, **by(caller)}
    )


async def names(client: httpx.AsyncClient, query: str = "", caller: str = "owner") -> list[str]:
    answer = await client.get(f"/v2/images?{query}", headers=by(caller))
    assert answer.status_code == 200, answer.text
    return sorted(row["name"] for row in answer.json()["images"])


async def test_discovery(client: httpx.AsyncClient) -> None:
    for path, status in (("/", 300), ("/versions", 200)):
        answer = await client.get(path, headers=by("nobody"))
        assert answer.status_code == status
        versions = answer.json()["versions"]
        assert versions[0] == {"id": "v2.7", "status": "CURRENT", "links": [{"rel": "self", "href": "http://pileus/image/v2/"}]}
        assert "v2.6" not in {version["id"] for version in versions}


async def test_who_may_ask(client: httpx.AsyncClient) -> None:
    refused = await client.get("/v2/images", headers=by("nobody"))
    assert refused.status_code == 401 and "Keystone" in refused.headers["WWW-Authenticate"]
    assert (await client.post("/v2/images", json={}, headers=by("reader"))).status_code == 403
    assert (await client.get("/v2/images", headers=by("reader"))).status_code == 200


async def test_the_whole_life_of_an_image(client: httpx.AsyncClient, images: Images) -> None:
    made = await client.post(
        "/v2/images", json={"name": "one", "disk_format": "raw", "container_format": "bare", "tags": ["b", "a"], "hw_x": "y"}
    )
    assert made.status_code == 201
    image = made.json()
    url = f"/v2/images/{image['id']}"
    assert made.headers["Location"] == f"http://pileus/image{url}"
    expected = {
        "name": "one",
        "status": "queued",
        "visibility": "shared",
        "owner": "project",
        "disk_format": "raw",
        "container_format": "bare",
        "min_disk": 0,
        "min_ram": 0,
        "protected": False,
        "os_hidden": False,
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "tags": ["a", "b"],
        "hw_x": "y",
        "self": url,
        "file": f"{url}/file",
        "schema": "/v2/schemas/image",
    }
    assert {name: image[name] for name in expected} == expected and set(image) - set(expected) == {"id", "created_at", "updated_at"}
    assert image["created_at"].endswith("Z")
    assert (await client.get(url)).json() == image
    assert (await client.get(f"{url}/file")).status_code == 204
    assert (await put(client, image["id"])).status_code == 204
    image = (await client.get(url)).json()
    assert (image["status"], image["size"], image["checksum"]) == ("active", len(DATA), hashlib.md5(DATA).hexdigest())
    assert (image["os_hash_algo"], image["os_hash_value"]) == ("sha512", hashlib.sha512(DATA).hexdigest())
    loaded = await client.get(f"{url}/file")
    assert loaded.status_code == 200 and loaded.content == DATA
    assert loaded.headers["Content-Type"] == "application/octet-stream" and loaded.headers["Content-Length"] == str(len(DATA))
    assert loaded.headers["Content-MD5"] == image["checksum"]
    head = await client.head(f"{url}/file")
    assert head.status_code == 200 and head.content == b""
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).status_code == 404 and (await client.get(f"{url}/file")).status_code == 404
    assert not list(images.files.path("x").parent.iterdir())


async def test_parts_of_the_data(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    await put(client, image_id)
    url, size = f"/v2/images/{image_id}/file", len(DATA)
    for wanted, start, end in (
        ("0-4", 0, 5),
        ("10-", 10, size),
        ("-7", size - 7, size),
        (f"5-{size + 9}", 5, size),
        (f"-{size * 2}", 0, size),
    ):
        part = await client.get(url, headers={"Range": f"bytes={wanted}"})
        assert part.status_code == 206 and part.content == DATA[start:end]
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    for bad in (f"bytes={size}-", "bytes=5-4", "bytes=-", "bytes=-0", "lines=1-2", "bytes=0-1,3-4"):
        refused = await client.get(url, headers={"Range": bad})
        assert refused.status_code == 416 and refused.headers["Content-Range"] == f"bytes */{size}"


async def test_uploads_that_are_refused(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    url = f"/v2/images/{image_id}"
    assert (await client.put(f"{url}/file", content=DATA)).status_code == 415
    assert (await put(client, image_id, headers={"X-Openstack-Image-Size": "x"})).status_code == 400
    assert (await put(client, image_id, headers={"X-Openstack-Image-Size": "5"})).status_code == 400
    assert (await put(client, image_id, bytes(MAX_SIZE + 1))).status_code == 413
    assert (await put(client, image_id, qcow2(1 << 30))).status_code == 400
    assert (await put(client, image_id, headers=by("other"))).status_code == 404
    assert (await put(client, str(uuid.uuid4()))).status_code == 404
    for nonsense in ("..", "x" * 400, "é"):
        assert (await put(client, nonsense)).status_code == 404
    assert (await client.get(url)).json()["status"] == "queued"
    assert (await put(client, image_id)).status_code == 204
    again = await put(client, image_id)
    assert again.status_code == 409 and "once" in again.json()["message"]
    unformed = await make(client, disk_format=None)
    assert (await put(client, unformed)).status_code == 400


async def test_a_body_without_a_length(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), 10_000):
            yield DATA[at : at + 10_000]

    image_id = await make(client)
    assert (await client.put(f"/v2/images/{image_id}/file", content=pieces(), headers=OCTETS)).status_code == 204
    assert (await client.get(f"/v2/images/{image_id}/file")).content == DATA


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"name": "x" * 256}, 400),
        ({"name": 5}, 400),
        ({"disk_format": "vmdk"}, 400),
        ({"container_format": "ova"}, 400),
        ({"disk_format": "aki", "container_format": "bare"}, 400),
        ({"visibility": "secret"}, 400),
        ({"visibility": "public"}, 403),
        ({"owner": "elsewhere"}, 403),
        ({"owner": None}, 400),
        ({"protected": "yes"}, 400),
        ({"min_disk": -1}, 400),
        ({"min_ram": 2**31}, 400),
        ({"tags": ["x" * 256]}, 400),
        ({"tags": [f"{i}" for i in range(129)]}, 400),
        ({"hw_x": 5}, 400),
        ({"hw_x": None}, 400),
        ({"x" * 256: "y"}, 400),
        ({"": "y"}, 400),
        ({f"p{i}": "y" for i in range(129)}, 400),
        ({"status": "active"}, 403),
        ({"size": 5}, 403),
        ({"checksum": "x"}, 403),
        ({"self": "x"}, 403),
        ({"locations": []}, 403),
        ({"deleted": "x"}, 403),
        ({"os_glance_x": "y"}, 403),
        ({"id": "x"}, 400),
        ({"id": 5}, 400),
    ],
)
async def test_images_that_cannot_be_made(client: httpx.AsyncClient, values: dict[str, Any], status: int) -> None:
    refused = await client.post("/v2/images", json=values)
    assert refused.status_code == status and len(refused.json()["message"]) > 10
    assert await names(client) == []


async def test_bodies_that_are_no_images(client: httpx.AsyncClient) -> None:
    for content in (b"", b"{", b"[]", b"5"):
        assert (await client.post("/v2/images", content=content)).status_code == 400
    assert (await client.post("/v2/images", content=b"{}", headers={"Content-Type": "text/plain"})).status_code == 415
    page = await client.post("/v2/images", content=b"{", headers={"Accept": "text/html"})
    assert page.status_code == 400 and "<h1>400 Bad Request</h1>" in page.text


async def test_an_id_of_ones_own(client: httpx.AsyncClient) -> None:
    given = str(uuid.uuid4())
    assert await make(client, id=given.upper()) == given
    assert (await client.post("/v2/images", json={"id": given})).status_code == 409


@pytest.mark.parametrize("kind", ["aki", "ari", "ami"])
async def test_kernels_ramdisks_and_their_disks(client: httpx.AsyncClient, images: Images, kind: str) -> None:
    image_id = await make(client, disk_format=kind, container_format=kind)
    assert (await put(client, image_id)).status_code == 204
    assert b"".join([piece async for piece in images.read(image_id)]) == DATA


async def test_a_patch(client: httpx.AsyncClient) -> None:
    image_id = await make(client, hw_x="old", tags=["a"])
    changed = await patch(
        client,
        image_id,
        {"op": "replace", "path": "/name", "value": "new"},
        {"op": "add", "path": "/visibility", "value": "community"},
        {"op": "replace", "path": "/hw_x", "value": "changed"},
        {"op": "add", "path": "/a~1b~0c", "value": "pointed at"},
        {"op": "add", "path": "/gone", "value": "soon"},
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/tags", "value": ["c", "b", "c"]},
        {"op": "replace", "path": "/min_disk", "value": 4},
        {"op": "replace", "path": "/disk_format", "value": "qcow2"},
    )
    assert changed.status_code == 200
    image = changed.json()
    assert (image["name"], image["visibility"], image["hw_x"], image["a/b~c"]) == ("new", "community", "changed", "pointed at")
    assert (image["tags"], image["min_disk"], image["disk_format"]) == (["b", "c"], 4, "qcow2") and "gone" not in image
    assert (await client.get(f"/v2/images/{image_id}")).json() == image


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"op": "move", "path": "/name", "value": "x"}, 400),
        ({"path": "/name", "value": "x"}, 400),
        ({"op": "replace", "value": "x"}, 400),
        ({"op": "replace", "path": "/name"}, 400),
        ({"op": "replace", "path": "name", "value": "x"}, 400),
        ({"op": "replace", "path": "/", "value": "x"}, 400),
        ({"op": "replace", "path": "/a/b", "value": "x"}, 400),
        ({"op": "add", "path": "/a~2", "value": "x"}, 400),
        ({"op": "add", "path": 5, "value": "x"}, 400),
        ({"op": "replace", "path": "/name", "value": 5}, 400),
        ({"op": "add", "path": "/hw_y", "value": 5}, 400),
        ({"op": "replace", "path": "/container_format", "value": "aki"}, 400),
        ({"op": "replace", "path": "/status", "value": "active"}, 403),
        ({"op": "replace", "path": "/id", "value": "x"}, 403),
        ({"op": "remove", "path": "/checksum"}, 403),
        ({"op": "remove", "path": "/name"}, 403),
        ({"op": "add", "path": "/locations", "value": []}, 403),
        ({"op": "add", "path": "/os_glance_x", "value": "x"}, 403),
        ({"op": "replace", "path": "/visibility", "value": "public"}, 403),
        ({"op": "replace", "path": "/owner", "value": "elsewhere"}, 403),
        ({"op": "replace", "path": "/hw_y", "value": "x"}, 409),
        ({"op": "remove", "path": "/hw_y"}, 409),
    ],
)
async def test_patches_that_are_refused_change_nothing(client: httpx.AsyncClient, change: dict[str, Any], status: int) -> None:
    image_id = await make(client, hw_x="y")
    before = (await client.get(f"/v2/images/{image_id}")).json()
    refused = await patch(client, image_id, {"op": "replace", "path": "/name", "value": "changed"}, change)
    assert refused.status_code == status and len(refused.json()["message"]) > 10
    assert (await client.get(f"/v2/images/{image_id}")).json() == before


async def test_what_a_patch_must_be(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    refused = await client.patch(f"/v2/images/{image_id}", json=[])
    assert refused.status_code == 415 and refused.headers["Accept-Patch"] == PATCH["Content-Type"]
    for content in (b"{}", b"[5]", b"", b"["):
        assert (await client.patch(f"/v2/images/{image_id}", content=content, headers=PATCH)).status_code == 400
    assert (await patch(client, str(uuid.uuid4()))).status_code == 404


async def test_the_formats_stay_once_there_is_data(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    await put(client, image_id)
    assert (await patch(client, image_id, {"op": "replace", "path": "/disk_format", "value": "qcow2"})).status_code == 403
    assert (await patch(client, image_id, {"op": "replace", "path": "/disk_format", "value": "raw"})).status_code == 200


async def test_what_an_admin_may(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    shown = await patch(client, image_id, {"op": "replace", "path": "/visibility", "value": "public"}, caller="admin")
    assert shown.status_code == 200
    given = await patch(client, image_id, {"op": "replace", "path": "/owner", "value": "elsewhere"}, caller="admin")
    assert given.json()["owner"] == "elsewhere"
    # Now it is somebody else's: seen, for it is public, but not changed.
    assert (await patch(client, image_id, {"op": "replace", "path": "/name", "value": "x"})).status_code == 403
    assert (await client.delete(f"/v2/images/{image_id}")).status_code == 403
    assert (await put(client, image_id)).status_code == 403


async def test_another_projects_image_is_nowhere(client: httpx.AsyncClient) -> None:
    image_id = await make(client, hw_x="y")
    await put(client, image_id)
    url = f"/v2/images/{image_id}"
    for method, path in (
        ("GET", url),
        ("DELETE", url),
        ("GET", f"{url}/file"),
        ("PUT", f"{url}/tags/x"),
        ("DELETE", f"{url}/tags/x"),
        ("GET", f"{url}/members"),
        ("POST", f"{url}/actions/deactivate"),
        ("POST", f"{url}/actions/reactivate"),
    ):
        assert (await client.request(method, path, headers=by("other"))).status_code == 404
    assert (await patch(client, image_id, caller="other")).status_code == 404
    for query in ("", "visibility=private", "visibility=all", f"id={image_id}", "owner=project", "hw_x=y"):
        assert await names(client, query, "other") == []
    assert (await client.get(f"/v2/images?marker={image_id}", headers=by("other"))).status_code == 400
    assert (await client.get(url, headers=by("admin"))).status_code == 200


async def test_a_protected_image_stays(client: httpx.AsyncClient) -> None:
    image_id = await make(client, protected=True)
    refused = await client.delete(f"/v2/images/{image_id}")
    assert refused.status_code == 403 and "protected" in refused.json()["message"]
    await patch(client, image_id, {"op": "replace", "path": "/protected", "value": False})
    assert (await client.delete(f"/v2/images/{image_id}")).status_code == 204


async def test_deactivation_keeps_the_data_in(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    url = f"/v2/images/{image_id}"
    assert (await client.post(f"{url}/actions/deactivate")).status_code == 403
    await put(client, image_id)
    for _ in range(2):
        assert (await client.post(f"{url}/actions/deactivate")).status_code == 204
    assert (await client.get(url)).json()["status"] == "deactivated"
    assert (await client.get(f"{url}/file")).status_code == 403
    assert (await client.get(f"{url}/file", headers=by("admin"))).content == DATA
    assert (await client.post(f"{url}/actions/reactivate")).status_code == 204
    assert (await client.get(f"{url}/file")).content == DATA


async def test_tags(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    url = f"/v2/images/{image_id}"
    for tag in ("x86", "a b", "x86"):
        assert (await client.put(f"{url}/tags/{tag}")).status_code == 204
    assert (await client.get(url)).json()["tags"] == ["a b", "x86"]
    assert (await client.put(f"{url}/tags/{'x' * 256}")).status_code == 400
    assert (await client.delete(f"{url}/tags/x86")).status_code == 204
    assert (await client.delete(f"{url}/tags/x86")).status_code == 404
    assert (await client.get(url)).json()["tags"] == ["a b"]


async def test_sharing(client: httpx.AsyncClient) -> None:
    image_id = await make(client, visibility="shared", name="mine")
    url = f"/v2/images/{image_id}"
    await put(client, image_id)
    assert (await client.get(url, headers=by("other"))).status_code == 404
    added = await client.post(f"{url}/members", json={"member": "elsewhere"})
    assert added.status_code == 200
    member = added.json()
    assert (member["member_id"], member["image_id"], member["status"], member["schema"]) == (
        "elsewhere",
        image_id,
        "pending",
        "/v2/schemas/member",
    )
    assert (await client.post(f"{url}/members", json={"member": "elsewhere"})).status_code == 409
    # Its id is known to the other project, but its lists hold only what it took.
    assert (await client.get(f"{url}/file", headers=by("other"))).content == DATA
    assert await names(client, "", "other") == [] and await names(client, "member_status=pending", "other") == ["mine"]
    assert (await client.put(f"{url}/members/elsewhere", json={"status": "accepted"})).status_code == 403
    taken = await client.put(f"{url}/members/elsewhere", json={"status": "accepted"}, headers=by("other"))
    assert taken.status_code == 200 and taken.json()["status"] == "accepted"
    assert await names(client, "", "other") == ["mine"] and await names(client, "visibility=shared", "other") == ["mine"]
    assert await names(client, "member_status=all", "other") == ["mine"] and await names(client, "member_status=rejected", "other") == []
    assert [row["member_id"] for row in (await client.get(f"{url}/members")).json()["members"]] == ["elsewhere"]
    assert [row["member_id"] for row in (await client.get(f"{url}/members", headers=by("other"))).json()["members"]] == ["elsewhere"]
    assert (await client.get(f"{url}/members/elsewhere", headers=by("other"))).json()["status"] == "accepted"
    for method, path, body in (
        ("POST", f"{url}/members", {"member": "x"}),
        ("DELETE", f"{url}/members/elsewhere", None),
        ("DELETE", url, None),
    ):
        assert (await client.request(method, path, json=body, headers=by("other"))).status_code == 403
    assert (await client.put(f"{url}/members/elsewhere", json={"status": "maybe"}, headers=by("other"))).status_code == 400
    assert (await client.get(f"{url}/members/nobody")).status_code == 404
    assert (await client.post(f"{url}/members", json={"member": ""})).status_code == 400
    assert (await client.post(f"{url}/members", json={})).status_code == 400
    assert (await client.delete(f"{url}/members/elsewhere")).status_code == 204
    assert (await client.delete(f"{url}/members/elsewhere")).status_code == 404
    assert (await client.get(url, headers=by("other"))).status_code == 404


async def test_only_shared_images_have_members(client: httpx.AsyncClient) -> None:
    image_id = await make(client)
    url = f"/v2/images/{image_id}"
    assert (await client.post(f"{url}/members", json={"member": "elsewhere"})).status_code == 403
    assert (await client.get(f"{url}/members")).status_code == 403
    await patch(client, image_id, {"op": "replace", "path": "/visibility", "value": "shared"})
    await client.post(f"{url}/members", json={"member": "elsewhere"})
    await patch(client, image_id, {"op": "replace", "path": "/visibility", "value": "private"})
    assert (await client.get(url, headers=by("other"))).status_code == 404


async def test_who_sees_which_in_lists(client: httpx.AsyncClient) -> None:
    for visibility in ("private", "shared", "community"):
        await make(client, visibility=visibility, name=visibility)
    await make(client, "admin", visibility="public", name="public")
    await make(client, os_hidden=True, name="hidden")
    assert await names(client) == ["community", "private", "public", "shared"]
    assert await names(client, "", "other") == ["public"]
    assert await names(client, "visibility=community", "other") == ["community"]
    assert await names(client, "visibility=all", "other") == ["community", "public"]
    assert await names(client, "visibility=private") == ["private"]
    assert await names(client, "visibility=private", "other") == []
    assert await names(client, "os_hidden=true") == ["hidden"]
    assert await names(client, "", "admin") == ["community", "private", "public", "shared"]


async def test_filters(client: httpx.AsyncClient) -> None:
    one = await make(client, name="one", hw_x="y", tags=["a", "b"], min_ram=64)
    two = await make(client, name="t,wo", disk_format="qcow2", tags=["b"], protected=True)
    await put(client, one, b"x" * 1000)
    checksum = hashlib.md5(b"x" * 1000).hexdigest()
    for query, found in (
        ("name=one", ["one"]),
        ('name=in:one,"t,wo"', ["one", "t,wo"]),
        ("name=eq:one", ["one"]),
        ("name=a:b", []),
        (f"id={two}", ["t,wo"]),
        (f"id=in:{one},{two}", ["one", "t,wo"]),
        ("status=active", ["one"]),
        ("status=queued", ["t,wo"]),
        ("owner=project", ["one", "t,wo"]),
        ("owner=x", []),
        ("disk_format=qcow2", ["t,wo"]),
        ("container_format=bare", ["one", "t,wo"]),
        ("size_min=1000", ["one"]),
        ("size_min=1001", []),
        ("size_max=1000", ["one"]),
        ("size_max=999", []),
        ("min_ram=64", ["one"]),
        (f"checksum={checksum}", ["one"]),
        (f"os_hash_value={hashlib.sha512(b'x' * 1000).hexdigest()}", ["one"]),
        ("os_hash_algo=sha512", ["one"]),
        ("hw_x=y", ["one"]),
        ("hw_x=z", []),
        ("tag=b", ["one", "t,wo"]),
        ("tag=a&tag=b", ["one"]),
        ("protected=true", ["t,wo"]),
        ("protected=false", ["one"]),
        ("created_at=gt:2020-01-01T00:00:00Z", ["one", "t,wo"]),
        ("created_at=lt:2020-01-01T00:00:00Z", []),
        ("name=one&status=queued", []),
    ):
        assert await names(client, query) == found, query


async def test_times_are_compared_as_they_are_shown(client: httpx.AsyncClient) -> None:
    image_id = await make(client, name="one")
    shown = (await client.get(f"/v2/images/{image_id}")).json()["created_at"]
    for operator, found in (("eq", True), ("gte", True), ("lte", True), ("gt", False), ("lt", False), ("neq", False)):
        assert await names(client, f"created_at={operator}:{shown}") == (["one"] if found else [])
    assert await names(client, f"created_at={shown}") == ["one"]


@pytest.mark.parametrize(
    "query",
    [
        "visibility=secret",
        "member_status=x",
        "protected=yes",
        "os_hidden=x",
        "size_min=x",
        "size_min=-1",
        "min_ram=1.5",
        "created_at=yesterday",
        "updated_at=gt:",
        "name=gt:x",
        'name=in:"x',
        "limit=x",
        "limit=-1",
        "marker=x",
        "sort_key=checksum",
        "sort_key=name&sort_dir=up",
        "sort=name:up",
        "sort=name&sort_key=name",
    ],
)
async def test_lists_that_cannot_be(client: httpx.AsyncClient, query: str) -> None:
    refused = await client.get(f"/v2/images?{query}")
    assert refused.status_code == 400 and len(refused.json()["message"]) > 10


async def test_pages_and_sorts(client: httpx.AsyncClient) -> None:
    for name in ("b", "a", "c", "d", "e"):
        await make(client, name=name)

    async def walk(query: str) -> list[str]:
        found, url = [], f"/v2/images?{query}"
        for _ in range(9):
            body = (await client.get(url)).json()
            found += [row["name"] for row in body["images"]]
            assert body["schema"] == "/v2/schemas/images" and body["first"].startswith("/v2/images?") and "marker" not in body["first"]
            if "next" not in body:
                return found
            url = body["next"]
            assert url.startswith("/v2/images?")
        raise AssertionError("no end")

    assert await walk("limit=2") == ["e", "d", "c", "a", "b"]
    assert await walk("limit=2&sort_key=name&sort_dir=asc") == ["a", "b", "c", "d", "e"]
    assert await walk("limit=2&sort=name:desc") == ["e", "d", "c", "b", "a"]
    assert await walk("limit=3&sort=status:asc,name:asc&owner=project") == ["a", "b", "c", "d", "e"]
    assert (await client.get("/v2/images?limit=0")).json()["images"] == []


@pytest.mark.parametrize("name", ["image", "images", "member", "members"])
async def test_schemas(client: httpx.AsyncClient, name: str) -> None:
    schema = (await client.get(f"/v2/schemas/{name}")).json()
    assert schema["name"] == name
    if name == "image":
        made = (await client.get(f"/v2/images/{await make(client)}")).json()
        assert set(schema["properties"]) == set(made)


@pytest.mark.parametrize(
    "path", ["/v1/images", "/v2/info/import", "/v2/info/stores", "/v2/tasks", "/v2/metadefs/namespaces", "/v2/images/x/import"]
)
async def test_what_is_not_offered_is_absent(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404
