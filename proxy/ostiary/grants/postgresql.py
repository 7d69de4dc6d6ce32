"""Grants in PostgreSQL, for the proxies of several machines.

Changes are made one after the other, by the lock of the one row that counts them; `synchronous_commit` is on, so that a
change is on the server's disk before it is acknowledged (and on a synchronous standby's, where there is one: without
it, a failover may lose what was acknowledged). Every change is told by NOTIFY to whoever listens; who missed one asks
by itself before long (`feed`), so nothing hangs on a notification.

The server's clock is the time: those of replicas may differ from it and from one another.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from ostiary.errors import ConfigurationError, GrantsUnavailable
from ostiary.grants.base import DatabaseStore
from ostiary.grants.statements import MIGRATIONS, Operation
from ostiary.grants.store import NO_BOUNDS, Bounds, Told, as_told

T = TypeVar("T")

CHANNEL: Final = "ostiary_grants"
_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
_MIGRATING: Final = 7_310_579_241  # an advisory lock: any number that nobody else takes
_UNREACHABLE: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

# Its pool tells with a traceback, on a line of its own for each of its connections, what is told once by who asks here.
logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)


class PostgresStore(DatabaseStore):
    """Implements `GrantStore`. `url` is a libpq address; it may hold a password and is never shown."""

    def __init__(
        self,
        url: str,
        *,
        bounds: Bounds = NO_BOUNDS,
        deadline: float = 2.0,
        told: Told = as_told,
        connections: int = 4,
    ) -> None:
        super().__init__(bounds=bounds, deadline=deadline, told=told)
        self._url = url
        self._connections = connections
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._statements: dict[str, str] = {}

    async def start(self) -> None:
        async with self._connection() as connection:
            await self._migrate(connection)

    async def tables(self) -> int:
        async with self._connection() as connection:
            if await connection.fetchval("SELECT to_regclass('grant_schema') IS NULL"):
                return 0
            return int(await connection.fetchval("SELECT version FROM grant_schema") or 0)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(self._deadline):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def listening(self, heard: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
        """While open, `heard` is called whenever a change was committed. The event is set once nothing more is heard,
        because the connection is gone."""
        gone = asyncio.Event()
        with self._translated():
            connection = await asyncpg.connect(self._url, timeout=self._deadline, command_timeout=self._deadline)
        try:
            connection.add_termination_listener(lambda _: gone.set())
            with self._translated():
                await connection.add_listener(CHANNEL, lambda *_: heard())
            yield gone
        finally:
            connection.terminate()

    async def _write(self, operation: Operation[T], *, told: bool = True) -> T:
        async with self._connection() as connection, connection.transaction():
            result = await self._run(connection, operation)
            if told:
                await connection.execute(f"NOTIFY {CHANNEL}")
            return result

    async def _read(self, operation: Operation[T]) -> T:
        async with self._connection() as connection, connection.transaction(readonly=True):
            return await self._run(connection, operation)

    async def _run(self, connection: Any, operation: Operation[T]) -> T:
        try:
            statement = next(operation)
            while True:
                text, values = statement
                if isinstance(values, list):
                    await connection.executemany(self._dialect(text), values)
                    statement = operation.send([])
                else:
                    statement = operation.send(await connection.fetch(self._dialect(text), *values))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            operation.close()

    def _dialect(self, text: str) -> str:
        """Numbered parameters, the server's time, and locked rows."""
        known = self._statements.get(text)
        if known is None:
            first, *others = text.replace("{now}", _NOW).replace("{lock}", "FOR UPDATE").split("?")
            known = first + "".join(f"${number}{rest}" for number, rest in enumerate(others, start=1))
            self._statements[text] = known
        return known

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with self._translated():
            async with asyncio.timeout(self._deadline), (await self._pooled()).acquire() as connection:
                yield connection

    async def _pooled(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=1,
                    max_size=self._connections,
                    timeout=self._deadline,
                    command_timeout=self._deadline,
                    server_settings={
                        "application_name": "ostiary",
                        "synchronous_commit": "on",
                        "statement_timeout": str(int(self._deadline * 1000)),
                    },
                )
            return self._pool

    def _translated(self) -> _Translated:
        return _Translated(self._deadline)

    async def _migrate(self, connection: Any) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING)
            await connection.execute("CREATE TABLE IF NOT EXISTS grant_schema (version BIGINT NOT NULL)")
            version = await connection.fetchval("SELECT version FROM grant_schema") or 0
            if version > len(MIGRATIONS):
                raise ConfigurationError([f"grants.url: the database is of a later version of ostiary ({version})"])
            for statement in (each for migration in MIGRATIONS[version:] for each in migration):
                await connection.execute(self._dialect(statement))
            if version == 0:
                await connection.execute("INSERT INTO grant_clock VALUES (1, 0, $1)", secrets.token_hex(16))
                await connection.execute("INSERT INTO grant_schema VALUES ($1)", len(MIGRATIONS))
            else:
                await connection.execute("UPDATE grant_schema SET version = $1", len(MIGRATIONS))


class _Translated:
    """What goes wrong on the way to the server is `GrantsUnavailable`, without the address."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TimeoutError):
            raise GrantsUnavailable(f"PostgreSQL: no answer within {self._deadline:g} s") from error
        if isinstance(error, _UNREACHABLE):
            told = str(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
            raise GrantsUnavailable(f"PostgreSQL: {told}") from error
