"""Tickets: "whoever shows this may read the data of image X until T", signed. A host shows one instead of a token.

The keys are in the database, one for each period, made by whoever needs it first: so all processes of the service share them. A key is
accepted for as long as a ticket that it signed may live, and removed then.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from sqlalchemy import bindparam, delete, select

from pileus.errors import Unauthorized
from pileus.image.tables import ticket_keys
from pileus.store import Store, Tx
from pileus.store.sql import first, insert_new

HEADER = "X-Pileus-Image-Ticket"
LONGEST = 200
PERIOD = 86400.0
"""Seconds that a key signs for, unless tickets live longer than that."""

_KEY = select(ticket_keys.c.secret).where(ticket_keys.c.number == bindparam("number"))


class Tickets:
    """`lifetime`: seconds that a ticket is good for."""

    def __init__(self, store: Store, lifetime: float) -> None:
        self._store = store
        self._lifetime = lifetime
        self._period = max(PERIOD, lifetime)
        self._keys: dict[int, bytes] = {}

    async def issue(self, image_id: str) -> str:
        """A ticket for one image. One statement a period and process, else none."""
        now = time.time()
        number = int(now // self._period)
        key = self._keys.get(number) or await self._make(number)
        expires = int(now + self._lifetime)
        return f"{number}.{expires}.{_sign(key, image_id, expires)}"

    async def check(self, ticket: str, image_id: str) -> None:
        """Raises Unauthorized unless the ticket is ours, for this image, and still good."""
        parts = ticket.split(".")
        if len(ticket) > LONGEST or not ticket.isascii() or len(parts) != 3 or not all(part.isdigit() for part in parts[:2]):
            raise Unauthorized("The image ticket is malformed.")
        number, expires = int(parts[0]), int(parts[1])
        now = time.time()
        # Only a number that can be good is looked up: a stranger's invention costs no statement.
        possible = abs(number - now // self._period) <= 1
        key = (self._keys.get(number) or await self._find(number)) if possible else None
        if key is None or not hmac.compare_digest(_sign(key, image_id, expires), parts[2]):
            raise Unauthorized("The image ticket is not valid for this image.")
        if expires < now:
            raise Unauthorized("The image ticket has expired; the control plane sends a fresh one with the server's desired state.")

    async def _make(self, number: int) -> bytes:
        key = self._keys[number] = await self._store.write(_make_key, number)
        for old in [each for each in self._keys if each < number - 1]:
            del self._keys[old]
        return key

    async def _find(self, number: int) -> bytes | None:
        key = await self._store.read(_find_key, number)
        if key is not None:
            self._keys[number] = key
        return key


def _make_key(tx: Tx, number: int) -> bytes:
    """The key of a period, made if nobody has yet; those that no living ticket was signed with go."""
    if insert_new(tx, ticket_keys, {"number": number, "secret": secrets.token_hex(32), "made_at": time.time()}):
        tx.execute(delete(ticket_keys).where(ticket_keys.c.number < number - 1))
    key = _find_key(tx, number)
    assert key is not None, "it was made, or stood in the way"
    return key


def _find_key(tx: Tx, number: int) -> bytes | None:
    found = first(tx, _KEY, number=number)
    return None if found is None else bytes.fromhex(found["secret"])


def _sign(key: bytes, image_id: str, expires: int) -> str:
    return hmac.new(key, f"{image_id} {expires}".encode(), hashlib.sha256).hexdigest()
