"""From the store to a worker's memory: at once, for all, and not at all if the store is not there."""

from __future__ import annotations

import asyncio
import os
import time as clocks
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ostiary.clock import SystemClock
from ostiary.errors import ConfigurationError, GrantsUnavailable
from ostiary.grants import life
from ostiary.grants.active import ActiveGrants
from ostiary.grants.base import DatabaseStore
from ostiary.grants.board import Board
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.publisher import GrantFeed, Publisher
from ostiary.grants.records import Actor
from ostiary.grants.sqlite import SqliteStore
from support.grants import ANN, BEN, CID, EVE, MovedTime, draft
from support.postgresql import PostgresServer, empty


class Monotonic:
    """The machine's monotonic clock, moved."""

    def __init__(self) -> None:
        self.moved = 0.0

    def __call__(self) -> float:
        return clocks.monotonic() + self.moved


@dataclass
class Machine:
    """A store, the board of a machine, and what one of its workers knows."""

    store: DatabaseStore
    board: Board
    publisher: Publisher
    worker: ActiveGrants
    monotonic: Monotonic

    async def give(self, id: str = "g-1", holder: Actor = ANN, **changes: object) -> None:
        record = await self.store.ask(draft(id, holder, **changes))
        record = await self.store.change(id, life.approve(CID, digest=record.digest))
        await self.store.recorded(id, len(record.steps))

    def held(self, actor: Actor = ANN, *, later: int = 0) -> list[str]:
        return [grant.id for grant in self.worker.active(actor.owner, int(clocks.time()) + later)]


@asynccontextmanager
async def machine(store: DatabaseStore, folder: Path) -> AsyncIterator[Machine]:
    await store.start()
    board, monotonic = Board.create(folder / "grants"), Monotonic()
    seen = Board.attach(folder / "grants")
    worker = ActiveGrants(seen, monotonic=monotonic)
    publisher = Publisher(store, board, clock=SystemClock())
    yield Machine(store=store, board=board, publisher=publisher, worker=worker, monotonic=monotonic)
    worker.close()
    for each in (board, seen):
        each.close()
    await store.close()


@pytest.fixture
def time() -> MovedTime:
    return MovedTime()


@pytest.fixture
async def here(tmp_path: Path, time: MovedTime) -> AsyncIterator[Machine]:
    async with machine(SqliteStore(tmp_path / "grants.db", told=time), tmp_path) as made:
        yield made


def journals(folder: Path) -> list[Path]:
    return list(folder.glob("grants-[0-9]*"))


async def test_at_first_nothing_counts(here: Machine) -> None:
    assert here.held() == []
    await here.give()
    assert here.held() == []


async def test_what_is_published_counts_at_the_next_look_for_its_holder_alone(here: Machine) -> None:
    await here.give()
    await here.publisher.publish()
    assert (here.held(), here.held(BEN)) == (["g-1"], [])
    (grant,) = here.worker.active(ANN.owner, int(clocks.time()))
    record = await here.store.get("g-1")
    assert grant == record.grant()
    await here.store.change("g-1", life.revoke(CID, reason="an incident"))
    await here.publisher.publish()
    assert here.held() == []


async def test_what_was_asked_and_not_approved_never_counts(here: Machine) -> None:
    await here.store.ask(draft())
    await here.publisher.publish()
    assert here.held() == []


async def test_a_change_is_one_line_and_leaves_what_others_hold(here: Machine) -> None:
    await here.give("g-1")
    await here.give("g-2", BEN)
    await here.publisher.publish()
    before = here.worker.active(BEN.owner, int(clocks.time()))
    epoch = here.board.epoch
    await here.store.change("g-1", life.drop(ANN))
    await here.publisher.publish()
    assert 0 < here.board.epoch - epoch < 100
    after = here.worker.active(BEN.owner, int(clocks.time()))
    assert after == before
    assert after[0] is before[0]


async def test_nothing_new_moves_nothing(here: Machine) -> None:
    await here.give()
    await here.publisher.publish()
    epoch = here.board.epoch
    await here.publisher.publish()
    assert here.board.epoch == epoch


