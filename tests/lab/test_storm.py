"""A storm against a make-believe cloud, and against a Pileus of its own."""

from __future__ import annotations

import asyncio
import itertools
import re

import httpx
import pytest

from pileus.errors import StartupError
from pileus.lab.api import Api, Refused
from pileus.lab.choosing import choose
from pileus.lab.storm import Progress, Storm, Wish, grouped, percentile, storm
from tests.lab.fakecloud import ACCESS, FakeCloud


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


async def run(cloud: FakeCloud, wish: Wish, told: list[Progress] | None = None) -> Storm:
    async with Api(ACCESS, cloud.transport) as api:
        chosen = await choose(api, image=None, flavor=None, network=None)
        return await storm(api, wish, chosen, (told if told is not None else []).append)


async def test_all_at_once_and_nothing_left(cloud: FakeCloud) -> None:
    told: list[Progress] = []
    cloud.takes, cloud.page = 0.05, 7
    found = await run(cloud, Wish(40, poll=0.01), told)
    assert (found.created, found.active, found.error, found.refused, found.unfinished) == (40, 40, 0, 0, 0)
    assert found.p50_s is not None and 0.05 <= found.p50_s < 5
    assert found.deletes.gone == 40 and found.deletes.left == 0 and cloud.servers == {}
    assert found.faults == [] and not found.interrupted
    assert {progress.phase for progress in told} == {"creating", "deleting"}
    polls = sum(line == "GET /compute/v2.1/servers/detail" for line in cloud.asked)
    assert polls < 40 * 7, "one poll is for all of them"


async def test_what_is_asked_for_is_the_smallest_flavor_and_the_only_network(cloud: FakeCloud) -> None:
    await run(cloud, Wish(1, poll=0.01, keep=True))
    wanted = next(iter(cloud.servers.values()))["wanted"]
    assert (wanted["flavorRef"], wanted["imageRef"], wanted["networks"]) == ("f1", "img-1", [{"uuid": "net-1"}])


async def test_a_rate_is_kept_and_seen_in_windows(cloud: FakeCloud) -> None:
    found = await run(cloud, Wish(30, rate=25.0, poll=0.01))
    assert found.asked_per_s == pytest.approx(25.0, rel=0.3)
    assert len(found.windows) == 12
    assert sum(window.created for window in found.windows) == 30


async def test_faults_are_grouped_and_refusals_counted(cloud: FakeCloud) -> None:
    quota = httpx.Response(
        403, json={"forbidden": {"code": 403, "message": "Quota exceeded for instances: Requested 1, but already used 10 of 10"}}
    )
    cloud.fate = lambda n: "ERROR" if n % 3 == 0 else quota if n >= 10 else "ACTIVE"
    found = await run(cloud, Wish(12, poll=0.01))
    assert (found.created, found.active, found.error, found.refused) == (12, 6, 4, 2)
    assert [(fault.outcome, fault.message, fault.count) for fault in found.faults] == [
        ("error", "Build of instance … aborted: no network", 4),
        ("refused", "Quota exceeded for instances: Requested 1, but already used 10 of 10 (HTTP 403)", 2),
    ]
    assert cloud.servers == {}


async def test_the_time_is_up(cloud: FakeCloud) -> None:
    cloud.fate = lambda n: "BUILD"
    found = await run(cloud, Wish(3, poll=0.01, timeout=0.2))
    assert (found.active, found.unfinished) == (0, 3)
    assert "--timeout" in found.faults[0].message
    assert cloud.servers == {}


async def test_keeping_them(cloud: FakeCloud) -> None:
    found = await run(cloud, Wish(3, poll=0.01, keep=True))
    assert found.deletes.kept and found.deletes.left == 3 == len(cloud.servers)


