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
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ostiary.errors import Overloaded
from ostiary.identity import ReplayTable
from ostiary.identity.replay import _PLACES

NOW = 1_790_000_000.0
ISSUED = int(NOW)
ENDS = ISSUED + 60
DAY = 86_400


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
    attached.close()


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
    other.close()


async def test_of_many_at_once_one_is_the_first(path: Path) -> None:
    tables = [ReplayTable.attach(path) for _ in range(8)]
    for number in range(50):
        found = await asyncio.gather(*(spend(one, number) for one in tables))
        assert sorted(found) == [False] * 7 + [True]
    for one in tables:
        one.close()


async def test_what_is_too_old_is_forgotten_and_its_place_used_again(table: ReplayTable) -> None:
    for round_ in range(5):
        later = round_ * 61
        for number in range(400):  # of 1024 places: with many more, one bucket is full by chance now and then
            assert await spend(table, (round_, number), now=NOW + later, ends=ENDS + later, issued=ISSUED + later)


async def test_what_could_still_be_used_is_never_forgotten_and_a_full_table_refuses(tmp_path: Path) -> None:
    ReplayTable.create(tmp_path / "small", capacity=1, now=NOW)
    table = ReplayTable.attach(tmp_path / "small")
    for number in range(_PLACES):
        assert await spend(table, number)
    with pytest.raises(Overloaded):
        await spend(table, "one more")
    for number in range(_PLACES):
        assert not await spend(table, number)
    assert await spend(table, "one more", now=ENDS, ends=ENDS + 60, issued=ENDS)
    table.close()


async def at(table: ReplayTable, number: object, seconds: int, *, good_for: int = 60, clock: int | None = None) -> bool:
    """Spend a proof that was issued so many seconds after NOW, by a clock that says so, too, or another time."""
    now = NOW + (seconds if clock is None else clock)
    return await spend(table, number, now=now, issued=ISSUED + seconds, ends=ISSUED + seconds + good_for)


@asynccontextmanager
async def small_table(path: Path) -> AsyncIterator[ReplayTable]:
    """One bucket: how much is in it is no matter of chance."""
    ReplayTable.create(path, capacity=1, now=NOW)
    table = ReplayTable.attach(path)
    yield table
    table.close()


async def test_what_one_worker_forgot_is_refused_by_all_whose_clocks_are_behind(tmp_path: Path) -> None:
    """And nothing else is."""
    async with small_table(tmp_path / "small") as table, small_table(tmp_path / "small") as behind:
        for number in range(_PLACES):
            assert await at(table, number, number // 2)
        assert await at(table, "ahead", 100)
        assert not await at(behind, 0, 0)
        assert not await at(behind, "never used, for all one knows", 0)
        assert [await at(behind, number, number // 2) for number in range(2, _PLACES)] == [False] * (_PLACES - 2)
        with pytest.raises(Overloaded):
            await at(behind, "new", 1)


async def test_a_clock_that_was_ahead_for_a_while_costs_nothing(table: ReplayTable, path: Path) -> None:
    """Nothing is used twice all the same: neither then, nor when the time comes that the clock had shown."""
    assert await at(table, "before", 0)
    assert await at(table, "ahead", DAY)
    for seconds in (5, 600):
        assert await at(table, ("corrected", seconds), seconds)
        assert not await at(table, ("corrected", seconds), seconds)
    assert not await at(table, "before", 0)

    ReplayTable.create(path, capacity=1024, now=NOW + 700)
    again = ReplayTable.attach(path)
    assert await at(again, "started anew", 700)
    for seconds in (DAY, 2 * DAY):
        assert not await at(again, "ahead", DAY, clock=seconds)
    assert await at(again, "another", DAY)
    again.close()


async def test_what_was_forgotten_by_a_clock_that_was_ahead_is_refused_when_its_time_comes(tmp_path: Path) -> None:
    async with small_table(tmp_path / "small") as table:
        for number in range(2 * _PLACES):
            assert await at(table, number, DAY + 61 * (number // _PLACES))
        assert not await at(table, "corrected", 0)  # it might be among them
        for number in range(2 * _PLACES):
            assert not await at(table, number, DAY + 61 * (number // _PLACES))
        assert await at(table, "later", DAY + 200)


async def test_a_proof_that_is_good_for_longer_since_is_not_used_again(tmp_path: Path) -> None:
    async with small_table(tmp_path / "small") as table:
        for number in range(_PLACES):
            assert await at(table, number, 0)
        assert await at(table, "its place is taken", 61)
        for number in range(_PLACES):
            assert not await at(table, number, 0, good_for=300, clock=62)


async def test_a_table_that_began_when_the_clock_was_ahead_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "proofs"
    ReplayTable.create(path, capacity=1024, now=NOW + DAY)
    table = ReplayTable.attach(path)
    assert await at(table, "ahead", DAY)
    table.close()
    ReplayTable.create(path, capacity=1024, now=NOW)
    table = ReplayTable.attach(path)
    assert [await at(table, "new", 0), await at(table, "new", 0)] == [True, False]
    assert [await at(table, "before", -1), await at(table, "ahead", DAY)] == [False, False]
    table.close()


async def test_a_table_of_another_size_refuses_what_the_one_before_it_knew(table: ReplayTable, path: Path) -> None:
    """Whatever the clock says by then."""
    assert await at(table, "ahead", DAY)
    for capacity, expected in ((2048, True), (4096, False)):
        ReplayTable.create(path, capacity=capacity, now=NOW)
        again = ReplayTable.attach(path)
        assert not await at(again, "ahead", DAY)
        assert await at(again, "later", DAY + 1) is expected
        again.close()


async def test_what_was_made_before_the_table_is_refused(tmp_path: Path) -> None:
    """It may have been used: nobody remembers."""
    ReplayTable.create(tmp_path / "new", capacity=1024, now=NOW)
    table = ReplayTable.attach(tmp_path / "new")
    assert not await spend(table, 1, issued=ISSUED - 1)
    assert await spend(table, 2)
    table.close()


async def test_a_table_that_is_there_is_kept_and_remembers(table: ReplayTable, path: Path) -> None:
    assert await spend(table, 1)
    ReplayTable.create(path, capacity=1024, now=NOW + 30)
    again = ReplayTable.attach(path)
    assert not await spend(again, 1)
    assert await spend(again, 2)
    again.close()


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
    table.close()


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
    for expected in (True, False):
        assert await spend(table, "after", now=NOW + 62, ends=ENDS + 62, issued=ISSUED + 62) is expected
