"""What was acknowledged is there after the death of whoever wrote it, and of the server, in the middle of anything."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ostiary.errors import GrantsUnavailable
from ostiary.grants.base import DatabaseStore
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.store import Selection
from support.grants import draft
from support.postgresql import PostgresServer, empty
from support.processes import store_at

ROOT = Path(__file__).resolve().parents[2]
DEATHS = 3


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()
    made.start()
    yield made
    made.close()


def write(address: str, prefix: str) -> subprocess.Popen[bytes]:
    program = f"from support.processes import writer; writer({address!r}, {prefix!r})"
    path = os.pathsep.join([str(ROOT / "proxy"), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )


def killed(address: str, prefix: str, kill: Callable[[subprocess.Popen[bytes]], None]) -> dict[str, str]:
    """What a writer acknowledged, by id, up to a death at a random instant."""
    process = write(address, prefix)
    out = process.stdout
    assert out is not None
    first = out.readline()
    timer = random.uniform(0.01, 0.15)
    try:
        process.wait(timer)
    except subprocess.TimeoutExpired:
        kill(process)
    rest = out.read()
    process.wait(20)
    out.close()
    lines = (first + rest).decode().splitlines(keepends=True)
    return dict(line.split() for line in lines if line.endswith("\n"))


async def check(store: DatabaseStore, acknowledged: dict[str, str], prefix: str) -> None:
    assert acknowledged
    for id, state in acknowledged.items():  # noqa: A001
        record = await store.get(id)
        assert record.state in (state, "cancelled")
        assert record.steps[-1].kind == {"pending": "requested"}.get(record.state, record.state)
    assert len(await store.find(Selection(limit=10_000))) - len(acknowledged) <= 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_writer_that_is_killed_loses_nothing_acknowledged(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for death in range(DEATHS):
        if kind == "sqlite":
            address = str(tmp_path / f"{death}.db")
        else:
            address = await empty(request.getfixturevalue("postgresql"))
        acknowledged = await asyncio.to_thread(
            killed, address, "k", lambda process: process.send_signal(signal.SIGKILL)
        )
        store = store_at(address)
        await store.start()
        await check(store, acknowledged, "k")
        await store.close()


async def test_a_server_that_dies_loses_nothing_acknowledged_and_is_used_again(server: PostgresServer) -> None:
    store = PostgresStore(server.url, deadline=2)
    await store.start()
    acknowledged = await asyncio.to_thread(killed, server.url, "k", lambda _: server.kill())
    with pytest.raises(GrantsUnavailable, match="PostgreSQL") as refused:
        await store.news(0)
    assert "ostiary@" not in str(refused.value)
    with pytest.raises(GrantsUnavailable):
        await store.ask(draft())
    server.start()
    await check(store, acknowledged, "k")
    await store.close()


async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_deadline(server: PostgresServer) -> None:
    store = PostgresStore(server.url, deadline=0.5)
    await store.start()
    server.pause()
    try:
        with pytest.raises(GrantsUnavailable, match="no answer within"):
            await store.news(0)
    finally:
        server.go_on()
    assert (await store.news(0)).change == 0
    await store.close()
