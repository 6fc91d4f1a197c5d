"""The identity service: what the API face and the other services call."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, NamedTuple

import structlog

from pileus.context import Context
from pileus.errors import StartupError, Unauthorized, Unavailable
from pileus.identity import bootstrap, catalog, domains, grants, keys, projects, tokens, users
from pileus.identity.bootstrap import Bootstrapped
from pileus.identity.grants import REFUSED, Grant, Ref
from pileus.identity.keys import Keys
from pileus.identity.passwords import Passwords
from pileus.identity.tokens import Claims
from pileus.settings import Settings
from pileus.store import P, Store, T, Tx
from pileus.store.sql import Row

log = structlog.get_logger(__name__)

CACHED = 4096
"""Most tokens whose grant is remembered."""
FRESH = 10.0
"""Seconds that a remembered grant is used at most, whatever happened to the tables outside of this process."""
UPKEEP = 3600.0
"""Seconds between two purges."""
READ_APART = 5.0
"""Seconds between two readings of the keys for a token that none of those we know has sealed."""


class _Entry(NamedTuple):
    epoch: int
    until: float
    grant: Grant


class Identity:
    """`start` comes before everything else. Faces call `authenticate`, the notifier `service_token`.

    Any number of processes have one on the same database: what one of them writes, each of the others heeds within `FRESH`.
    """

    def __init__(self, store: Store, settings: Settings, keys_folder: Path, base_url: str, *, now: Callable[[], float] = time.time) -> None:
        self.base_url = base_url.rstrip("/")
        self.lifetime = settings.identity.token_lifetime
        self.catalog = catalog.catalog(self.base_url)
        self.passwords = Passwords()
        self.now = now
        self.admin_password = settings.identity.admin_password
        self._store = store
        self._keys = Keys(now)
        self._keys_folder = keys_folder
        self._rotation = settings.identity.key_rotation
        self._keys_read = 0.0
        self._readings = 0
        self._reading = asyncio.Lock()
        self._epoch = 0
        self._grants: dict[str, _Entry] = {}
        self._service_token: tuple[str, Grant] | None = None
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes over keys that are still files. Raises StartupError if keys cannot be read or made."""
        found = await asyncio.to_thread(keys.in_files, self._keys_folder)
        if found:
            adopted = await self._store.write(keys.adopt, found)
            try:
                await asyncio.to_thread(keys.remove_files, self._keys_folder, found, adopted)
            except OSError as error:
                log.warning("token keys are in the database now; remove their files", folder=str(self._keys_folder), error=error.strerror)
        await self._tend_keys()
        self._upkeep = asyncio.create_task(self._keep_up(), name="identity-upkeep")

    async def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        self.passwords.close()

    async def bootstrap(self, password: str, place: str = "") -> Bootstrapped:
        """Make what every cloud has, and an admin with this password. Idempotent: an admin that is there keeps the password.

        `place`: where the password will be found, in words (see `bootstrap.password_place`).
        """
        admin_hash = await self.passwords.hash(password)
        service_hash = await self.passwords.hash(secrets.token_urlsafe(32))
        return await self.write(bootstrap.run, admin_hash, service_hash, place, self.now())

    async def authenticate(self, token: str) -> Context:
        """The caller behind a token. Raises Unauthorized."""
        return (await self.validate(token)).context

    async def validate(self, token: str) -> Grant:
        """What a token comes to now. Raises Unauthorized."""
        entry = self._grants.get(token)
        if entry is not None and entry.epoch == self._epoch and self.now() < entry.until:
            return entry.grant
        claims = tokens.unseal(token, self._keys)
        if claims is None and await self._read_keys_again():
            claims = tokens.unseal(token, self._keys)
        if claims is None or claims.expires_at <= self.now():
            raise Unauthorized(REFUSED)
        epoch = self._epoch  # taken before reading: what is written meanwhile makes the entry void
        grant = await self.read(grants.resolve, claims)
        self._grants.pop(token, None)
        while len(self._grants) >= CACHED:
            del self._grants[next(iter(self._grants))]
        self._grants[token] = _Entry(epoch, min(claims.expires_at, self.now() + FRESH), grant)
        return grant

    async def service_token(self) -> str:
        """A token with the service role, for calls between services; the same one until it nears its end.

        Raises Unavailable before `bootstrap`.
        """
        if self._service_token is not None:
            token, grant = self._service_token
            if grant.claims.expires_at - self.now() > self.lifetime / 2:
                with contextlib.suppress(Unauthorized):
                    await self.validate(token)
                    return token
        grant = await self.read(_service_grant, self.now(), self.lifetime)
        token = self.seal(grant)
        self._service_token = token, grant
        return token

    def seal(self, grant: Grant) -> str:
        return tokens.seal(grant.claims, self._keys)

    async def read(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._store.read(fn, *args, **kwargs)

    async def write(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Every change of our tables goes through here, since it makes all remembered grants void."""
        try:
            return await self._store.write(fn, *args, **kwargs)
        finally:
            self._epoch += 1

    async def _read_keys_again(self) -> bool:
        """For a token of a key that we may not know yet: read them, unless that was done just now. Whether they were read."""
        readings = self._readings
        async with self._reading:
            if self._readings == readings and abs(self.now() - self._keys_read) >= READ_APART:
                await self._read_keys()
            return self._readings != readings

    async def _read_keys(self) -> list[Row]:
        found = await self._store.read(keys.kept)
        if found:
            self._keys.take(found)
            self._keys_read = self.now()
            self._readings += 1
        return found

    async def _tend_keys(self) -> None:
        found = await self._read_keys()
        if keys.due(found, self.now(), rotation=self._rotation, lifetime=self.lifetime):
            await self._store.write(keys.tend, self.now(), rotation=self._rotation, lifetime=self.lifetime)
            await self._read_keys()

    async def _keep_up(self) -> None:
        pause = keys.staging(self._rotation) / keys.READS
        purged = float("-inf")
        while True:
            try:
                if abs(self.now() - purged) >= UPKEEP:
                    await self._store.write(grants.purge, self.now())
                    purged = self.now()
                await self._tend_keys()
            except (StartupError, Unavailable) as error:
                log.error("identity upkeep failed; trying again", error=str(error))
            await asyncio.sleep(pause)


def _service_grant(tx: Tx, now: float, lifetime: float) -> Grant:
    user = users.by_name(tx, domains.DEFAULT, users.SERVICE)
    project_id = grants.find_scope(tx, "project", Ref(name=projects.SERVICE, domain_id=domains.DEFAULT))
    if user is None or project_id is None:
        raise Unavailable("the identity service has not been set up yet")
    claims = Claims(
        user_id=user["id"],
        user_epoch=user["token_epoch"],
        methods=("password",),
        scope="project",
        scope_id=project_id,
        issued_at=now,
        expires_at=now + lifetime,
        audit_ids=(tokens.new_audit_id(),),
    )
    return grants.resolve(tx, claims)
