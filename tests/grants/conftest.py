"""The stores, each of which is put to every test of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ostiary.grants.allowance import DAY
from ostiary.grants.base import DatabaseStore
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import Bounds
from support.grants import MovedTime
from support.postgresql import PostgresServer, empty


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def time() -> MovedTime:
    return MovedTime()


@pytest.fixture
def bounds() -> Bounds:
    return Bounds(time_per_day=6850, keep_ended=30 * DAY)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, time: MovedTime, bounds: Bounds
) -> AsyncIterator[DatabaseStore]:
    made: DatabaseStore
    if request.param == "sqlite":
        made = SqliteStore(tmp_path / "grants.db", bounds=bounds, told=time)
    else:
        made = PostgresStore(await empty(request.getfixturevalue("postgresql")), bounds=bounds, told=time)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[DatabaseStore], str]:
    """Where another process finds the store."""

    def of(store: DatabaseStore) -> str:
        if isinstance(store, SqliteStore):
            return str(tmp_path / "grants.db")
        server: PostgresServer = request.getfixturevalue("postgresql")
        return server.url

    return of
