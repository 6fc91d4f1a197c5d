from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from pileus import metrics
from pileus.choice import Choice
from pileus.cloud import Cloud
from pileus.errors import StartupError
from pileus.metrics_server import MetricsServer
from pileus.settings import Api, Settings
from pileus.settings import Host as HostSettings
from pileus.settings import Metrics as MetricsSettings


@pytest.fixture
async def server() -> AsyncIterator[MetricsServer]:
    server = MetricsServer("127.0.0.1:0")
    await server.start()
    yield server
    await server.close()


async def test_what_is_counted_is_shown(server: MetricsServer) -> None:
    metrics.DB_RETRIES.labels("lost").inc()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        found = await client.get("/metrics")
        assert found.status_code == 200
        assert found.headers["content-type"].startswith("text/plain")
        assert 'pileus_db_retries_total{why="lost"}' in found.text
        assert "process_cpu_seconds_total" in found.text
        assert (await client.head("/metrics")).text == ""
        assert [(await client.get("/")).status_code, (await client.post("/metrics")).status_code] == [404, 405]


async def test_processes_alike_take_one_port_after_the_other(server: MetricsServer) -> None:
    second = MetricsServer(f"127.0.0.1:{server.port - 1}", index=1)
    with pytest.raises(StartupError, match=rf"cannot listen on 127\.0\.0\.1:{server.port} for metrics: Address .*; change metrics\.listen"):
        await second.start()


async def test_nonsense_and_silence_end_with_the_server(server: MetricsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"x" * 100_000)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    silent, other = await asyncio.open_connection("127.0.0.1", server.port)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/metrics")).status_code == 200
    await server.close()
    assert await silent.read() == b""
    other.close()


async def test_a_started_cloud_shows_them(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    settings = Settings(
        state=str(tmp_path),
        api=Api(listen="127.0.0.1:0"),
        host=HostSettings(hypervisor="simulated"),
        metrics=MetricsSettings(listen=listen),
    )
    cloud = Cloud(settings, Choice("simulated", "a test"))
    await cloud.start()
    try:
        async with httpx.AsyncClient() as client:
            assert "python_info" in (await client.get(f"http://{listen}/metrics")).text
    finally:
        await cloud.close()
