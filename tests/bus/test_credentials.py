"""A real nats-server with the TLS and the keys that `pileus bus setup` makes: what a host may do on it, and all that it may not."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import nats
import nats.errors
import pytest
import structlog

from pileus import messages, settings
from pileus.bus import NoAnswer, RemoteError, authority, keys
from pileus.bus.nats import NatsBus
from pileus.clients.image import ImageInfo
from pileus.context import Context
from pileus.errors import NotFound, StartupError
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.images import ImageCache
from pileus.host.service import Host, Parts
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import Desired, GuestSpec, HostFacts, Observed, PortWiring, from_host, from_hosts
from tests.engines.nats import NatsServer, free_port

NAME = "h1.example"
"""With a dot, as hosts' names have them: one token of a subject all the same."""
OTHER = "h2"
QUIET = 0.15
"""Seconds in which what may not arrive would have."""


class Said(msgspec.Struct, frozen=True):
    host: str


class Keyring:
    """A folder of keys with the server that runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bus"
        port = free_port()
        authority.setup(self.folder, listen=f"127.0.0.1:{port}", names=["127.0.0.1", "localhost"], installed=Path("/unused"))
        for name in (NAME, OTHER):
            authority.add_host(self.folder, name, {}, hollow=False, days=None, installed=Path("/unused"))
        authority.add_host(self.folder, "lab", {}, hollow=True, days=1, installed=Path("/unused"))
        self.server = NatsServer(folder, port=port, file=self.folder / "nats.conf")

    def bus(self, who: str = "") -> settings.Bus:
        file = self.folder / (f"hosts/{who}.creds" if who else "control.creds")
        return settings.Bus(url=f"tls://{self.server.address}", credentials=str(file), ca=str(self.folder / "tls" / "ca.pem"))

    async def connect(self, who: str = "") -> NatsBus:
        return await NatsBus.connect(self.bus(who), name=who or "control plane", host=who)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    made = Keyring(tmp_path_factory.mktemp("ring"))
    with made.server:
        yield made


@pytest.fixture
async def control(ring: Keyring) -> AsyncIterator[NatsBus]:
    made = await ring.connect()
    yield made
    await made.close()


@pytest.fixture
async def host(ring: Keyring) -> AsyncIterator[NatsBus]:
    made = await ring.connect(NAME)
    yield made
    await made.close()


class NoImages:
    async def show(self, context: Context, image_id: str) -> ImageInfo:
        raise NotFound(f"No image {image_id}")

    def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        raise NotFound(f"No image {image_id}")


async def test_a_host_works_with_its_credentials(control: NatsBus, host: NatsBus, tmp_path: Path) -> None:
    """All that a host says and asks, by both plug signals, and all that it is told and asked."""
    beats: asyncio.Queue[HostFacts] = asyncio.Queue()
    observed: asyncio.Queue[Observed] = asyncio.Queue()
    levels: asyncio.Queue[messages.DeviceLevels] = asyncio.Queue()
    port = PortWiring("port", 1, "net", "local", None, None, 1500, "fa:16:3e:00:00:01", [], [])

    async def details(request: messages.DeviceDetailsRequest) -> messages.DeviceDetails:
        return messages.DeviceDetails([port] if "port" in request.port_ids else [])

    async def taken(said: messages.DeviceLevels) -> messages.Taken:
        levels.put_nowait(said)
        return messages.Taken(len(said.levels))

    async def ready(request: messages.ReadinessRequest) -> messages.Readiness:
        return messages.Readiness({"port": 1}, {})

    control.subscribe(from_hosts(messages.HEARTBEAT), HostFacts, beats.put)
    control.subscribe(from_hosts(messages.OBSERVED), Observed, observed.put)
    control.serve(from_hosts(messages.DETAILS), messages.DeviceDetailsRequest, details)
    control.serve(from_hosts(messages.LEVELS), messages.DeviceLevels, taken)
    control.serve(from_hosts(messages.READINESS), messages.ReadinessRequest, ready)
    await control.flush()
    simulated = settings.Simulated()
    parts = Parts(
        SimulatedHypervisor(simulated),
        SimulatedSwitch(simulated),
        SimulatedDhcp(),
        ImageCache(tmp_path / "cache", NoImages(), settings.Host()),
    )
    machine = Host(NAME, parts, host, settings.Settings(compute=settings.Compute(plug_signal="callback")))
    await machine.start()
    try:
        async with asyncio.timeout(10):
            assert (await beats.get()).host == NAME
            spec = GuestSpec("server", "name", "name", "project", 1, 128, 0, messages.BootSource(), [port])
            desired = Desired("server", 1, "running", "create", spec, signal="callback", plug_timeout=30.0)
            await control.publish(messages.desired_subject(NAME), desired)
            told = await observed.get()
            while not (told.server_id == "server" and told.generation == 1):
                told = await observed.get()
            assert (told.power, told.cause) == ("running", "")
            assert (await levels.get()).host == NAME
            question = messages.ConsoleRequest("server", None)
            answer = await control.request(messages.console_subject(NAME), question, messages.ConsoleText, timeout=5)
            assert isinstance(answer.text, str)
    finally:
        await machine.close()


async def test_the_two_sides_of_a_host_speak_to_one_another(ring: Keyring, host: NatsBus) -> None:
    agent = await ring.connect(NAME)

    async def echo(said: Said) -> Said:
        return said

    agent.serve(messages.order_subject(NAME, "plug"), Said, echo)
    heard: asyncio.Queue[Said] = asyncio.Queue()
    host.subscribe(messages.holdings_subject(NAME), Said, heard.put)
    await agent.flush()
    await host.flush()
    assert await host.request(messages.order_subject(NAME, "plug"), Said(NAME), Said, timeout=5) == Said(NAME)
    await agent.publish(messages.holdings_subject(NAME), Said(NAME))
    async with asyncio.timeout(5):
        await heard.get()
    await agent.close()


FORBIDDEN_TO_SAY = [
    from_host(OTHER, "observed"),
    from_host(OTHER, "heartbeat"),
    "from.observed",
    f"from.{NAME}.observed",  # its name, but not its token
    messages.desired_subject(OTHER),
    messages.desired_subject(NAME),
    messages.order_subject(OTHER, "wire"),
    messages.holdings_subject(OTHER),
    messages.console_subject(OTHER),
    messages.ACTIONS,
    messages.COMPUTE_ECHO,
    messages.NETWORK_ECHO,
    f"_INBOX_{OTHER}.x.y",
    "$SYS.REQ.SERVER.PING",
]
FORBIDDEN_TO_HEAR = [
    messages.desired_subject(OTHER),
    f"host.{OTHER}.>",
    "host.*.desired",
    "host.>",
    from_hosts("observed"),
    from_host(OTHER, "observed"),
    from_host(NAME, "observed"),
    f"_INBOX_{OTHER}.>",
    "_INBOX.>",
    "_INBOX.*.*",
    "*.>",
    ">",
    messages.ACTIONS,
    messages.COMPUTE_ECHO,
    "$SYS.>",
]


async def test_a_host_can_speak_for_no_other_and_command_nobody(control: NatsBus, host: NatsBus) -> None:
    heard: list[str] = []

    async def hear(word: Said) -> None:
        heard.append(word.host)

    for subject in FORBIDDEN_TO_SAY:
        if not subject.startswith("$"):
            control.subscribe(subject, Said, hear)
    control.subscribe(from_host(NAME, "observed"), Said, hear)
    await control.flush()
    with structlog.testing.capture_logs() as logs:
        for subject in FORBIDDEN_TO_SAY:
            await host.publish(subject, Said(subject))
        await host.publish(from_host(NAME, "observed"), Said("allowed"))
        await host.flush()
        await control.flush()
        async with asyncio.timeout(5):
            while "allowed" not in heard:
                await asyncio.sleep(0.005)
    assert heard == ["allowed"]
    refused = [entry["cause"].lower() for entry in logs if entry["event"] == "the bus refused something"]
    assert len(refused) == len(FORBIDDEN_TO_SAY)
    assert all("permissions violation for publish" in cause for cause in refused)


async def test_a_host_hears_nothing_that_is_said_to_others(ring: Keyring, control: NatsBus) -> None:
    """With any client, not only ours: the server refuses each of these subscriptions."""
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    client = await nats.connect(
        f"tls://{ring.server.address}",
        user_credentials=str(ring.folder / "hosts" / f"{NAME}.creds"),
        tls=ssl.create_default_context(cafile=str(ring.folder / "tls" / "ca.pem")),
        error_cb=note,
        allow_reconnect=False,
    )
    heard: list[str] = []

    async def hear(message: nats.aio.msg.Msg) -> None:
        heard.append(message.subject)

    inbox = await client.subscribe(f"_INBOX_{messages.token(NAME)}.turn")

    async def turn() -> None:
        """Until all that was sent before has been answered (the client's own `flush` overtakes what waits to be sent)."""
        await client.publish(inbox.subject)
        await inbox.next_msg(timeout=5)

    try:
        for queue in ("", "workers"):
            for subject in FORBIDDEN_TO_HEAR:
                await client.subscribe(subject, queue=queue, cb=hear)
        await client.subscribe(messages.desired_subject(NAME), cb=hear)
        await turn()
        assert len(errors) == 2 * len(FORBIDDEN_TO_HEAR)
        assert all("permissions violation for subscription" in error for error in errors)
        for subject in (messages.desired_subject(OTHER), from_host(OTHER, "observed"), messages.ACTIONS, messages.desired_subject(NAME)):
            await control.publish(subject, Said("x"))
        with pytest.raises(NoAnswer):  # its inbox, and the question's, are nobody else's to read
            await control.request(messages.console_subject(OTHER), Said("x"), Said, timeout=QUIET)
        await control.flush()
        await turn()
        assert heard == [messages.desired_subject(NAME)]
    finally:
        await client.close()


async def test_a_host_cannot_have_itself_asked_to_answer_to_others(ring: Keyring, control: NatsBus, host: NatsBus) -> None:
    """It may speak to its own agent: so what it says there, with where the answer should go, must give it no leave."""
    heard: list[Said] = []

    async def hear(word: Said) -> None:
        heard.append(word)

    control.subscribe(messages.desired_subject(OTHER), Said, hear)
    await control.flush()
    got = asyncio.Event()

    async def own(word: Said) -> None:
        got.set()

    host.subscribe(messages.order_subject(NAME, "wire"), Said, own)
    await host.flush()
    assert host._link is not None
    await host._link.publish(messages.order_subject(NAME, "wire"), msgspec.msgpack.encode(Said("x")), reply=messages.desired_subject(OTHER))
    async with asyncio.timeout(5):
        await got.wait()
    await host.publish(messages.desired_subject(OTHER), Said("forged"))
    await host.flush()
    await control.publish(messages.desired_subject(OTHER), Said("real"))
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0.005)
    assert heard == [Said("real")]


