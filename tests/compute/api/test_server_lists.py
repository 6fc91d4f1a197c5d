"""Lists of servers: filters, who may use them, sorting, paging."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.clients.network import ServerAddress
from pileus.compute.api import server_filters
from pileus.compute.api.patterns import likes
from pileus.compute.service import Compute
from tests.compute import parts
from tests.compute.api.conftest import Api
from tests.compute.parts import IMAGE, PORT, Networks


@pytest.fixture
async def three(api: Api, compute: Compute) -> list[str]:
    """web-1 runs, web-2 is stopped, db% is being built; made in this order."""
    web1 = await api.make(name="web-1", imageRef=IMAGE, metadata={"a": "b"})
    web2 = await api.make(name="web-2", description="the second", config_drive=True)
    db = await api.make(name="DB%", availability_zone="nova")
    await parts.run(compute, web1)
    await parts.run(compute, web2)
    await parts.set_row(compute, web2, vm_state="stopped", power="stopped", locked=True)
    assert isinstance(compute.network, Networks)
    compute.network.given[web2] = [ServerAddress("lan", "2001:db8::2", 6, "fa:16:3e:00:00:02", PORT)]
    for at, server_id in enumerate((web1, web2, db)):
        await parts.set_row(compute, server_id, created_at=1763800000.0 + at, updated_at=1763800000.0 + 10 * at)
    return [web1, web2, db]


async def names(api: Api, query: str, version: str = "2.96", token: str = "member") -> list[str]:
    found = (await api.get(f"/servers/detail?{query}", version, token))["servers"]
    brief = (await api.get(f"/servers?{query}", version, token))["servers"]
    assert [server["id"] for server in brief] == [server["id"] for server in found]
    assert all(set(server) == {"id", "name", "links"} for server in brief)
    return [server["name"] for server in found]


FILTERS = [
    ("", "DB% web-2 web-1"),
    ("name=web", "web-2 web-1"),
    ("name=WEB", "web-2 web-1"),
    ("name=^web-.$", "web-2 web-1"),
    ("name=b-1$", "web-1"),
    ("name=web-1|db", "DB% web-1"),
    ("name=w.*2", "web-2"),
    ("name=%25", "DB%"),
    ("name=_", ""),
    ("name=web\\-1", "web-1"),
    ("status=ACTIVE", "web-1"),
    ("status=active&status=SHUTOFF", "web-2 web-1"),
    ("status=SHELVED", ""),
    (f"image={IMAGE}", "web-1"),
    ("flavor=1", "DB% web-2 web-1"),
    ("flavor=2", ""),
    ("ip=10.0.0.5", "web-1"),
    ("ip=^10", "web-1"),
    ("ip6=db8", "web-2"),
    ("locked=true", "web-2"),
    ("vm_state=stopped", "web-2"),
    ("task_state=scheduling", "DB%"),
    ("power_state=1", "web-1"),
    ("config_drive=true", "web-2"),
    ("config_drive=", "DB% web-1"),
    ("availability_zone=nova", "DB%"),
    ("hostname=web", "web-2 web-1"),
    ("tags=x", ""),
    ("not-tags=x", "DB% web-2 web-1"),
    ("changes-since=2025-11-22T08:26:45", "DB% web-2"),
    ("changes-since=2025-11-22T08:26:45Z&changes-before=2025-11-22T08:26:50Z", "web-2"),
    ("created_at=2025-11-22T08:26:41Z", "web-2"),
    ("progress=0", "DB% web-2 web-1"),
    ("host=host1", "DB% web-2 web-1"),  # only admins: ignored
    ("sort_key=display_name&sort_dir=asc", "DB% web-1 web-2"),
    ("sort_key=vm_state&sort_dir=desc&sort_key=created_at&sort_dir=asc", "web-2 DB% web-1"),
    ("sort_key=progress", "DB% web-2 web-1"),
    ("limit=0", ""),
]


async def test_filters(api: Api, three: list[str]) -> None:
    assert [(query, " ".join(await names(api, query))) for query, _ in FILTERS] == FILTERS


FILTERS_OF_ADMINS = [
    ("host=host1", "web-2 web-1"),
    ("node=OST1", "web-2 web-1"),
    ("tenant_id=project", "DB% web-2 web-1"),
    ("project_id=none", ""),
    ("description=second", "web-2"),
    ("uuid=x", ""),
    ("user_id=user", "DB% web-2 web-1"),
    ("launch_index=0", "DB% web-2 web-1"),
    ("root_device_name=/dev/vdb", ""),
    ("kernel_id=x", ""),
    ("soft_deleted=true", ""),
    ("auto_disk_config=false", "DB% web-2 web-1"),
    ("access_ip_v4=1", ""),
    ("locked_by=owner", ""),
    ("sort_key=host&sort_key=display_name&sort_dir=asc&sort_dir=asc", "DB% web-1 web-2"),
]


async def test_filters_of_admins(api: Api, three: list[str]) -> None:
    found = [(query, " ".join(await names(api, f"all_tenants=1&{query}", token="admin"))) for query, _ in FILTERS_OF_ADMINS]
    assert found == FILTERS_OF_ADMINS


REFUSED = [
    ("status=NONSENSE", 400),
    ("status=DELETED", 403),
    ("all_tenants=1", 403),
    ("all_tenants=perhaps", 400),
    ("nonsense=1", 400),
    ("metadata=x", 400),
    ("_sa=x", 400),
    ("name=(a%2B)%2B$", 400),
    ("name=" + "x" * 300, 400),
    ("name=x\\", 400),
    ("changes-since=now", 400),
    ("changes-since=2025-11-22T00:00:00&changes-before=2024-11-22T00:00:00", 400),
    ("sort_key=id", 400),
    ("sort_key=nonsense", 400),
    ("sort_key=host", 403),
    ("sort_dir=up", 400),
    ("limit=-1", 400),
    ("limit=x", 400),
    ("marker=none", 400),
    ("locked=perhaps", 400),
    ("power_state=x", 400),
]


async def test_refused_queries(api: Api) -> None:
    for path in ("/servers", "/servers/detail"):
        assert [(query, (await api.call("GET", f"{path}?{query}")).status_code) for query, _ in REFUSED] == REFUSED


async def test_an_address_that_is_everywhere(api: Api, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_filters, "MOST_BY_ADDRESS", 0)
    assert "give more of the address" in await api.refused(400, "GET", "/servers?ip=10")


async def test_paging(api: Api, three: list[str]) -> None:
    seen: list[str] = []
    path: str | None = "/servers/detail?limit=2&sort_key=created_at&sort_dir=asc"
    while path:
        page = await api.get(path)
        seen += [server["id"] for server in page["servers"]]
        links = page.get("servers_links")
        path = links[0]["href"].removeprefix("http://pileus/compute/v2.1") if links else None
        assert not links or links[0]["rel"] == "next"
    assert seen == three


async def test_deleted_servers(api: Api, compute: Compute, three: list[str]) -> None:
    await parts.set_row(compute, three[0], vm_state="deleted", deleted_at=1763800099.0, updated_at=1763800099.0)
    assert await names(api, "") == ["DB%", "web-2"]
    assert await names(api, "deleted=true") == ["DB%", "web-2"]  # ignored
    assert await names(api, "all_tenants=1&deleted=true", token="admin") == ["web-1"]
    assert await names(api, "all_tenants=1&status=DELETED", token="admin") == ["web-1"]
    assert await names(api, "changes-since=2025-11-22T08:28:00Z") == ["web-1"]


async def test_status_words_are_the_view_s(api: Api, compute: Compute, three: list[str]) -> None:
    await parts.set_row(compute, three[0], task_state="rebooting")
    assert await names(api, "status=REBOOT") == ["web-1"]
    assert await names(api, "status=ACTIVE") == []


async def test_a_project_sees_its_own(api: Api, three: list[str]) -> None:
    await api.make(token="other", name="theirs")
    assert await names(api, "", token="other") == ["theirs"]
    assert set(await names(api, "all_tenants", token="admin")) == {"theirs", "DB%", "web-1", "web-2"}
    assert await names(api, "", token="admin") == []


def test_patterns() -> None:
    cases: list[tuple[str, Any]] = [
        ("a", ["%a%"]),
        ("^a$", ["a"]),
        ("^$", [""]),
        ("a.c", ["%a_c%"]),
        ("a.*c|d", ["%a%c%", "%d%"]),
        ("50%_", [r"%50\%\_%"]),
        (r"a\.b\|c\\", [r"%a.b|c\\%"]),
        ("", ["%%"]),
    ]
    for pattern, expected in cases:
        assert likes(pattern, "name") == expected
