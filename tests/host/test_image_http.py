"""Images over HTTP: cut off, they go on where they were; refused, they end with the reason."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pileus.errors import StartupError
from pileus.host import image_http
from pileus.host.image_http import TICKET, HttpImages
from pileus.host.images import ImageCache, ImageError
from pileus.messages import ImageRef
from pileus.settings import Host

DATA = os.urandom(700_000)
REFERENCE = ImageRef("image-1", "raw", len(DATA), hashlib.sha512(DATA).hexdigest(), len(DATA), ticket="let-me-in")

Answer = Callable[[dict[str, str]], tuple[str, dict[str, str], bytes]]
"""Headers of a request → status line, headers, and how much of the body really goes out before the connection ends."""


def plain(headers: dict[str, str]) -> tuple[str, dict[str, str], bytes]:
    start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    more = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
    return ("206 Partial Content" if start else "200 OK"), {"Content-Length": str(len(DATA) - start), **more}, DATA[start:]


def status(line: str) -> Answer:
    return lambda _: (line, {"Content-Length": "0"}, b"")


def cut(size: int) -> Answer:
    def answer(headers: dict[str, str]) -> tuple[str, dict[str, str], bytes]:
        line, more, body = plain(headers)
        return line, more, body[:size]

    return answer


def ignores_the_range(headers: dict[str, str]) -> tuple[str, dict[str, str], bytes]:
    return plain({})


class Api:
    """Gives the answers in turn, the last one again and again; notes the requests' headers."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        self.asked.append(headers | {"path": head[0].split()[1]})
        line, more, body = (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(headers)
        lines = [f"HTTP/1.1 {line}", *(f"{name}: {value}" for name, value in more.items()), "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def api(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Api]:
    made = Api(*answers)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_http, "FIRST_PAUSE", 0.001)


async def get(folder: Path, url: str, reference: ImageRef = REFERENCE, ca: str = "") -> bytes:
    images = HttpImages(url, ca)
    try:
        async with asyncio.timeout(20):
            return (await ImageCache(folder / "cache", images, Host()).get(reference)).read_bytes()
    finally:
        await images.close()


async def test_it_shows_the_ticket(tmp_path: Path) -> None:
    async with api(plain) as server:
        assert await get(tmp_path, server.url) == DATA
    [asked] = server.asked
    assert (asked["path"], asked[TICKET.lower()]) == ("/image/v2/images/image-1/file", "let-me-in")
    assert "x-auth-token" not in asked


async def test_what_is_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    async with api(cut(100_000), cut(0), cut(300_000), status("503 Service Unavailable"), status("429 Slow down"), plain) as server:
        assert await get(tmp_path, server.url) == DATA
    assert [each.get("range") for each in server.asked] == [None, *["bytes=100000-"] * 2, *["bytes=400000-"] * 3]


async def test_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    async with api(plain) as server:
        pass
    fetching = asyncio.create_task(get(tmp_path, server.url))
    await asyncio.sleep(0.02)
    assert not fetching.done()
    port = int(server.url.rpartition(":")[2])
    async with await asyncio.start_server(server.serve, "127.0.0.1", port):
        assert await fetching == DATA


@pytest.mark.parametrize("line", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "204 No Content", "302 Found"])
async def test_an_answer_that_will_not_change_ends_it(tmp_path: Path, line: str) -> None:
    async with api(status(line)) as server:
        with pytest.raises(ImageError, match=f"image image-1: the image service answered {line}"):
            await get(tmp_path, server.url)
    assert len(server.asked) == 1
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_server_that_cannot_go_on_in_the_middle_is_not_believed(tmp_path: Path) -> None:
    async with api(cut(10), ignores_the_range) as server:
        with pytest.raises(ImageError, match="answered 200"):
            await get(tmp_path, server.url)


async def test_a_connection_that_brings_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_http, "READ_LIMIT", 0.05)
    stuck = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if stuck.is_set():
            await server.serve(reader, writer)
            return
        stuck.set()
        await reader.read()
        writer.close()

    server = Api(plain)
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        assert await get(tmp_path, f"http://127.0.0.1:{port}") == DATA
    assert len(server.asked) == 1


def certificate(folder: Path) -> Path:
    """Self-signed, for 127.0.0.1: key and certificate in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pileus test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
    signed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return path


async def test_tls_with_a_certificate_of_our_own(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    async with api(plain, tls=context) as server:
        assert await get(tmp_path / "trusting", server.url, ca=str(path)) == DATA
        with pytest.raises(TimeoutError):
            images = HttpImages(server.url)
            async with asyncio.timeout(0.2):
                await ImageCache(tmp_path / "wary" / "cache", images, Host()).get(REFERENCE)
    assert len(server.asked) == 1


def test_a_certificate_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"host\.api_ca.*No such file"):
        HttpImages("https://127.0.0.1:1", str(tmp_path / "none.pem"))
