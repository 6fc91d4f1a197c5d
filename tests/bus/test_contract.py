"""What every bus must hold to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from pileus import metrics
from pileus.bus import Bus, NoAnswer, RemoteError, delivery
from pileus.bus.opening import open_bus
from pileus.settings import Bus as BusSettings
from pileus.settings import Settings
from tests.engines.nats import NatsServer


class Word(msgspec.Struct, frozen=True):
    text: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(params=["in process", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    url = request.getfixturevalue("server").url if request.param == "nats" else ""
    made = await open_bus(Settings(bus=BusSettings(url=url)), name="test")
    yield made
    await made.close()


async def test_everyone_hears_and_one_of_a_group(bus: Bus) -> None:
    heard: dict[str, list[str]] = {"a": [], "b": [], "group": []}
    all_heard = asyncio.Event()

    def hear(name: str):  # type: ignore[no-untyped-def]
        async def handler(word: Word) -> None:
            heard[name].append(word.text)
            if sum(map(len, heard.values())) == 12:
                all_heard.set()

        return handler

    bus.subscribe("s", Word, hear("a"))
    bus.subscribe("s", Word, hear("b"))
    for _ in range(3):
        bus.subscribe("s", Word, hear("group"), queue="workers")
    for n in range(4):
        await bus.publish("s", Word(str(n)))
    async with asyncio.timeout(5):
        await all_heard.wait()
    assert heard["a"] == heard["b"] == ["0", "1", "2", "3"]
    assert sorted(heard["group"]) == ["0", "1", "2", "3"]


async def test_requests_are_answered(bus: Bus) -> None:
    async def answer(word: Word) -> Word:
        return Word(word.text.upper())

    bus.serve("shout", Word, answer)
    assert await bus.request("shout", Word("hello"), Word, timeout=5) == Word("HELLO")


async def test_nobody_answers(bus: Bus) -> None:
    with pytest.raises(NoAnswer):
        await bus.request("nowhere", Word("?"), Word, timeout=0.05)


async def test_too_late(bus: Bus) -> None:
    async def never(word: Word) -> Word:
        await asyncio.Event().wait()
        return word

    bus.serve("slow", Word, never)
    with pytest.raises(NoAnswer):
        await bus.request("slow", Word("?"), Word, timeout=0.05)


async def test_an_error_comes_back_in_words(bus: Bus) -> None:
    async def refuse(word: Word) -> Word:
        raise ValueError(f"not {word.text}")

    bus.serve("refuse", Word, refuse)
    with pytest.raises(RemoteError, match="not this"):
        await bus.request("refuse", Word("this"), Word, timeout=5)


async def test_a_handler_that_fails_does_not_end_the_subscription(bus: Bus) -> None:
    heard = asyncio.Event()

    async def handler(word: Word) -> None:
        if word.text == "bad":
            raise ValueError("bad")
        heard.set()

    bus.subscribe("s", Word, handler)
    await bus.publish("s", Word("bad"))
    await bus.publish("s", Word("good"))
    async with asyncio.timeout(5):
        await heard.wait()


async def test_after_close_nothing_is_handled(bus: Bus) -> None:
    heard: list[Word] = []

    async def handler(word: Word) -> None:
        heard.append(word)

    await bus.subscribe("s", Word, handler).close()
    await bus.publish("s", Word("x"))
    await asyncio.sleep(0)
    assert heard == []


async def test_concurrency(bus: Bus) -> None:
    inside = 0
    both = asyncio.Event()

    async def handler(word: Word) -> None:
        nonlocal inside
        inside += 1
        if inside == 2:
            both.set()
        await both.wait()

    bus.subscribe("s", Word, handler, concurrency=2)
    await bus.publish("s", Word("1"))
    await bus.publish("s", Word("2"))
    async with asyncio.timeout(5):
        await both.wait()


async def test_a_slow_subscriber_loses_what_its_buffer_does_not_take(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BUFFER", 10)
    go, heard = asyncio.Event(), list[str]()
    other: asyncio.Queue[Word] = asyncio.Queue()

    async def slow(word: Word) -> None:
        await go.wait()
        heard.append(word.text)

    subscription = bus.subscribe("s", Word, slow)
    bus.subscribe("s", Word, other.put)
    counted = metrics.BUS_LOST.labels("subscription")._value.get()
    for n in range(10):
        await bus.publish("s", Word(str(n)))
        async with asyncio.timeout(5):
            await other.get()
    for n in range(10, 30):
        await bus.publish("s", Word(str(n)))
        async with asyncio.timeout(5):
            await other.get()
    go.set()
    async with asyncio.timeout(5):
        while len(heard) < 11:
            await asyncio.sleep(0.005)
    assert heard == [str(n) for n in range(11)]  # one that is being handled, ten that wait
    assert metrics.BUS_LOST.labels("subscription")._value.get() == counted + 19
    await subscription.close()


async def test_a_buffer_is_bounded_in_bytes(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BUFFER_BYTES", 1000)
    heard: asyncio.Queue[Word] = asyncio.Queue()
    bus.subscribe("s", Word, heard.put)
    await bus.publish("s", Word("x" * 2000))
    await bus.publish("s", Word("x"))
    async with asyncio.timeout(5):
        assert await heard.get() == Word("x")


async def test_close_ends_what_is_being_handled(bus: Bus) -> None:
    inside, ended = asyncio.Event(), asyncio.Event()

    async def handler(word: Word) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    subscription = bus.subscribe("s", Word, handler)
    await bus.publish("s", Word("x"))
    async with asyncio.timeout(5):
        await inside.wait()
        await subscription.close()
    assert ended.is_set()


async def test_answers_find_who_asked(bus: Bus) -> None:
    async def answer(word: Word) -> Word:
        await asyncio.sleep(0.02 if word.text == "0" else 0)
        return word

    bus.serve("echo", Word, answer, concurrency=8)
    answers = await asyncio.gather(*[bus.request("echo", Word(str(n)), Word, timeout=5) for n in range(50)])
    assert answers == [Word(str(n)) for n in range(50)]


async def test_a_reconnect_hook_is_not_called_for_nothing_and_can_be_taken_back(bus: Bus) -> None:
    called: list[int] = []

    async def tell() -> None:
        called.append(1)

    bus.on_reconnect(tell)()
    bus.on_reconnect(tell)
    await bus.publish("s", Word("x"))
    assert called == []


class Said(msgspec.Struct, frozen=True):
    host: str


async def test_a_listener_to_all_hears_each_sender_speak_for_itself(bus: Bus) -> None:
    heard: asyncio.Queue[Said] = asyncio.Queue()
    bus.subscribe("from.*.word", Said, heard.put)
    await bus.publish("from.b.word", Said("a"))
    await bus.publish("from.b.other", Said("b"))
    await bus.publish("from.a%2Eorg.word", Said("a.org"))
    async with asyncio.timeout(5):
        assert await heard.get() == Said("a.org")
    assert heard.empty()


async def test_a_question_in_anothers_name_is_refused(bus: Bus) -> None:
    async def answer(said: Said) -> Said:
        return said

    bus.serve("from.*.question", Said, answer)
    assert await bus.request("from.a.question", Said("a"), Said, timeout=5) == Said("a")
    with pytest.raises(RemoteError, match="says it is from b"):
        await bus.request("from.a.question", Said("b"), Said, timeout=5)
