"""From the store to each request: a block counts at once, and nothing but its end lets go of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import SystemClock
from ostiary.errors import AuditUnavailable, BlocksUnknown, GrantsUnavailable, IdentityBlocked
from ostiary.grants import blocking
from ostiary.grants import service as granting
from ostiary.grants.active import ActiveGrants
from ostiary.grants.base import DatabaseStore
from ostiary.grants.blocking import BlockService
from ostiary.grants.blocklist import BoardBlocklist
from ostiary.grants.blocks import Block, BlockDraft
from ostiary.grants.board import Board
from ostiary.grants.memory import BlockMemory
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.publisher import GrantFeed, Publisher, block_line
from ostiary.grants.records import Record
from ostiary.grants.service import GrantService
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import HeldBlock
from ostiary.marks import Mark, key_mark, subject_mark
from ostiary.models import Identity, Json
from support.audit import until
from support.grants import ANN, IDP, draft
from support.postgresql import PostgresServer, empty

EVE, WEB = subject_mark(IDP, "eve"), subject_mark(IDP, "web")


def identity(subject: str = "eve", *proved_by: Mark, token_id: str | None = "t-1") -> Identity:
    return Identity(
        issuer=IDP, subject=subject, method="jwt", expires_at=0, token_id=token_id, proved_by=tuple(proved_by)
    )


class Audit:
    """A `BlockLog` in memory. `full`: it takes nothing."""

    def __init__(self) -> None:
        self.steps: list[tuple[Json, ...]] = []
        self.full = False

    async def step(self, document: Mapping[str, Json], *, kind: str = "grant") -> None:
        if self.full:
            raise AuditUnavailable("no space left")
        self.steps.append((kind, document["block"], document["step"], document["action"]))


@dataclass
class Machine:
    store: DatabaseStore
    board: Board
    memory: BlockMemory
    publisher: Publisher
    service: BlockService
    audit: Audit
    worker: ActiveGrants
    blocklist: BoardBlocklist

    def blocked(self, who: Identity | None = None) -> bool:
        try:
            self.blocklist.check(who or identity())
        except IdentityBlocked:
            return True
        return False

    async def block(self, mark: Mark = EVE, **given: Any) -> str:
        return (await self.service.block(mark, ANN.owner, reason="an incident", **given)).id

    async def lift(self, id: str) -> None:
        await self.service.lift(id, ANN.owner, reason="over")


@asynccontextmanager
async def machine(store: DatabaseStore, folder: Path) -> AsyncIterator[Machine]:
    board, memory, audit = Board.create(folder / "grants"), BlockMemory(folder / "blocks.json"), Audit()
    seen = Board.attach(folder / "grants")
    publisher = Publisher(store, board, clock=SystemClock(), memory=memory)
    worker = ActiveGrants(seen, monotonic=SystemClock().monotonic)
    service = BlockService(store=store, publisher=publisher, audit=audit)
    blocklist = BoardBlocklist(seen, worker)
    yield Machine(store, board, memory, publisher, service, audit, worker, blocklist)
    await service.close()
    worker.close()
    for each in (board, seen):
        each.close()
    await store.close()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(SqliteStore(tmp_path / "grants.db"), tmp_path) as made:
        yield made


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("grants-[0-9]*"))


async def test_until_it_is_known_who_is_blocked_nobody_is_let_through(here: Machine) -> None:
    with pytest.raises(BlocksUnknown):
        here.blocklist.check(identity())
    assert here.board.blocks is None
    await here.publisher.publish()
    here.blocklist.check(identity())
    assert here.board.blocks == 0


async def test_what_is_blocked_is_refused_from_the_acknowledgement_on_and_nobody_else(here: Machine) -> None:
    await here.publisher.publish()
    assert not here.blocked()
    block = await here.block()
    assert here.blocked()
    assert not here.blocked(identity("web"))
    with pytest.raises(IdentityBlocked) as refusal:
        here.blocklist.check(identity())
    assert refusal.value.detail == f"{block}: by its subject"
    await here.lift(block)
    assert not here.blocked()
    assert here.audit.steps == [("block", block, 0, "blocked"), ("block", block, 1, "lifted")]


async def test_any_mark_of_an_identity_is_enough(here: Machine) -> None:
    for mark in (("token", IDP, "t-1"), key_mark(IDP, "k1"), ("thumbprint", "x"), subject_mark(IDP, "agent")):
        block = await here.block(mark)
        assert here.blocked(identity("web", key_mark(IDP, "k1"), ("thumbprint", "x"), subject_mark(IDP, "agent")))
        assert not here.blocked(identity("web", key_mark(IDP, "k2"), token_id="t-2"))
        await here.lift(block)
    assert not here.blocked(identity("web", key_mark(IDP, "k1")))


async def test_a_block_does_not_wait_for_the_audit_and_its_end_does(here: Machine) -> None:
    here.audit.full = True
    block = await here.block()
    assert here.blocked()
    with pytest.raises(AuditUnavailable):
        await here.lift(block)
    assert here.blocked()
    here.audit.full = False
    await here.service.tidy()
    assert [step[2:] for step in here.audit.steps] == [(0, "blocked"), (1, "lifted")]
    assert not here.blocked()


async def test_a_mark_that_is_blocked_anew_before_the_first_end_is_recorded_stays_blocked(here: Machine) -> None:
    first = await here.block()
    here.audit.full = True
    with pytest.raises(AuditUnavailable):
        await here.lift(first)
    second = await here.block()
    assert second != first
    here.audit.full = False
    await here.service.tidy()
    assert here.blocked()
    await here.lift(second)
    assert not here.blocked()


async def test_a_process_that_dies_between_store_and_board_has_blocked_all_the_same(here: Machine) -> None:
    await here.publisher.publish()
    await here.store.block(BlockDraft(id="b-1", mark=EVE, actor=ANN.owner, reason="an incident"))
    assert not here.blocked()  # and was not acknowledged
    feed = GrantFeed(here.publisher, here.store)
    await feed.start()
    await feed.close()
    assert here.blocked()
    await here.service.tidy()
    assert here.audit.steps == [("block", "b-1", 0, "blocked")]


async def test_a_board_that_cannot_be_read_lets_go_of_no_block(here: Machine, tmp_path: Path) -> None:
    block = await here.block()
    assert here.blocked()
    (journal,) = journals(tmp_path)
    content = journal.read_bytes()
    await here.store.ask(draft())
    await here.publisher.publish()
    for broken in (b"", content, b"\0" * journal.stat().st_size, b'["b-1", null, null, {}, "block"]\n' * 9):
        journal.write_bytes(broken)
        assert here.blocked()
        with pytest.raises(BlocksUnknown):  # what cannot be read may be about anybody
            here.blocklist.check(identity("web"))
    here.board.replace([], store="", change=0)  # and the next one is believed
    assert not here.blocked()
    await here.publisher.publish()
    assert here.blocked()
    await here.lift(block)
    assert not here.blocked()


@pytest.mark.parametrize("broken", ["content", "gone", "longer"])
async def test_a_board_that_is_not_what_was_written_is_begun_anew(here: Machine, tmp_path: Path, broken: str) -> None:
    """Else nobody would be let through until the proxy is started again; and whoever keeps it up to date goes on."""
    await here.block()
    assert here.blocked()
    await here.store.ask(draft())
    await here.publisher.publish()
    (journal,) = journals(tmp_path)
    if broken == "gone":
        journal.unlink()
        here.worker.close()
    elif broken == "content":
        journal.write_bytes(b"\0" * journal.stat().st_size)
    else:
        here.blocked()  # it is found by who makes it shorter, and not by who reads it
        here.board.add([b"{}\n"] * 1100, change=here.board.change)
        here.worker._epoch = here.board.epoch
    if broken != "longer":
        with pytest.raises(BlocksUnknown):
            here.blocklist.check(identity("web"))
    feed = GrantFeed(here.publisher, here.store)
    await feed.start()
    await until(lambda: feed.error is None and here.board.change > 0)
    await feed.close()
    assert here.blocked()
    assert not here.blocked(identity("web"))


class Unlucky(SqliteStore):
    """Comes upon a mistake of its own, the first time of each."""

    looked = 0

    async def expire(self) -> list[Record]:
        return await super().expire() if self._lucky() else []

    async def expire_blocks(self) -> list[Block]:
        return await super().expire_blocks() if self._lucky() else []

    def _lucky(self) -> bool:
        self.looked += 1
        if self.looked == 1:
            raise IndexError
        return True


@pytest.mark.parametrize("kind", [blocking, granting])
async def test_no_unforeseen_error_ends_the_look_for_what_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(kind, "_TIDY", 0.01)
    store = Unlucky(tmp_path / "grants.db")
    async with machine(store, tmp_path) as here:
        service: BlockService | GrantService = here.service
        if kind is granting:
            service = GrantService(store=store, publisher=here.publisher, audit=here.audit, patience=60)
        await service.start()
        await until(lambda: store.looked > 2)
        await service.close()


async def test_what_nobody_foresaw_while_it_is_read_lets_nobody_through_and_is_read_again(here: Machine) -> None:
    await here.publisher.publish()
    assert not here.blocked()
    began: list[int] = []

    def begun() -> None:
        began.append(len(here.worker.blocked.by_mark))
        if len(began) == 1:
            raise IndexError

    here.worker.blocked.begun = begun
    await here.block()
    assert not here.worker.look()
    assert here.worker.epoch == 0  # nothing counts that was read by halves
    assert here.worker.look()
    assert began == [1, 1]
    assert here.blocked()


async def test_who_finds_the_board_broken_at_first_lets_nobody_through(here: Machine, tmp_path: Path) -> None:
    await here.block()
    (journal,) = journals(tmp_path)
    journal.write_bytes(b"{}\n" * 99)
    for _ in range(2):
        with pytest.raises(BlocksUnknown):
            here.blocklist.check(identity("web"))


async def test_a_shorter_journal_says_the_same(here: Machine) -> None:
    kept = await here.block()
    assert here.blocked()
    for _ in range(3):
        await here.lift(await here.block(WEB))
    late = ActiveGrants(here.board, monotonic=SystemClock().monotonic)
    here.board.shorten()
    late.look()
    assert late.blocked.by_mark == {EVE: (kept,)}
    assert here.blocked()
    assert not here.blocked(identity("web"))
    late.close()


async def test_blocks_leave_grants_and_grants_leave_blocks(here: Machine) -> None:
    block = await here.block()
    began = []
    here.worker.blocked.begun = lambda: began.append(len(here.worker.blocked.by_mark))
    ended = []
    here.worker.ended = ended.append
    assert here.blocked()
    assert began == [1]
    await here.store.ask(draft())
    await here.block(WEB)
    await here.lift(block)
    assert here.blocked(identity("web"))
    assert (began, block in ended) == ([1, 1], False)  # that of the one which was lifted has gone


# A start without the store.


async def test_what_was_blocked_last_outlives_the_machine_s_processes(here: Machine) -> None:
    await here.block()
    other = await here.block(WEB)
    remembered = here.memory.recall()
    assert remembered is not None
    assert {one.mark for one in remembered.blocks} == {EVE, WEB}
    await here.lift(other)
    remembered = here.memory.recall()
    assert remembered is not None
    assert [one.mark for one in remembered.blocks] == [EVE]
    here.board.replace(list(map(block_line, remembered.blocks)), store="", change=0)  # as at a start
    assert here.blocked()
    assert here.worker.void or not here.worker.active(ANN.owner, 0)


async def test_the_time_of_the_file_is_when_the_store_was_heard_of(here: Machine) -> None:
    assert here.memory.recall() is None
    await here.publisher.publish()
    os.utime(here.memory.path, (1, 1))
    remembered = here.memory.recall()
    assert remembered is not None
    assert remembered.heard_at == 1
    here.memory.heard()
    remembered = here.memory.recall()
    assert remembered is not None
    assert remembered.heard_at > 1
    assert here.memory.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format":2,"blocks":{}}', b'{"format":1}', b'{"format":1,"blocks":{"b-1":null}}',
     b'{"format":1,"blocks":{"b-1":["subject"]}}', b'{"format":1,"blocks":{"b-1":["subject",1]}}'],
)  # fmt: skip
async def test_a_file_that_does_not_say_what_is_blocked_is_not_one_without_blocks(
    here: Machine, content: bytes
) -> None:
    here.memory.path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a file of blocks|does not say|JSON|unexpected|EOF|empty"):
        here.memory.recall()


async def test_a_disk_that_does_not_take_the_file_keeps_nobody_from_blocking(here: Machine) -> None:
    here.memory.path.mkdir()
    await here.block()
    assert here.blocked()
    assert here.board.unkept
    here.memory.path.rmdir()
    await here.publisher.publish()
    assert not here.board.unkept
    remembered = here.memory.recall()
    assert remembered is not None
    assert remembered.blocks[0].mark == EVE


# Several machines.


@pytest.mark.parametrize("listening", [True, False])
async def test_a_block_on_another_machine_is_heard_of(
    tmp_path: Path, postgresql: PostgresServer, listening: bool
) -> None:
    url = await empty(postgresql)
    for name in "ab":
        (tmp_path / name).mkdir()
    async with (
        machine(PostgresStore(url), tmp_path / "a") as one,
        machine(PostgresStore(url), tmp_path / "b") as other,
    ):
        store = other.store
        feed = GrantFeed(
            other.publisher, store, listening=store if listening and isinstance(store, PostgresStore) else None
        )
        await feed.start()
        await one.store.start()
        await one.block()
        began = time.monotonic()
        while not other.blocked():
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.005)
        await feed.close()


async def test_a_store_that_is_down_lets_go_of_nothing_and_acknowledges_nothing(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    async with machine(PostgresStore(await empty(postgresql), deadline=0.3), tmp_path) as here:
        await here.store.start()
        block = await here.block(duration=1)
        assert here.blocked()
        postgresql.pause()
        try:
            await asyncio.sleep(1.2)
            with pytest.raises(GrantsUnavailable):
                await here.block(WEB)
            with pytest.raises(GrantsUnavailable):
                await here.service.tidy()
            assert here.blocked()  # although its time is up
            assert not here.blocked(identity("web"))
        finally:
            postgresql.go_on()
        began = time.monotonic()
        while here.blocked():
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.1)
            with suppress(GrantsUnavailable):  # it may take a moment to go on
                await here.service.tidy()
        assert (await here.service.get(block)).state == "expired"


def test_a_line_of_a_block_has_no_owner() -> None:
    assert block_line(HeldBlock("b-1", None)) == b'["b-1",null,null,null,"block"]\n'
    assert block_line(HeldBlock("b-1", EVE)) == (
        b'["b-1",null,null,{"mark":["subject","https://idp.test","eve"]},"block"]\n'
    )
