"""Grants in a file: SQLite, for the processes of one machine. No server, and nothing to set up.

The file is in WAL mode with `synchronous=FULL`: a change is on the disk, log included, before it is acknowledged. One
thread in each process uses it, so that the event loop waits for no disk; processes wait for one another by SQLite's own
lock, up to the deadline. It must not be on a network file system, where that lock does not hold.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from ostiary.errors import ConfigurationError, GrantsUnavailable
from ostiary.grants.base import DatabaseStore
from ostiary.grants.statements import MIGRATIONS, Operation
from ostiary.grants.store import NO_BOUNDS, Bounds, Told, as_told

T = TypeVar("T")

# SQLite's own function knows no more than milliseconds; that of 3.42 which says seconds is not everywhere.
_NOW: Final = "((julianday('now') - 2440587.5) * 86400.0)"


class SqliteStore(DatabaseStore):
    """Implements `GrantStore`. The file is made if it is absent, for this user alone."""

    def __init__(self, path: Path, *, bounds: Bounds = NO_BOUNDS, deadline: float = 2.0, told: Told = as_told) -> None:
        super().__init__(bounds=bounds, deadline=deadline, told=told)
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ostiary-grants")
        self._connection: sqlite3.Connection | None = None

    async def start(self) -> None:
        await self._in_thread(self._open)

    async def tables(self) -> int:
        return await self._in_thread(self._tables)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _write(self, operation: Operation[T], *, told: bool = True) -> T:
        return await self._in_thread(partial(self._run, "BEGIN IMMEDIATE", operation))

    async def _read(self, operation: Operation[T]) -> T:
        return await self._in_thread(partial(self._run, "BEGIN", operation))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What was begun goes on if nobody waits for it any more."""
        try:
            async with asyncio.timeout(2 * self._deadline):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError as error:
            raise GrantsUnavailable(f"{self._path}: no answer within {2 * self._deadline:g} s") from error
        except sqlite3.Error as error:
            raise GrantsUnavailable(f"{self._path}: {error}") from error
        except OSError as error:
            raise GrantsUnavailable(f"{self._path}: {error.strerror}") from error

    # In the thread.

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=self._deadline, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        self._connection = connection
        self._migrate(connection)

    def _tables(self) -> int:
        if not self._path.exists():
            return 0
        # Without a log nobody has the file open, and it is read without one. With a log it says what is in it.
        logged = self._path.with_name(f"{self._path.name}-wal").exists()
        address = f"{self._path.absolute().as_uri()}?mode=ro{'' if logged else '&immutable=1'}"
        with closing(sqlite3.connect(address, uri=True, timeout=self._deadline)) as connection:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            return version

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = self._version(connection)
            for statement in (each for migration in MIGRATIONS[version:] for each in migration):
                connection.execute(statement.replace("{now}", _NOW))
            if version == 0:
                connection.execute("INSERT INTO grant_clock VALUES (1, 0, ?)", (secrets.token_hex(16),))
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise ConfigurationError([f"{self._path}: is of a later version of ostiary ({version})"])
        return version

    def _run(self, begin: str, operation: Operation[T]) -> T:
        connection = self._connection
        if connection is None:
            self._open()
            return self._run(begin, operation)
        connection.execute(begin)
        try:
            rows: list[tuple[object, ...]] | None = None
            while True:
                text, values = next(operation) if rows is None else operation.send(rows)
                execute = connection.executemany if isinstance(values, list) else connection.execute
                rows = execute(text.replace("{now}", _NOW).replace("{lock}", ""), values).fetchall()
        except StopIteration as done:
            connection.execute("COMMIT")
            result: T = done.value
            return result
        except BaseException:
            operation.close()
            _roll_back(connection)
            raise


def _roll_back(connection: sqlite3.Connection) -> None:
    """A failing COMMIT, for one, may leave the transaction open."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
