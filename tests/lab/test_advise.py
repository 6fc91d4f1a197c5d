"""Advice: arithmetic that can be followed, more load that never means less, and figures of a cloud that really ran."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus import metrics
from pileus.bus import WAITED
from pileus.bus.inprocess import InProcessBus
from pileus.compute.figures import Figures
from pileus.errors import StartupError
from pileus.lab.advise import INTERVALS, TARGET, Advice, Flow, Measured, Now, Process, advise, needed, waiting
from pileus.lab.scrape import Look, between, looks, parsed
from pileus.messages import Echo
from pileus.settings import Database
from pileus.store.postgresql import PostgresStore
from tests.cli.conftest import Cloud, pileus, running

STORY = Measured(
    window=60.0,
    processes=[Process("rpc:9100", "network-rpc", cpu=0.2, pool=1, transactions=Flow(6.9, 0.14, 8.0))],
    rpc=Flow(6.9, 0.144, 9.0),
    rpc_at_once=1,
    heals=Flow(16.7, 0.1),
    creates=Flow(3.5, 60.0, 20.0),
    hosts=20,
)


def said(found: Measured, now: Now | None = None) -> dict[str, Advice]:
    return {line.setting: line for line in advise(found, now or Now(heal_interval=60.0))}


def test_the_storys_cloud_is_advised_what_the_story_found() -> None:
    lines = said(STORY)
    workers, pool, heal = (
        lines[key] for key in ("network.rpc_workers", "database.max_pool_size", "compute.heal_instance_info_cache_interval")
    )
    assert (workers.now, workers.advised) == ("1", "3")
    assert "7.93 requests a second × 144 ms = 1.14 under way at once (Little)" in workers.because
    assert "it was full" in workers.because and not workers.sure
    assert (pool.now, pool.advised) == ("1", "3")
    assert (heal.now, heal.advised) == ("60", "600")
    assert "16.7 servers a second × 100 ms of the network API = 1.67 refreshes under way at once" in heal.because
    builds = lines["compute.max_concurrent_builds"]
    assert (builds.now, int(builds.advised)) == ("10", needed(3.5 * (1 + 20 / 60) * 60 / 20 * 2))


def test_a_cloud_at_rest_is_advised_nothing_and_a_small_one_little() -> None:
    assert [line.setting for line in advise(Measured(60.0), Now())] == []
    assert said(Measured(60.0), Now(heal_interval=0.0))["compute.heal_instance_info_cache_interval"].advised == "off"
    calm = Measured(
        60.0,
        [Process("a", "network-rpc", 0.05, 10, Flow(5.0, 0.004))],
        Flow(5.0, 0.005),
        8,
        Flow(0.3, 0.01),
        creates=Flow(2.0, 0.2),
        hosts=10,
    )
    lines = said(calm, Now())
    assert (lines["network.rpc_workers"].advised, lines["database.max_pool_size"].advised) == ("1", "1")
    assert lines["compute.heal_instance_info_cache_interval"].advised == "600"
    assert (lines["compute.max_concurrent_builds"].advised, lines["compute.max_builds"].advised) == ("10", "256"), "a limit is not lowered"
    assert "1 would do, and the limit is not below" in lines["compute.max_concurrent_builds"].because
    assert all(line.sure for line in lines.values() if line.setting.startswith("network"))


def test_healing_that_comes_late_comes_less_often() -> None:
    late = Measured(60.0, heals=Flow(10.0, 0.01), heals_late=5.0)
    line = said(late)["compute.heal_instance_info_cache_interval"]
    assert line.advised == "120"
    assert "50% of them came late" in line.because
    few = said(Measured(60.0, heals=Flow(0.1, 0.01), heals_late=0.1))["compute.heal_instance_info_cache_interval"]
    assert few.advised == "60", "so few are late for another reason"


loads = st.floats(0.0, 200.0)


@given(loads, st.integers(1, 300))
def test_waiting_is_a_part_and_less_with_more(load: float, servers: int) -> None:
    assert 0.0 <= waiting(load, servers) <= 1.0
    assert waiting(load, servers + 1) <= waiting(load, servers) + 1e-12


@given(loads)
def test_what_is_needed_is_enough_and_not_idle(load: float) -> None:
    count = needed(load)
    assert load / count <= TARGET + 1e-9
    assert waiting(load, count) <= 0.2
    if count > 1:
        assert load / (count - 1) > TARGET or waiting(load, count - 1) > 0.2


def test_waiting_is_erlangs() -> None:
    assert waiting(0.5, 1) == pytest.approx(0.5)
    assert waiting(1.0, 2) == pytest.approx(1 / 3)
    assert waiting(2.0, 3) == pytest.approx(4 / 9)


flows = st.builds(Flow, st.floats(0.01, 500), st.floats(0.001, 20), st.floats(0, 100))
clouds = st.builds(
    lambda rpc, run, heals, creates, cpu, pool, at_once, hosts: Measured(
        60.0, [Process("p", "network-rpc", cpu, pool, run)], rpc, at_once, heals, 0.0, creates, hosts
    ),
    flows,
    flows,
    flows,
    flows,
    st.floats(0, 4),
    st.integers(1, 60),
    st.integers(1, 64),
    st.integers(1, 500),
)


@given(clouds, st.floats(1.0, 10.0), st.sampled_from(["per_s", "service", "wait"]))
def test_more_of_it_never_means_less(found: Measured, factor: float, what: str) -> None:
    def more(flow: Flow) -> Flow:
        return Flow(**{name: getattr(flow, name) * (factor if name == what else 1) for name in ("per_s", "service", "wait")})

    (process,) = found.processes
    cpu = process.cpu * (factor if what == "per_s" else 1)
    busier = Measured(
        found.window,
        [Process(process.name, process.role, cpu, process.pool, more(process.transactions))],
        more(found.rpc),
        found.rpc_at_once,
        more(found.heals),
        found.heals_late,
        more(found.creates),
        found.hosts,
    )
    before, after = said(found), said(busier)
    assert {key: float(line.advised) <= float(after[key].advised) for key, line in before.items()} == dict.fromkeys(before, True)


@given(clouds, st.sampled_from(INTERVALS[:4]))
def test_healing_is_never_advised_to_come_more_often(found: Measured, interval: float) -> None:
    line = said(found, Now(heal_interval=interval))["compute.heal_instance_info_cache_interval"]
    assert float(line.advised) >= interval
    if found.heals.busy <= 0.2:
        assert float(line.advised) == interval


def page(**figures: float) -> str:
    return "".join(f"{name} {value}\n" for name, value in figures.items())


def test_two_looks_are_subtracted_and_a_restart_counts_from_its_start() -> None:
    names = ("pileus_network_rpc_seconds_count", "pileus_network_rpc_seconds_sum", "pileus_network_rpc_wait_seconds_count")
    first = Look(100.0, parsed(page(**dict(zip(names, (10, 1, 10), strict=True)))))
    second = Look(110.0, parsed(page(**dict(zip(names, (30, 5, 32), strict=True)), pileus_network_rpc_at_once=8)))
    found = between(["h:1"], [first], [second], hosts=None)
    assert (found.window, found.rpc.per_s, found.rpc.service, found.rpc_at_once) == (10.0, 2.2, 0.2, 8)
    assert found.processes[0].role == "network-rpc"
    anew = between(["h:1"], [second], [Look(120.0, parsed(page(**dict(zip(names, (4, 2, 4), strict=True)))))], hosts=None)
    assert (anew.rpc.per_s, anew.rpc.service) == (0.4, 0.5)


async def test_what_does_not_show_figures_is_said() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "gone":
            raise httpx.ConnectError("Connection refused")
        return {"html": httpx.Response(200, text="<p>"), "other": httpx.Response(200, text="go_threads 7\n")}.get(
            request.url.host, httpx.Response(404)
        )

    transport = httpx.MockTransport(answer)
    for url, words in (
        ("gone:9100", "http://gone:9100/metrics cannot be reached: Connection refused; metrics.listen says"),
        ("html:1", "http://html:1/metrics does not show figures for Prometheus"),
        ("http://other:1/metrics", "shows figures, but not those of Pileus"),
        ("http://none:1/x", "http://none:1/x: HTTP 404"),
    ):
        with pytest.raises(StartupError, match=words):
            await looks([url], transport)


async def test_a_transactions_time_and_a_requests_wait_are_counted(postgres_url: str) -> None:
    store = await PostgresStore.open(Database(postgres_url, max_pool_size=1), role="test")
    before = metrics.DB_RUN._sum.get()

    def slow(tx: Any) -> None:
        tx.exec_driver_sql("select pg_sleep(0.05)")

    try:
        await store.write(slow)
    finally:
        await store.close()
    assert 0.05 <= metrics.DB_RUN._sum.get() - before < 2


async def test_a_message_knows_how_long_it_waited() -> None:
    bus = InProcessBus()
    waits: list[float] = []

    async def slow(question: Echo) -> Echo:
        waits.append(WAITED.get())
        await asyncio.sleep(0.05)
        return question

    serving = bus.serve("lab.slow", Echo, slow)
    await asyncio.gather(*(bus.request("lab.slow", Echo(0.0), Echo, timeout=10) for _ in range(3)))
    await serving.close()
    assert waits[0] < 0.05 <= waits[1] + 0.01 and waits[2] >= waits[1] + 0.04


def test_what_healing_waits_for_is_counted_where_it_is_shown() -> None:
    counted = metrics.CACHE_SECONDS.labels("healing")._value
    before = counted.get()
    Figures(True).asked("healing", 0.5)
    Figures(False).asked("healing", 0.5)
    assert counted.get() - before == 0.5


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cloud, str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("advise")
    with running(folder / "state", PILEUS_METRICS__LISTEN=listen, PILEUS_HOST__HOSTS="3") as started:
        yield started, listen


async def test_a_running_cloud_is_advised(cloud: tuple[Cloud, str]) -> None:
    started, listen = cloud
    before = await looks([listen])
    for n in range(3):
        await asyncio.to_thread(started.make, f"web-{n}")
    found = between([listen], before, await looks([listen]), hosts=3)
    assert found.creates.per_s * found.window == pytest.approx(3)
    assert 0 < found.creates.service < 10
    assert found.rpc.per_s > 0 and found.rpc_at_once == 8 and 0 < found.rpc.service < 10
    assert (found.processes[0].role, found.processes[0].pool) == ("network-rpc", None)
    lines = said(found, Now())
    assert {"compute.max_concurrent_builds", "compute.max_builds", "network.rpc_workers"} <= set(lines)
    assert lines["network.rpc_workers"].advised == "1"
    assert "creates a second" in lines["compute.max_builds"].because
    known = str(started.state / "clouds.yaml")
    wish = ("--url", f"http://{listen}/metrics", "--os-cloud", "pileus", "--window", "1", "--json")
    told = await asyncio.to_thread(pileus, "lab", "advise", *wish, OS_CLIENT_CONFIG_FILE=known)
    assert told.returncode == 0, told
    printed = msgspec.json.decode(told.stdout)
    assert printed["hosts"] == 3
    assert set(printed["steps"]) >= {"claimed", "wired", "resumed"}


def test_a_cloud_at_rest_and_a_wrong_address(cloud: tuple[Cloud, str]) -> None:
    started, listen = cloud
    calm = pileus("lab", "advise", "--url", listen, "--window", "1", PILEUS_COMPUTE__HEAL_INSTANCE_INFO_CACHE_INTERVAL="0")
    assert calm.returncode == 0
    assert "events alone keep the caches" in calm.stdout
    wrong = pileus("lab", "advise", "--url", listen + "1/nothing", "--window", "1")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    other = pileus(
        "lab", "advise", "--url", listen, "--window", "1", "--os-cloud", "x", OS_CLIENT_CONFIG_FILE=str(started.state / "clouds.yaml")
    )
    assert "there is no cloud 'x'" in other.stderr
