"""What is to be told is in the store from the instant at which the audit is known to have it, until it was told."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.clock import SystemClock
from ostiary.errors import AuditUnavailable
from ostiary.grants import Board, GrantService, Publisher, life
from ostiary.grants.base import DatabaseStore
from ostiary.grants.life import Ruling
from ostiary.grants.outbox import FORGOTTEN, Delivery
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.statements import MIGRATIONS
from ostiary.models import Json
from support.grants import CID, MovedTime, asked, draft
from support.webhooks import block_draft

LEASE = 30.0


async def given(store: DatabaseStore, id: str = "g-1") -> None:
    """A grant whose steps are all in the audit: two changes."""
    record = await store.ask(draft(id))
    await store.recorded(id, 1)
    await store.change(id, life.approve(CID, digest=record.digest))
    await store.recorded(id, 3)


async def taken(store: DatabaseStore, webhook: str = "chat", holder: str = "me") -> Delivery:
    found = await store.take(webhook, holder, LEASE)
    assert found is not None
    return found


async def test_nothing_is_told_that_the_audit_does_not_have(store: DatabaseStore) -> None:
    await store.know(["chat"])
    record = await store.ask(draft())
    assert await store.waiting("chat") == (0, False)
    await store.recorded(record.id, 1)
    assert await store.waiting("chat") == (1, True)
    await store.recorded(record.id, 1)
    assert await store.waiting("chat") == (1, True)


async def test_each_who_is_known_is_told_of_each_change_once(store: DatabaseStore) -> None:
    await given(store, "g-0")
    await store.know(["chat", "log"])
    await given(store)
    for webhook in ("chat", "log"):
        seen = []
        while (found := await store.take(webhook, "me", LEASE)) is not None:
            seen.append((found.record.id, found.step, found.tries))
            await store.told(found)
        assert seen == [("g-1", 0, 0), ("g-1", 2, 0)]
        assert await store.waiting(webhook) == (0, False)


async def test_of_one_grant_the_later_waits_for_the_earlier_and_others_do_not(
    store: DatabaseStore, time: MovedTime
) -> None:
    await store.know(["chat"])
    await given(store, "g-1")
    await given(store, "g-2")
    first = await taken(store)
    assert (first.record.id, first.step) == ("g-1", 0)
    await store.postpone(first, 60, hold=LEASE)
    second = await taken(store)
    assert (second.record.id, second.step) == ("g-2", 0)
    await store.told(second)
    third = await taken(store)
    await store.told(third)
    assert (third.record.id, third.step) == ("g-2", 2)
    assert await store.take("chat", "me", LEASE) is None
    time.moved += 60
    again = await taken(store)
    assert (again.record.id, again.step, again.tries) == ("g-1", 0, 1)


async def test_one_at_a_time_sends_and_another_after_a_death(store: DatabaseStore, time: MovedTime) -> None:
    await store.know(["chat", "log"])
    await given(store)
    mine = await taken(store)
    assert await store.take("chat", "another", LEASE) is None
    assert (await taken(store, "log", "another")).step == 0
    time.moved += LEASE + 1
    assert (await taken(store, holder="another")).step == mine.step
    assert await store.take("chat", "me", LEASE) is None
    await store.release("another")
    asked_for = await taken(store)
    await store.postpone(asked_for, 1, hold=100)
    time.moved += 90
    assert await store.take("chat", "another", LEASE) is None
    assert (await taken(store)).step == 0


async def test_a_webhook_that_nobody_has_any_more_is_forgotten(store: DatabaseStore, time: MovedTime) -> None:
    await store.know(["chat", "log"])
    await given(store)
    time.moved += FORGOTTEN - 60
    await store.know(["log"])
    assert await store.waiting("chat") == (2, True)
    time.moved += 120
    await store.know(["log"])
    assert await store.waiting("chat") == (0, False)
    assert await store.waiting("log") == (2, True)
    await given(store, "g-2")
    assert await store.waiting("chat") == (0, False)
    assert await store.waiting("log") == (4, True)


async def test_what_is_blocked_is_told_once_the_audit_has_it_and_so_is_its_end(
    store: DatabaseStore, time: MovedTime
) -> None:
    await store.know(["chat"])
    block = await store.block(block_draft(duration=60))
    assert await store.waiting("chat") == (0, False)
    await store.block_recorded(block.id, 1)
    await given(store)  # a grant beside it
    first = await taken(store)
    assert (first.record, first.step) == (replace(block, recorded=1), 0)
    await store.postpone(first, 90, hold=LEASE)
    time.moved += 61
    await store.expire_blocks()
    await store.block_recorded(block.id, 2)
    await store.block_recorded(block.id, 2)
    assert (await store.waiting("chat")).number == 4
    seen = []
    for _ in range(2):  # the end waits for the beginning
        found = await taken(store)
        seen.append((found.record.id, found.step))
        await store.told(found)
    assert seen == [("g-1", 0), ("g-1", 2)]
    assert await store.take("chat", "me", LEASE) is None
    time.moved += 30
    for step in (0, 1):
        found = await taken(store)
        assert (found.record.id, found.step) == (block.id, step)
        await store.told(found)
    assert await store.waiting("chat") == (0, False)


async def test_a_block_that_is_let_go_waits_for_nobody(store: DatabaseStore, time: MovedTime) -> None:
    await store.know(["chat"])
    block = await store.block(block_draft(duration=60))
    time.moved += 61
    await store.expire_blocks()
    await store.block_recorded(block.id, 2)
    assert (await store.waiting("chat")).number == 2
    time.moved += 31 * 86_400
    assert await store.prune() == 1
    assert await store.waiting("chat") == (0, False)


async def test_what_is_let_go_waits_for_nobody(store: DatabaseStore, time: MovedTime) -> None:
    await store.know(["chat"])
    await store.ask(draft(ruling=Ruling(approve=False)))
    await store.recorded("g-1", 2)
    assert (await store.waiting("chat")).number == 1
    time.moved += 31 * 86_400
    assert await store.prune() == 1
    assert await store.waiting("chat") == (0, False)


class Full:
    """A `StepLog` that takes nothing until it may."""

    def __init__(self) -> None:
        self.full = True

    async def step(self, document: Mapping[str, Json]) -> None:
        if self.full:
            raise AuditUnavailable("no space left")


async def test_what_another_process_records_after_a_death_is_told_too(store: DatabaseStore, tmp_path: Path) -> None:
    await store.know(["chat"])
    board, audit = Board.create(tmp_path / "grants"), Full()
    publisher = Publisher(store, board, clock=SystemClock())
    service = GrantService(store=store, publisher=publisher, audit=audit, patience=60)
    with pytest.raises(AuditUnavailable):
        await service.ask(asked())
    assert await store.waiting("chat") == (0, False)
    audit.full = False
    await GrantService(store=store, publisher=publisher, audit=audit, patience=60).tidy()
    assert await store.waiting("chat") == (1, True)
    board.close()


async def test_a_store_from_before_there_were_webhooks_is_brought_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "grants.db"
    with sqlite3.connect(file) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO grant_clock VALUES (1, 0, 'a-store')")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = SqliteStore(file)
    await store.start()
    await store.know(["chat"])
    await given(store)
    assert (await store.waiting("chat")).number == 2
    await store.close()