async def test_a_message_that_names_another_host_is_refused(control: NatsBus, host: NatsBus) -> None:
    heard: asyncio.Queue[Said] = asyncio.Queue()

    async def echo(said: Said) -> Said:
        return said

    control.subscribe(from_hosts("observed"), Said, heard.put)
    control.serve(from_hosts("readiness"), Said, echo)
    await control.flush()
    await host.publish(from_host(NAME, "observed"), Said(OTHER))
    await host.publish(from_host(NAME, "observed"), Said(NAME))
    async with asyncio.timeout(5):
        assert await heard.get() == Said(NAME)
    with pytest.raises(RemoteError, match=f"says it is from {OTHER}"):
        await host.request(from_host(NAME, "readiness"), Said(OTHER), Said, timeout=5)


async def test_hollow_hosts_share_a_process(ring: Keyring, control: NatsBus) -> None:
    heard: asyncio.Queue[Said] = asyncio.Queue()
    control.subscribe(from_hosts("observed"), Said, heard.put)
    await control.flush()
    lab = await ring.connect("lab")
    told: asyncio.Queue[Said] = asyncio.Queue()
    lab.subscribe(messages.desired_subject("lab-0001"), Said, told.put)
    await lab.publish(from_host("lab-0001", "observed"), Said("lab-0001"))
    async with asyncio.timeout(5):
        assert await heard.get() == Said("lab-0001")
        await control.publish(messages.desired_subject("lab-0001"), Said("x"))
        assert await told.get() == Said("x")
    await lab.close()