async def test_a_worker_that_comes_later_knows_all(here: Machine, tmp_path: Path) -> None:
    for number in range(3):
        await here.give(f"g-{number}", EVE)
        await here.publisher.publish()
    await here.store.change("g-1", life.drop(EVE))
    await here.publisher.publish()
    board = Board.attach(tmp_path / "grants")
    late = ActiveGrants(board, monotonic=clocks.monotonic)
    assert [grant.id for grant in late.active(EVE.owner, int(clocks.time()))] == ["g-0", "g-2"]
    late.close()
    board.close()


async def test_without_news_of_the_store_for_two_seconds_no_grant_counts(here: Machine) -> None:
    await here.give()
    await here.publisher.publish()
    here.monotonic.moved = 1.5
    assert here.held() == ["g-1"]
    here.monotonic.moved = 2.0
    assert (here.held(), here.worker.void) == ([], True)
    here.monotonic.moved = 0.0
    await here.publisher.publish()
    assert here.held() == ["g-1"]


async def test_a_grant_whose_time_is_up_is_told_of_for_a_while_and_never_counts_again(
    here: Machine, time: MovedTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary.grants.active._PAST", 2)
    for number in range(3):
        await here.give(f"g-{number}", duration=10)
    await here.publisher.publish()
    assert here.held() == ["g-0", "g-1", "g-2"]
    time.moved = 11  # by the store's clock it has ended; by this machine's it would not have
    assert len(await here.store.expire()) == 3
    time.moved = 0
    await here.publisher.publish()
    assert here.held() == []
    assert here.held(later=12) == ["g-1", "g-2"]  # so that the policy says so
    assert here.held(later=400) == []


async def test_a_grant_ends_by_the_clock_that_is_ahead(here: Machine, time: MovedTime) -> None:
    await here.give()
    time.moved = 100  # the store's clock is ahead of this machine's
    await here.publisher.publish()
    assert here.held(later=498) == ["g-1"]
    assert here.held(later=501) == []
    time.moved = -100  # and now it is behind: the policy judges by the time that this machine sends
    await here.publisher.publish()
    assert here.held(later=598) == ["g-1"]
    (ended,) = here.worker.active(ANN.owner, int(clocks.time()) + 610)
    assert ended.expires_at <= int(clocks.time()) + 610
    assert here.held(later=1000) == []


async def test_what_was_given_by_a_clock_that_was_far_ahead_does_not_count(here: Machine, time: MovedTime) -> None:
    time.moved = 86_400
    await here.give()
    time.moved = 0
    await here.publisher.publish()
    assert here.held() == []


async def test_an_extension_counts_from_its_record_on(here: Machine) -> None:
    await here.give()
    await here.publisher.publish()
    (before,) = here.worker.active(ANN.owner, int(clocks.time()))
    record = await here.store.change("g-1", life.extend(CID, duration=1800, reason="more to do"))
    await here.publisher.publish()
    assert here.worker.active(ANN.owner, int(clocks.time())) == (before,)
    await here.store.recorded("g-1", len(record.steps))
    await here.publisher.publish()
    assert here.worker.active(ANN.owner, int(clocks.time())) == (replace(before, expires_at=record.expires_at),)


async def test_a_writer_that_died_half_way_is_written_over(here: Machine, tmp_path: Path) -> None:
    await here.give()
    await here.publisher.publish()
    (journal,) = journals(tmp_path)
    with journal.open("ab") as file:
        file.write(b'["g-1","https://idp.test","ann",nu')
    await here.give("g-2", BEN)
    await here.publisher.publish()
    assert (here.held(), here.held(BEN)) == (["g-1"], ["g-2"])


async def test_a_journal_that_cannot_be_read_is_no_grant_until_it_can(
    here: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await here.give()
    await here.publisher.publish()
    (journal,) = journals(tmp_path)
    content = journal.read_bytes()
    journal.write_bytes(content[:-10])
    assert here.held() == []
    assert "cannot be read" in caplog.text
    journal.write_bytes(content)
    assert here.held() == ["g-1"]


async def test_another_store_in_its_place_is_begun_with_anew(here: Machine, tmp_path: Path) -> None:
    await here.give()
    await here.publisher.publish()
    other = SqliteStore(tmp_path / "other.db")
    await other.start()
    for number in range(9):
        await other.ask(draft(f"h-{number}"))
    await Publisher(other, here.board, clock=SystemClock()).publish()
    assert here.held() == []
    await other.close()


async def test_a_journal_of_what_is_past_is_made_shorter_and_gone_on_with(here: Machine, tmp_path: Path) -> None:
    await here.give()
    await here.publisher.publish()
    for _ in range(40):
        here.board.add([b'["g-9","i","s",null,"dropped"]\n'] * 30, change=here.board.change)
    before = here.worker.active(ANN.owner, int(clocks.time()))
    assert here.board.wasteful
    await here.give("g-2", BEN)  # which the worker has not read when the journal is replaced
    await here.publisher.publish(tidy=True)
    await here.give("g-3", EVE)
    await here.publisher.publish()
    assert not here.board.wasteful
    assert here.worker.active(ANN.owner, int(clocks.time()))[0] is before[0]
    assert (here.held(BEN), here.held(EVE)) == (["g-2"], ["g-3"])
    assert len(journals(tmp_path)) == 1
    board = Board.attach(tmp_path / "grants")
    late = ActiveGrants(board, monotonic=clocks.monotonic)
    assert [late.active(each.owner, int(clocks.time())) for each in (ANN, BEN, EVE)] == [
        here.worker.active(each.owner, int(clocks.time())) for each in (ANN, BEN, EVE)
    ]
    late.close()
    board.close()


async def test_one_writes_at_a_time_and_a_publication_that_had_to_wait_is_complete(
    here: Machine, tmp_path: Path
) -> None:
    other = Board.attach(tmp_path / "grants")
    await here.give()
    with other.lock() as mine:
        assert mine
        publishing = asyncio.create_task(here.publisher.publish())
        await asyncio.sleep(0.02)
        assert not publishing.done()
    await publishing
    assert here.held() == ["g-1"]
    with other.lock():
        impatient = Publisher(here.store, here.board, clock=SystemClock(), deadline=0.01)
        with pytest.raises(GrantsUnavailable, match="another process"):
            await impatient.publish()
    other.close()


def test_the_board_is_for_its_owner_alone(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "grants")
    board.replace([b"[]\n"], store="s", change=1)
    modes = {oct(each.stat().st_mode & 0o777) for each in tmp_path.iterdir()}
    assert modes == {"0o600"}
    board.close()


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[ActiveGrants]:
    """A hundred thousand active grants."""
    board = Board.create(tmp_path / "grants")
    now = int(clocks.time())
    lines = [
        b'["g-%d","https://idp.test","u-%d",{"id":"g-%d","caller":"support","issuer":"https://idp.test",'
        b'"subject":"u-%d","service":"billing","endpoints":["refund"],"expires_at":%d,"confirmed_at":%d},"active"]\n'
        % (number, number, number, number, now + 600, now)
        for number in range(100_000)
    ]
    board.replace(lines, store="s", change=1)
    board.hear(clocks.monotonic(), ahead=0.0)
    active = ActiveGrants(board, monotonic=clocks.monotonic, patience=60)
    assert active.read()
    yield active
    active.close()
    board.close()


def test_among_a_hundred_thousand_a_look_up_costs_what_it_costs_among_one(crowd: ActiveGrants) -> None:
    now = int(clocks.time())
    assert [grant.id for grant in crowd.active(("https://idp.test", "u-77777"), now)] == ["g-77777"]
    owner = ("https://idp.test", "nobody")
    began = clocks.perf_counter()
    for _ in range(1000):
        crowd.active(owner, now)
    assert (clocks.perf_counter() - began) / 1000 < 50e-6


class Quiet(PostgresStore):
    """A store whose notifications are lost."""

    @asynccontextmanager
    async def listening(self, heard: object) -> AsyncIterator[asyncio.Event]:
        yield asyncio.Event()


async def until(condition: object, seconds: float = 10) -> float:
    began = clocks.monotonic()
    while not condition():  # type: ignore[operator]
        assert clocks.monotonic() - began < seconds
        await asyncio.sleep(0.002)
    return clocks.monotonic() - began


@pytest.mark.parametrize("lost", [False, True])
async def test_a_change_on_another_machine_is_heard_of(postgresql: PostgresServer, tmp_path: Path, lost: bool) -> None:
    url = await empty(postgresql)
    (tmp_path / "other").mkdir()
    store = (Quiet if lost else PostgresStore)(url)
    async with machine(store, tmp_path) as made, machine(PostgresStore(url), tmp_path / "other") as other:
        feed = GrantFeed(made.publisher, store, listening=store)
        await feed.start()
        await until(lambda: not made.worker.void)
        await asyncio.sleep(0.1)
        await other.give()
        took = await until(lambda: made.held() == ["g-1"])
        if not lost:
            assert took < 0.4  # the poll is every half second
        await other.store.change("g-1", life.revoke(CID, reason="an incident"))
        await until(lambda: made.held() == [])
        await feed.close()


async def test_a_store_that_is_away_makes_grants_void_and_is_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = PostgresServer()
    server.start()
    store = PostgresStore(server.url, deadline=0.5)
    async with machine(store, tmp_path) as made:
        feed = GrantFeed(made.publisher, store, listening=store)
        await made.give()
        await feed.start()
        assert made.held() == ["g-1"]
        server.stop()
        took = await until(lambda: made.held() == [])
        assert took < 3
        assert feed.error is not None
        assert "no grant counts" in caplog.text
        server.start()
        await until(lambda: made.held() == ["g-1"])
        assert feed.error is None
        await feed.close()
    server.close()


class Odd(SqliteStore):
    """Has `troubles`, one at each start. Listening to it fails once as nobody foresaw."""

    troubles: tuple[Exception, ...] = ()
    listened = 0

    async def start(self) -> None:
        if self.troubles:
            trouble, *left = self.troubles
            self.troubles = tuple(left)
            raise trouble
        await super().start()

    @asynccontextmanager
    async def listening(self, heard: object) -> AsyncIterator[asyncio.Event]:
        self.listened += 1
        if self.listened == 1:
            raise IndexError
        yield asyncio.Event()


async def test_neither_a_store_that_cannot_be_used_nor_an_unforeseen_error_is_the_end_of_looking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Odd(tmp_path / "grants.db")
    async with machine(store, tmp_path) as made:
        store.troubles = (GrantsUnavailable("away"), ConfigurationError(["of a later version"]))
        feed = GrantFeed(made.publisher, store, listening=store, pause=0.01)
        await feed.start()
        assert feed.error == "away"
        await until(lambda: feed.error == "of a later version")
        await until(lambda: feed.error is None)
        await until(lambda: store.listened == 2)
        await made.give()
        await until(lambda: made.held() == ["g-1"])
        await feed.close()
    assert "ConfigurationError: of a later version" in caplog.text


def test_who_has_the_board_before_this_one_open_writes_nothing_into_it(tmp_path: Path) -> None:
    """A worker of a supervisor that was killed, while another one has begun."""
    lines = [b'["g-1","i","s",null,"revoked"]\n']
    before = Board.create(tmp_path / "grants")
    before.replace([], store="a", change=1)
    after = Board.create(tmp_path / "grants")
    after.replace([], store="a", change=1)
    after.add(lines, change=2)
    with pytest.raises(OSError):  # noqa: PT011 - its journal is gone
        before.add([b'["g-2","i","s",null,"expired"]\n'], change=2)
    journal = after.journal(after.epoch)
    assert os.read(journal, 4096) == lines[0]
    os.close(journal)
    for board in (before, after):
        board.close()


async def test_of_one_identity_the_last_few_that_ended_are_told(here: Machine, time: MovedTime) -> None:
    for number in range(15):
        await here.give(f"g-{number:02}", duration=600 + number)
    await here.give("g-99", duration=1800)
    await here.publisher.publish()
    assert len(here.held()) == 16
    time.moved = 700
    await here.store.expire()
    await here.publisher.publish()
    assert here.held(later=700) == [f"g-{number:02}" for number in range(5, 15)] + ["g-99"]
