"""Several faces on one port."""

from __future__ import annotations

import httpx
import pytest
from starlette._utils import get_route_path
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pileus.http.mount import mount


def echo(name: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{name} {get_route_path(scope)}")(scope, receive, send)

    return app


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/one", 200, "one /"),
        ("/one/", 200, "one /"),
        ("/one/v2/x", 200, "one /v2/x"),
        ("/two/one", 200, "two /one"),
        ("/onerous", 404, ""),
        ("/", 404, ""),
    ],
)
async def test_prefixes(path: str, status: int, text: str) -> None:
    app = mount({"/one": echo("one"), "/two": echo("two")})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        answer = await http.get(path)
        assert answer.status_code == status
        assert answer.text == text if text else "/one, /two" in answer.json()["error"]["message"]
        assert (await http.head(path)).status_code == status