async def refusal(bus: settings.Bus) -> str:
    with pytest.raises(StartupError) as caught:
        await (await NatsBus.connect(bus, name="test")).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_strangers_are_refused(ring: Keyring, tmp_path: Path) -> None:
    begun = time.monotonic()
    good = ring.bus(NAME)
    assert "credentials refused" in await refusal(msgspec.structs.replace(good, credentials=""))
    stranger, user = keys.Key.new(keys.ACCOUNT), keys.Key.new(keys.USER)
    file = tmp_path / "stranger.creds"
    file.write_bytes(keys.credentials(keys.control_jwt(stranger, user), user))
    assert "credentials refused" in await refusal(msgspec.structs.replace(good, credentials=str(file)))
    assert "certificate" in await refusal(msgspec.structs.replace(good, ca=""))
    elsewhere = tmp_path / "elsewhere"
    authority.setup(elsewhere, listen="127.0.0.1:1", names=["127.0.0.1"], installed=tmp_path)
    assert "certificate" in await refusal(msgspec.structs.replace(good, ca=str(elsewhere / "tls" / "ca.pem")))
    assert time.monotonic() - begun < 5


async def test_the_certificate_is_for_its_names_only(ring: Keyring, tmp_path: Path) -> None:
    good = ring.bus(NAME)
    bus = await NatsBus.connect(msgspec.structs.replace(good, url=f"tls://localhost:{ring.server.port}"), name="test", host=NAME)
    await bus.close()
    port, folder = free_port(), tmp_path / "bus"
    authority.setup(folder, listen=f"127.0.0.1:{port}", names=["bus.example", "192.0.2.1"], installed=tmp_path)
    with NatsServer(tmp_path, port=port, file=folder / "nats.conf"):
        credentials, ca = str(folder / "control.creds"), str(folder / "tls" / "ca.pem")
        assert "certificate" in await refusal(settings.Bus(url=f"tls://127.0.0.1:{port}", credentials=credentials, ca=ca))