async def test_an_end_before_the_end_deletes_what_was_made(cloud: FakeCloud) -> None:
    cloud.fate = lambda n: "BUILD"
    task = asyncio.create_task(run(cloud, Wish(1000, rate=200.0, poll=0.01)))
    async with asyncio.timeout(10):
        while len(cloud.servers) < 5:
            await asyncio.sleep(0.005)
    task.cancel()
    found = await task
    assert found.interrupted
    assert found.unfinished == found.created >= 5
    assert cloud.servers == {}


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.Response(200, text="<html>"), httpx.Response(200, json=[])])
async def test_all_is_deleted_though_the_cloud_has_no_answer_now_and_then(
    cloud: FakeCloud, answer: httpx.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pileus.lab.storm.REFUSED_PAUSE", 0.01)
    asked = itertools.count()
    cloud.lists = lambda: answer if next(asked) % 2 == 0 else None
    found = await run(cloud, Wish(5, poll=0.01))
    assert (found.active, found.deletes.left) == (5, 0)
    assert cloud.servers == {}


@pytest.mark.parametrize("keep", [False, True])
async def test_what_was_measured_is_told_though_the_cloud_does_not_say_what_is_left(
    cloud: FakeCloud, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pileus.lab.storm.REFUSED_PAUSE", 0.01)
    cloud.lists = lambda: httpx.Response(503)
    found = await run(cloud, Wish(3, poll=0.01, timeout=0.2, keep=keep))
    assert (found.created, found.unfinished, found.deletes.left) == (3, 3, 3)


async def test_a_page_in_place_of_an_answer_is_a_refusal(cloud: FakeCloud) -> None:
    cloud.fate = lambda n: httpx.Response(202, text="<html>") if n == 0 else "ACTIVE"
    found = await run(cloud, Wish(2, poll=0.01))
    assert (found.active, found.refused) == (1, 1)
    assert found.faults[0].message == "POST /compute/v2.1/servers: the answer is no JSON"


async def test_a_token_that_ends_is_renewed(cloud: FakeCloud) -> None:
    cloud.tokens_left = 6
    found = await run(cloud, Wish(10, poll=0.01))
    assert found.active == 10
    assert cloud.asked.count("POST /identity/v3/auth/tokens") == 2


async def test_nobody_lets_us_in(cloud: FakeCloud) -> None:
    cloud.password = "another"
    with pytest.raises(Refused, match=r"cloud test: Keystone does not log ann in: .* requires authentication\. \(HTTP 401\)") as caught:
        await run(cloud, Wish(1))
    assert caught.value.status == 401


async def test_nobody_is_there() -> None:
    def nobody(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with pytest.raises(StartupError, match=r"http://cloud\.test cannot be reached: Connection refused"):
        async with Api(ACCESS, httpx.MockTransport(nobody)):
            pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": "none-such"}, r"--image: the cloud has no image 'none-such'; it has blank"),
        ({"flavor": "huge"}, r"--flavor: the cloud has no flavor 'huge'; it has large, small"),
        ({"network": "moon"}, r"--network: the cloud has no network 'moon'; it has private"),
    ],
)
async def test_what_is_not_there(cloud: FakeCloud, given: dict[str, str], said: str) -> None:
    async with Api(ACCESS, cloud.transport) as api:
        with pytest.raises(StartupError, match=said):
            await choose(api, **{"image": None, "flavor": None, "network": None, **given})


async def test_a_choice_that_is_not_one(cloud: FakeCloud) -> None:
    async with Api(ACCESS, cloud.transport) as api:
        shared = {"id": "net-2", "name": "shared", "subnets": ["s"], "project_id": "other"}
        cloud.networks.append(shared)
        assert (await choose(api, image=None, flavor=None, network=None)).network == "net-1"
        cloud.networks[0] = {**shared, "id": "net-3", "name": "other"}
        with pytest.raises(StartupError, match=r"which network\? The cloud has other, shared; say it with --network NAME"):
            await choose(api, image=None, flavor=None, network=None)
        cloud.networks[:] = []
        with pytest.raises(StartupError, match=r"the cloud has no network to use here"):
            await choose(api, image=None, flavor=None, network=None)
        cloud.images.clear()
        with pytest.raises(StartupError, match=r"no image to start servers from: upload one, or say --image none"):
            await choose(api, image=None, flavor=None, network=None)


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert [percentile(range(1, 101), p) for p in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7], 99) == 7
    assert percentile([], 50) is None


def test_a_fault_of_many_servers_is_one() -> None:
    from pileus.lab.storm import Made

    made = [
        Made(f"s-{n}", 0.0, outcome="error", fault=f"s-{n}: no port 1234abcd-{n:04d}-0000-0000-000000000000 on 10.0.0.{n}")
        for n in range(5)
    ]
    assert [(fault.message, fault.count) for fault in grouped(made)] == [("…: no port … on …", 5)]
    assert re.search("10.0.0.0", grouped(made)[0].example)
