"""What only a bus of its own process can suffer: its server killed, frozen, slow, not there, or not what it says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from pileus import metrics
from pileus.bus import BusError, NoAnswer, RemoteError
from pileus.bus import nats as nats_bus
from pileus.bus.link import Link
from pileus.bus.nats import NatsBus
from pileus.errors import StartupError
from pileus.settings import Bus as BusSettings
from tests.engines.nats import NatsServer, free_port


class Word(msgspec.Struct, frozen=True):
    text: str


async def echo(word: Word) -> Word:
    return word


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as running:
        yield running


class Pair:
    """Two processes' ends of one bus. `back` is set each time that `here` has its connection again."""

    def __init__(self, here: NatsBus, there: NatsBus) -> None:
        self.here = here
        self.there = there
        self.back = asyncio.Event()
        here.on_reconnect(self._tell)

    async def _tell(self) -> None:
        self.back.set()


@pytest.fixture
async def pair(server: NatsServer) -> AsyncIterator[Pair]:
    settings = BusSettings(url=server.url)
    made = Pair(await NatsBus.connect(settings, name="here"), await NatsBus.connect(settings, name="there", host="h1"))
    yield made
    await made.here.close()
    await made.there.close()


def heard_by(bus: NatsBus, subject: str = "s") -> asyncio.Queue[Word]:
    heard: asyncio.Queue[Word] = asyncio.Queue()
    bus.subscribe(subject, Word, heard.put)
    return heard


async def lost(bus: NatsBus) -> None:
    """Until a bus has noticed that its connection is over."""
    async with asyncio.timeout(10):
        while bus._link is not None:
            await asyncio.sleep(0.005)


async def test_a_server_killed_and_started_again(server: NatsServer, pair: Pair) -> None:
    heard = heard_by(pair.here)
    pair.here.serve("echo", Word, echo)
    with structlog.testing.capture_logs() as logs:
        server.kill()
        await lost(pair.here)
        await pair.here.publish("s", Word("held back"))
        assert heard.empty()
        server.start()
        async with asyncio.timeout(10):
            await pair.back.wait()
            assert await heard.get() == Word("held back")
            await pair.there.publish("s", Word("from there"))
            assert await heard.get() == Word("from there")
            assert await pair.there.request("echo", Word("?"), Word, timeout=5) == Word("?")
    told = [entry["event"] for entry in logs]
    assert told.count("bus lost") == told.count("bus regained") == 2  # once each, of each end
    assert pair.here.lost == pair.there.lost == 0


async def test_a_request_under_way_ends_at_once_and_one_meanwhile_waits(server: NatsServer, pair: Pair) -> None:
    asked = asyncio.Event()

    async def never(word: Word) -> Word:
        asked.set()
        await asyncio.Event().wait()
        return word

    pair.there.serve("never", Word, never)
    pair.there.serve("echo", Word, echo)
    await pair.there.flush()
    under_way = asyncio.create_task(pair.here.request("never", Word("?"), Word, timeout=60))
    async with asyncio.timeout(5):
        await asked.wait()
    server.kill()
    with pytest.raises(NoAnswer, match="lost"):
        async with asyncio.timeout(5):
            await under_way
    with pytest.raises(NoAnswer, match="no answer within"):
        await pair.here.request("echo", Word("?"), Word, timeout=0.05)
    server.start()
    answer = None
    for _ in range(100):  # `there` may be back later than `here`: then nobody answers yet
        with contextlib.suppress(NoAnswer):
            answer = await pair.here.request("echo", Word("meanwhile"), Word, timeout=5)
            break
        await asyncio.sleep(0.05)
    assert answer == Word("meanwhile")


async def test_a_frozen_server_costs_no_waiting_and_bounded_memory(server: NatsServer, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_bus, "BUFFER_BYTES", 4 << 20)
    heard = heard_by(pair.there)
    await pair.there.flush()
    server.freeze()
    begun = time.monotonic()
    while pair.here.lost == 0:
        await pair.here.publish("s", Word("x" * 500_000))
        await asyncio.sleep(0)
        assert time.monotonic() - begun < 10
    sent = pair.here.lost
    assert pair.here._link is not None
    assert pair.here._link.backlog <= 4 << 20
    await pair.here.publish("s", Word("x" * 500_000))
    assert pair.here.lost == sent + 1
    server.thaw()
    async with asyncio.timeout(10):
        assert len((await heard.get()).text) == 500_000
        while pair.here._link.backlog:
            await asyncio.sleep(0.01)
        await pair.here.publish("s", Word("the last"))
        while (await heard.get()).text != "the last":
            pass


async def test_a_server_that_does_not_answer_is_given_up(server: NatsServer, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_bus, "PING_INTERVAL", 0.02)
    monkeypatch.setattr(nats_bus, "PING_LIMIT", 0.2)
    server.kill()
    server.start()  # so that the short limits count from now on
    async with asyncio.timeout(10):
        await pair.back.wait()
    pair.back.clear()
    heard = heard_by(pair.here)
    server.freeze()
    for _ in range(20):
        await pair.here.publish("s", Word("x" * 500_000))  # more than the sockets take: unsent bytes must not hold the connection
    await lost(pair.here)
    assert not pair.back.is_set()
    server.thaw()
    async with asyncio.timeout(10):
        await pair.back.wait()
        await pair.here.publish("s", Word("again"))
        while (await heard.get()).text != "again":
            pass


