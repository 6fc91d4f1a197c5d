"""Several faces on one port, each under its own prefix."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send


def mount(faces: Mapping[str, ASGIApp]) -> ASGIApp:
    """`faces` by prefix (`/identity`). A prefix without a slash behind it is that face's `/`: clients are given such URLs."""
    nowhere = msgspec.json.encode({"error": {"code": 404, "message": f"Nothing here; try {', '.join(faces)}.", "title": "Not Found"}})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is spoken here, not {scope['type']}; run the server with lifespan off")
        path: str = scope["path"]
        prefix = "/" + path.split("/", 2)[1] if path.startswith("/") else ""
        face = faces.get(prefix)
        if face is None:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(nowhere)).encode())]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else nowhere})
            return
        await face({**scope, "root_path": prefix, "path": path if path != prefix else f"{prefix}/"}, receive, send)

    return app
