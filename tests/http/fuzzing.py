"""Nonsense for every route of a face: whatever is sent, no answer is a 5xx."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import httpx

from pileus.http.face import Route

WORDS = (
    "",
    "x",
    "null",
    "0",
    "-1",
    "1" * 30,
    "1e400",
    "é☃",
    "a:b",
    "in:a,b",
    "../..",
    "%",
    "'; --",
    "x" * 300,
    "\ud7ff",
    "true",
    "gt:x",
    "\x01",
)


class Fuzz:
    """`ids` are things that exist; `keys` and `queries` names that the face knows; `good` bodies that it takes."""

    def __init__(self, seed: int, ids: Sequence[str], keys: Sequence[str], queries: Sequence[str], good: Sequence[Any]) -> None:
        self.random = random.Random(seed)
        self.ids, self.keys, self.queries, self.good = ids, keys, queries, good

    async def run(
        self, client: httpx.AsyncClient, routes: Sequence[Route[Any]], rounds: int, versions: Sequence[str], service: str
    ) -> None:
        for _ in range(rounds):
            for route in routes:
                path = re.sub(r"{[^}]*}", lambda _: self._segment(), route.path)
                query = [(str(self._choose(*self.queries, *WORDS)), self._word()) for _ in range(self.random.randrange(4))]
                headers = {"OpenStack-API-Version": f"{service} {self.random.choice(versions)}"} if versions else {}
                content = self._body() if route.method not in ("GET", "DELETE") else b""
                kind = self._choose("application/json", "application/json", "application/octet-stream", self.media)
                answer = await client.request(
                    route.method,
                    path or "/",
                    params=httpx.QueryParams(tuple(query)),
                    content=content,
                    headers={**headers, "Content-Type": kind},
                )
                assert answer.status_code < 500, (route.method, path, query, headers, content, answer.text)

    media = "application/json"

    def _choose(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def _word(self) -> str:
        return str(self._choose(*WORDS, *self.ids, *self.keys))

    def _segment(self) -> str:
        return str(self._choose(*self.ids, *self.ids, "x", "1" * 40, "%00", "%FF", "VCPU", "é"))

    def _body(self) -> bytes:
        if self.random.random() < 0.1:
            return bytes(self._choose(b"", b"{", b"\xff", b"[" * 5000, b'"\\ud800"', b"1e999", b"\0"))
        value = self._mutated(self._choose(*self.good)) if self.good and self.random.random() < 0.7 else self._json(3)
        return json.dumps(value).encode()

    def _json(self, depth: int) -> Any:
        scalars: tuple[Any, ...] = (None, True, 0, -1, 2**31, 2**63, 2**70, 1.5, 1e308, [], {}, "\u0000", self._word())
        if depth == 0 or self.random.random() < 0.4:
            return self._choose(*scalars)
        if self.random.random() < 0.3:
            return [self._json(depth - 1) for _ in range(self.random.randrange(3))]
        return {self._choose(*self.keys, *self.ids, self._word()): self._json(depth - 1) for _ in range(self.random.randrange(4))}

    def _mutated(self, value: Any) -> Any:
        if self.random.random() < 0.12:
            return self._json(2)
        if isinstance(value, dict):
            return {key: self._mutated(inner) for key, inner in value.items() if self.random.random() > 0.05}
        if isinstance(value, list):
            return [self._mutated(inner) for inner in value for _ in range(self._choose(1, 1, 1, 2))]
        return value