async def test_what_is_held_back_is_bounded(server: NatsServer, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_bus, "BUFFER_BYTES", 1000)
    heard = heard_by(pair.here)
    counted = metrics.BUS_LOST.labels("connection")._value.get()
    server.kill()
    await lost(pair.here)
    for n in range(100):
        await pair.here.publish("s", Word(f"{n:02}" * 20))
    assert 0 < pair.here.lost < 100
    assert metrics.BUS_LOST.labels("connection")._value.get() == counted + pair.here.lost
    kept = 100 - pair.here.lost
    server.start()
    async with asyncio.timeout(10):
        got = [await heard.get() for _ in range(kept)]
    assert [word.text[:2] for word in got] == [f"{n:02}" for n in range(kept)]
    with pytest.raises(BusError, match="takes no more"):
        await pair.here.request("s", Word("x" * 2000), Word, timeout=5)


async def test_a_hook_that_fails_or_hangs_stops_nobody(server: NatsServer, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_bus, "HOOK_LIMIT", 0.05)
    told: list[str] = []

    async def fails() -> None:
        told.append("fails")
        raise ValueError("no")

    async def hangs() -> None:
        told.append("hangs")
        await asyncio.Event().wait()

    async def gone() -> None:
        told.append("gone")

    async def last() -> None:
        told.append("last")
        pair.back.set()

    pair.here._hooks.clear()
    for hook in (fails, hangs, last):
        pair.here.on_reconnect(hook)
    pair.here.on_reconnect(gone)()
    server.kill()
    server.start()
    async with asyncio.timeout(10):
        await pair.back.wait()
    assert told == ["fails", "hangs", "last"]


async def test_many_subscriptions_need_no_tasks(pair: Pair) -> None:
    before = len(asyncio.all_tasks())
    queues = [heard_by(pair.there, f"host.h{n}.desired") for n in range(2000)]
    await pair.there.flush()
    assert len(asyncio.all_tasks()) <= before + 1
    await pair.here.publish("host.h77.desired", Word("you"))
    async with asyncio.timeout(5):
        assert await queues[77].get() == Word("you")
    assert len(asyncio.all_tasks()) <= before + 2


async def test_a_large_answer_is_refused_in_words(server: NatsServer, pair: Pair) -> None:
    async def answer(word: Word) -> Word:
        return Word("x" * (2 << 20))

    pair.there.serve("large", Word, answer)
    await pair.there.flush()
    with pytest.raises(RemoteError, match="too large for the bus"):
        await pair.here.request("large", Word("?"), Word, timeout=5)
    with pytest.raises(BusError, match="so large"):
        await pair.here.request("large", Word("x" * (2 << 20)), Word, timeout=5)
    await pair.here.publish("large", Word("x" * (2 << 20)))  # told in the log, and the connection stays
    assert pair.here._link is not None


async def test_answers_go_to_askers_only(pair: Pair) -> None:
    """Or a host could have the control plane speak in its place, by naming another's subject as where the answer should go."""
    commands = heard_by(pair.there, "host.other.desired")
    pair.there.serve("question", Word, echo)
    await pair.there.flush()
    assert pair.here._link is not None
    await pair.here._link.publish("question", msgspec.msgpack.encode(Word("?")), reply="host.other.desired")
    assert await pair.here.request("question", Word("?"), Word, timeout=5) == Word("?")
    await pair.there.flush()
    assert commands.empty()


async def test_what_was_sent_before_the_end_arrives(server: NatsServer, pair: Pair) -> None:
    heard = heard_by(pair.there)
    await pair.there.flush()
    leaving = await NatsBus.connect(BusSettings(url=server.url), name="leaving")
    for n in range(100):
        await leaving.publish("s", Word(str(n)))
    await leaving.close()
    async with asyncio.timeout(5):
        assert [(await heard.get()).text for _ in range(100)] == [str(n) for n in range(100)]


async def test_another_server_is_taken_where_one_is_gone(server: NatsServer) -> None:
    bus = await NatsBus.connect(BusSettings(url=f"nats://127.0.0.1:{free_port()},{server.url}"), name="test")
    await bus.close()


async def refusal(settings: BusSettings) -> str:
    with pytest.raises(StartupError) as caught:
        await (await NatsBus.connect(settings, name="test")).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_no_server_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_bus, "START_LIMIT", 0.2)
    url = f"nats://127.0.0.1:{free_port()}"
    line = await refusal(BusSettings(url=url))
    assert url in line
    assert "refused" in line.lower()


async def test_a_silent_server_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_bus, "START_LIMIT", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert "no answer" in await refusal(BusSettings(url=f"nats://127.0.0.1:{listener.getsockname()[1]}"))


async def test_nothing_is_sent_in_the_clear_where_tls_is_asked_for(server: NatsServer) -> None:
    assert "offers no TLS" in await refusal(BusSettings(url=server.url.replace("nats://", "tls://")))


async def test_files_that_are_none(server: NatsServer, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert "No such file" in await refusal(BusSettings(url=server.url, credentials=str(nothing)))
    assert "No such file" in await refusal(BusSettings(url=server.url, ca=str(nothing)))
    nothing.write_text("nothing")
    assert "not a credentials file" in await refusal(BusSettings(url=server.url, credentials=str(nothing)))
    assert "no certificate" in await refusal(BusSettings(url=server.url, ca=str(nothing)))


async def test_a_wrong_password_is_one_clear_line(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config="authorization { user: pileus, password: secret }") as server:
        assert "credentials refused" in await refusal(BusSettings(url=server.url))


async def test_a_bus_ends_even_where_a_cancellation_is_swallowed(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = asyncio.Event()

    async def alive(link: Link, limit: float) -> bool:
        asking.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(limit)
        return True

    monkeypatch.setattr(nats_bus, "PING_INTERVAL", 0.01)
    monkeypatch.setattr(Link, "alive", alive)
    bus = await NatsBus.connect(BusSettings(url=server.url), name="test")
    async with asyncio.timeout(5):
        await asking.wait()
        await bus.close()
