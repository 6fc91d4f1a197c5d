"""One connection to PostgreSQL: how it is made, how a transaction runs on it, and what its errors mean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from pileus.errors import BadRequest, Unavailable
from pileus.store import Tx
from pileus.store.schema import json_dumps, json_loads

T = TypeVar("T")

PLANS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
"""A statement is planned once a connection: planning each time costs as much as all executions together (3 ms a boot). A plan that was
made while tables were empty would then read all of them for ever after, so an index is used wherever there is one."""
CONNECT_LIMIT = 10.0
"""Seconds for making one connection."""
CLOSE_LIMIT = 5.0
STATEMENT_LIMIT = 30.0
"""Seconds after which the server itself ends a statement, or a transaction whose client is silent: a lock is not held for ever."""
STATEMENTS = 500
"""Prepared statements that a connection remembers."""

READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"

LOST = {"57P01", "57P02", "57P03", "57P05", "25P03", "53300"}
"""The server ends, starts, or has thrown us out; and too many connections, which passes."""
COLLIDED = {"40001", "40P01"}
EXHAUSTED = {"53", "54", "57", "58", "25006"}
"""Disk full, out of memory, a statement's limit, a standby: the classes (or codes) that asking later may help against."""
UNFIT = {"22003": "a number is too large to be stored", "22021": "text with a NUL character cannot be stored"}


class Again(Exception):
    """Nothing of the transaction was done and another try may do it. `why`: lost or collided; the words tell more."""

    def __init__(self, why: str, words: str) -> None:
        super().__init__(words)
        self.why = why


class Unknown(Unavailable):
    """The connection was lost while it committed."""

    def __init__(self, words: str) -> None:
        super().__init__(f"the database was lost while a change was being committed ({words}): look whether it was made, then try again")


class Link:
    """An open connection. Statements run by themselves unless `transact` puts BEGIN and COMMIT around them."""

    def __init__(self, connection: AsyncConnection, raw: Any) -> None:
        self._connection = connection
        self._raw = raw

    @property
    def lost(self) -> bool:
        closed: bool = self._raw.is_closed()
        return closed

    async def transact(self, fn: Callable[[Tx], T], begin: str | None, answer: Callable[[T], None]) -> None:
        """Run `fn` and give its result to `answer`, once it stands: for READ before the COMMIT, which is a formality then.

        Raises Again, Unknown, Unavailable, BadRequest, or what `fn` raises; the transaction is rolled back then.
        """
        committing = False
        try:
            if begin is not None:
                await self._raw.execute(begin)
            result = await self._connection.run_sync(fn)
            if begin != WRITE:
                answer(result)
            if begin is not None:
                committing = begin == WRITE
                said = await self._raw.execute("COMMIT")
                if said != "COMMIT":
                    raise RuntimeError("a transaction went on after an error of the database, so nothing of it was kept")
            if begin == WRITE:
                answer(result)
        except Exception as error:
            trouble = explain(error, committing=committing, closed=self.lost)
            if isinstance(trouble, Unknown) or (isinstance(trouble, Again) and trouble.why == "lost"):
                self.abort()
            elif begin is not None and not committing:
                await self._rollback()
            if trouble is error:
                raise
            raise trouble from error

    async def _rollback(self) -> None:
        try:
            await self._raw.execute("ROLLBACK")
        except Exception:
            self.abort()

    def abort(self) -> None:
        """Cut the connection; the server rolls back when it notices."""
        self._raw.terminate()

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                if self.lost:
                    await self._connection.invalidate()
                await self._connection.close()
        except Exception:
            self.abort()


async def connect(url: str, name: str, **server_settings: str) -> asyncpg.Connection:
    """A plain connection that others see as `name` in pg_stat_activity. Raises Again (it may come soon) or Unavailable, in plain words."""
    where = place(url)
    try:
        return await asyncpg.connect(
            url, timeout=CONNECT_LIMIT, statement_cache_size=0, server_settings={"application_name": name, "jit": "off", **server_settings}
        )
    except asyncpg.PostgresError as error:
        words = f"the database server at {where} refuses us: {error}"
        raise (Again("lost", words) if error.sqlstate in LOST else Unavailable(words, kind=type(error).__name__)) from None
    except TimeoutError:
        raise Again("lost", f"the database server at {where} does not answer within {CONNECT_LIMIT:.0f} s") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # asyncio's own words repeat the address, or are a list
        raise Again("lost", f"the database server at {where} does not answer: {why}") from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, ValueError) as error:
        # Their words may quote the URL, and a password is in it.
        raise Unavailable(
            f"setting database.url is not understood ({type(error).__name__}): postgresql://user:password@host:port/name"
        ) from None


def place(url: str) -> str:
    """Host, port and database of a URL, without its user and password."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def explain(error: Exception, *, committing: bool, closed: bool) -> Exception:
    """What an error of a transaction means: Again, Unknown, Unavailable, BadRequest, or itself."""
    cause = error.__cause__ if isinstance(error, DBAPIError) and isinstance(error.__cause__, Exception) else error
    cause = getattr(cause, "__cause__", None) or cause
    code = getattr(cause, "sqlstate", None) or ""
    ours = isinstance(error, DBAPIError | asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError)
    if not ours and not closed:
        return error
    words = str(cause) or type(cause).__name__
    if closed or code in LOST or code.startswith("08") or isinstance(cause, OSError):
        return Unknown(words) if committing else Again("lost", f"the connection to the database was lost: {words}")
    if code in COLLIDED or isinstance(cause, asyncpg.InvalidCachedStatementError):
        return Again("collided", words)
    if code[:2] in EXHAUSTED or code in EXHAUSTED:
        return Unavailable(f"the database cannot do it now: {words}")
    if code in UNFIT:
        return BadRequest(UNFIT[code])
    if isinstance(cause, asyncpg.DataError) and "out of int" in words:
        return BadRequest(UNFIT["22003"])
    return error


class Links:
    """Where the connections of the pool come from. `name` is what others see of us in pg_stat_activity."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            creator=self._create,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",  # `Link.transact` says BEGIN and COMMIT: SQLAlchemy's own cost twice as much
            json_serializer=json_dumps,
            json_deserializer=json_loads,
            hide_parameters=True,  # passwords' hashes, keys and user data would stand in logs
        )

    async def open(self) -> Link:
        """Raises Again (it may come soon) or Unavailable."""
        connection = await self._engine.connect()
        raw = await connection.get_raw_connection()
        return Link(connection, raw.driver_connection)

    def _create(self) -> Any:
        """What SQLAlchemy does for `async_creator`, with names for prepared statements: without one each is prepared anew each time."""
        names = count(1)
        dbapi: Any = self._engine.dialect.loaded_dbapi
        return dbapi.connect(
            async_creator_fn=self._connect,
            prepared_statement_cache_size=STATEMENTS,
            prepared_statement_name_func=lambda: f"s{next(names)}",
        )

    async def _connect(self) -> asyncpg.Connection:
        limit = f"{STATEMENT_LIMIT * 1000:.0f}"
        return await connect(self._url, self._name, statement_timeout=limit, idle_in_transaction_session_timeout=limit, **PLANS)

    async def close(self) -> None:
        await self._engine.dispose()
