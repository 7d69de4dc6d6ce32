"""The table of what was used: once for all workers, whoever dies, never forgotten early, never waited for."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import multiprocessing
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.errors import Overloaded
from ostiary.identity import ReplayTable
from ostiary.identity.replay import _PLACES

NOW = 1_790_000_000.0
ISSUED = int(NOW)
ENDS = ISSUED + 60


def digest(number: object) -> bytes:
    return hashlib.sha256(repr(number).encode()).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ReplayTable.create(tmp_path / "proofs", capacity=1024, now=NOW - 100)
    return tmp_path / "proofs"


@pytest.fixture
async def table(path: Path) -> AsyncIterator[ReplayTable]:
    attached = ReplayTable.attach(path)
    yield attached
    await attached.close()


async def spend(
    table: ReplayTable, number: object, *, now: float = NOW, ends: int = ENDS, issued: int = ISSUED
) -> bool:
    return await table.spend(digest(number), issued_at=issued, expires_at=ends, now=now)


async def test_what_was_used_is_used(table: ReplayTable) -> None:
    assert await spend(table, 1)
    assert not await spend(table, 1)
    assert await spend(table, 2)


async def test_all_who_share_the_table_know_of_it(table: ReplayTable, path: Path) -> None:
    other = ReplayTable.attach(path)
    assert await spend(table, 1)
    assert not await spend(other, 1)
    assert await spend(other, 2)
    assert not await spend(table, 2)
    await other.close()


async def test_of_many_at_once_one_is_the_first(path: Path) -> None:
    tables = [ReplayTable.attach(path) for _ in range(8)]
    for number in range(50):
        found = await asyncio.gather(*(spend(one, number) for one in tables))
        assert sorted(found) == [False] * 7 + [True]
    for one in tables:
        await one.close()


async def test_what_is_too_old_is_forgotten_and_its_place_used_again(table: ReplayTable) -> None:
    for round_ in range(5):
        now, ends = NOW + round_ * 61, ENDS + round_ * 61
        for number in range(400):  # of 1024 places: with many more, one bucket is full by chance now and then
            assert await spend(table, (round_, number), now=now, ends=ends)


async def test_what_could_still_be_used_is_never_forgotten_and_a_full_table_refuses(tmp_path: Path) -> None:
    ReplayTable.create(tmp_path / "small", capacity=1, now=NOW)
    table = ReplayTable.attach(tmp_path / "small")
    for number in range(_PLACES):
        assert await spend(table, number)
    with pytest.raises(Overloaded):
        await spend(table, "one more")
    for number in range(_PLACES):
        assert not await spend(table, number)
    assert await spend(table, "one more", now=ENDS, ends=ENDS + 60)
    await table.close()


async def test_the_clock_of_the_table_is_the_latest_that_anybody_has_seen(table: ReplayTable, path: Path) -> None:
    """A worker whose clock is behind would otherwise take again what one that is ahead had forgotten."""
    behind = ReplayTable.attach(path)
    assert await spend(table, 1)
    assert await spend(table, 2, now=NOW + 100, ends=ENDS + 100)
    assert not await spend(behind, 1, now=NOW)
    assert not await spend(behind, 3, now=NOW)
    assert await spend(behind, 4, now=NOW, ends=ENDS + 100)
    await behind.close()


async def test_what_was_made_before_the_table_is_refused(tmp_path: Path) -> None:
    """It may have been used: nobody remembers."""
    ReplayTable.create(tmp_path / "new", capacity=1024, now=NOW)
    table = ReplayTable.attach(tmp_path / "new")
    assert not await spend(table, 1, issued=ISSUED - 1)
    assert await spend(table, 2)
    await table.close()


async def test_a_table_that_is_there_is_kept_and_remembers(table: ReplayTable, path: Path) -> None:
    assert await spend(table, 1)
    ReplayTable.create(path, capacity=1024, now=NOW + 30)
    again = ReplayTable.attach(path)
    assert not await spend(again, 1)
    assert await spend(again, 2)
    await again.close()


def spoil(path: Path, what: str) -> None:
    content = path.read_bytes()
    if what == "not there":
        path.unlink()
    else:
        spoilt = {
            "something else": b"a" * len(content),
            "cut off": content[:-1],
            "a wrong beginning": b"x" + content[1:],
        }
        path.write_bytes(spoilt.get(what, content))


@pytest.mark.parametrize("what", ["another size", "something else", "cut off", "not there", "a wrong beginning"])
async def test_what_is_no_such_table_is_made_anew(path: Path, what: str) -> None:
    spoil(path, what)
    ReplayTable.create(path, capacity=2048 if what == "another size" else 1024, now=NOW)
    table = ReplayTable.attach(path)
    assert not await spend(table, 1, issued=ISSUED - 1)
    assert await spend(table, 1)
    await table.close()


def test_nobody_attaches_to_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "proofs").write_bytes(b"a" * 10_000)
    with pytest.raises(ValueError, match="no table"):
        ReplayTable.attach(tmp_path / "proofs")


def test_it_is_this_user_s_alone_and_has_its_place_on_the_disk(path: Path) -> None:
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_blocks * 512 >= found.st_size


async def test_no_digest_stands_in_the_file(table: ReplayTable, path: Path) -> None:
    assert await spend(table, 1)
    assert digest(1)[:8] not in await asyncio.to_thread(path.read_bytes)


async def test_a_lock_that_is_not_given_back_refuses_and_stops_nobody(table: ReplayTable, path: Path) -> None:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        with pytest.raises(Overloaded):
            await spend(table, 1)
        ticking.cancel()
        assert ticks > 1
    assert await spend(table, 1)


def _use_for_ever(path: Path, begun: object) -> None:
    """What a busy worker does, until it is killed."""

    async def run() -> None:
        table = ReplayTable.attach(path)
        number = 0
        while True:
            await table.spend(digest(("child", number)), issued_at=ISSUED, expires_at=int(NOW) + 1, now=NOW)
            number += 1
            begun.set()  # type: ignore[attr-defined]

    asyncio.run(run())


async def test_a_worker_that_is_killed_takes_neither_the_lock_nor_the_table_with_it(
    table: ReplayTable, path: Path
) -> None:
    assert await spend(table, "before")
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        begun = context.Event()
        child = context.Process(target=_use_for_ever, args=(path, begun))
        child.start()
        assert await asyncio.to_thread(begun.wait, 60)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.join)
        assert not await spend(table, "before")
    assert await spend(table, "after", now=NOW + 2)
    assert not await spend(table, "after", now=NOW + 2)