async def test_credentials_that_are_over_are_refused(ring: Keyring) -> None:
    authority.add_host(ring.folder, "brief", {}, hollow=False, days=-1, installed=Path("/unused"))
    assert "credentials refused" in await refusal(ring.bus("brief"))


async def test_a_removed_host_is_off_the_bus_once_the_server_has_read_it(ring: Keyring) -> None:
    authority.add_host(ring.folder, "leaver", {}, hollow=False, days=None, installed=Path("/unused"))
    credentials = (ring.folder / "hosts" / "leaver.creds").read_bytes()
    bus = await ring.connect("leaver")  # without a word to the server
    stays = await ring.connect(NAME)
    authority.remove_host(ring.folder, "leaver")
    assert not (ring.folder / "hosts" / "leaver.creds").exists()
    kept = ring.folder / "hosts" / "leaver.creds"
    authority.write(kept, credentials)
    second = await ring.connect("leaver")  # removal alone changes nothing yet, as its help says
    await second.close()
    with structlog.testing.capture_logs() as logs:
        ring.server.reload()
        async with asyncio.timeout(10):
            while not any(entry["event"].startswith("bus cannot be regained") for entry in logs):
                await asyncio.sleep(0.01)
    assert bus._link is None
    assert "credentials refused" in await refusal(ring.bus("leaver"))
    kept.unlink()
    authority.add_host(ring.folder, "leaver", {}, hollow=False, days=None, installed=Path("/unused"))
    again = await ring.connect("leaver")  # new credentials are good
    for each in (bus, again, stays):
        await each.close()


def test_secrets_are_for_their_owner_only(ring: Keyring) -> None:
    secrets = [*ring.folder.glob("keys/*"), *ring.folder.glob("**/*.creds"), ring.folder / "tls" / "server.key"]
    assert len(secrets) >= 8
    assert {file.stat().st_mode & 0o777 for file in secrets} == {0o600}
    assert ring.folder.stat().st_mode & 0o077 == 0


def test_claims_name_what_is_meant() -> None:
    account, user = keys.Key.new(keys.ACCOUNT), keys.Key.new(keys.USER)
    head, body, signature = keys.host_jwt(account, user, NAME, hollow=False, expires=12.5).split(".")
    claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=="))
    assert (claims["iss"], claims["sub"], claims["exp"], claims["name"]) == (account.public, user.public, 12, NAME)
    assert claims["nats"]["sub"] == {"allow": ["host.h1%2Eexample.>", "_INBOX_h1%2Eexample.>"]}
    assert all("h1%2Eexample" in subject or subject == "_INBOX.>" for subject in claims["nats"]["pub"]["allow"])
    assert msgspec.json.decode(base64.urlsafe_b64decode(head + "==")) == {"typ": "JWT", "alg": "ed25519-nkey"}
    assert account._pair.verify(f"{head}.{body}".encode(), base64.urlsafe_b64decode(signature + "=="))
    assert (account.public[0], user.public[0]) == ("A", "U")
