"""Blocks in both stores: one for each mark, ended by the store's time alone, in force until their end is recorded."""

from __future__ import annotations

import asyncio
import sqlite3
import time as clocks
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from ostiary.grants import blocks, refusals
from ostiary.grants.base import DatabaseStore
from ostiary.grants.blocks import Block, BlockDraft, BlockSelection
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.statements import MIGRATIONS, VERSION
from ostiary.grants.store import Bounds
from ostiary.marks import Mark, key_mark, subject_mark
from support.grants import ANN, BEN, IDP, MovedTime, draft
from support.postgresql import PostgresServer, empty

EVE_MARK, KEY_MARK = subject_mark(IDP, "eve"), key_mark(IDP, "k" * 128)


def drafted(
    id: str = "b-1", mark: Mark = EVE_MARK, *, duration: int | None = None, reason: str = "a stolen laptop"
) -> BlockDraft:
    return BlockDraft(id=id, mark=mark, actor=ANN.owner, reason=reason, duration=duration)


async def held(store: DatabaseStore) -> dict[str, Mark | None]:
    return {one.id: one.mark for one in await store.blocks_in_force()}


async def test_what_is_blocked_is_found_again_and_in_the_news(store: DatabaseStore) -> None:
    block = await store.block(drafted())
    assert (block.state, block.ends_at, [step.kind for step in block.steps]) == ("active", None, ["blocked"])
    assert block.steps[0].actor == ANN.owner
    assert await store.get_block("b-1") == block
    assert await store.find_blocks(BlockSelection()) == [block]
    assert [tuple(one) for one in (await store.news(0)).blocks] == [("b-1", EVE_MARK)]
    with pytest.raises(refusals.BlockUnknown):
        await store.get_block("b-2")
    with pytest.raises(refusals.BlockUnknown):
        await store.change_block("b-2", blocks.lift(ANN.owner, reason="over"))


async def test_a_mark_has_one_block_however_many_ask_at_once(store: DatabaseStore) -> None:
    found = await asyncio.gather(*(store.block(drafted(f"b-{number}")) for number in range(8)))
    assert len({block.id for block in found}) == 1
    assert len(await store.find_blocks(BlockSelection())) == 1
    assert (await store.block(drafted("b-9", KEY_MARK))).id == "b-9"


async def test_to_block_again_extends_and_never_shortens(store: DatabaseStore) -> None:
    first = await store.block(drafted(duration=600))
    assert first.ends_at is not None
    assert abs(first.ends_at - clocks.time() - 600) < 5
    assert await store.block(drafted("b-2", duration=60)) == first
    longer = await store.block(drafted("b-3", duration=1200, reason="still"))
    assert (longer.id, [step.kind for step in longer.steps]) == ("b-1", ["blocked", "extended"])
    assert longer.ends_at is not None
    assert longer.ends_at >= first.ends_at + 600
    for_good = await store.block(drafted("b-4"))
    assert (for_good.id, for_good.ends_at) == ("b-1", None)
    assert await store.block(drafted("b-5", duration=60)) == for_good


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"reason": " "}, refusals.ReasonRequired),
        ({"reason": "x" * 1001}, refusals.ReasonTooLong),
        ({"duration": 0}, refusals.DurationRefused),
        ({"duration": 10**12}, refusals.DurationRefused),
    ],
)
async def test_what_is_refused_blocks_nothing(
    store: DatabaseStore, wrong: dict[str, object], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await store.block(replace(drafted(), **wrong))
    assert await store.find_blocks(BlockSelection()) == []
    await store.block(drafted(duration=600))
    with pytest.raises(refusal):
        await store.block(replace(drafted(), **wrong))
    with pytest.raises(refusals.ReasonRequired):
        await store.change_block("b-1", blocks.lift(ANN.owner, reason=""))


async def test_a_block_is_in_force_until_its_end_is_recorded(store: DatabaseStore) -> None:
    await store.block(drafted())
    await store.block_recorded("b-1", 1)
    lifted = await store.change_block("b-1", blocks.lift(BEN.owner, reason="found"))
    assert (lifted.state, lifted.in_force) == ("lifted", True)
    assert await held(store) == {"b-1": EVE_MARK}
    assert await store.unrecorded_blocks() == [lifted]
    before = (await store.news(0)).change
    await store.block_recorded("b-1", 2)
    assert await held(store) == {}
    assert [tuple(one) for one in (await store.news(before)).blocks] == [("b-1", None)]
    again = await store.change_block("b-1", blocks.lift(ANN.owner, reason="once more"))
    assert again == replace(lifted, change=again.change, recorded=2)
    second = await store.block(drafted("b-2"))
    assert (second.id, await held(store)) == ("b-2", {"b-2": EVE_MARK})


async def test_what_nobody_has_to_see_is_no_news(store: DatabaseStore) -> None:
    await store.block(drafted())
    before = (await store.news(0)).change
    await store.block_recorded("b-1", 1)
    assert (await store.news(before)).blocks == []
    assert (await store.get_block("b-1")).recorded == 1


async def test_the_store_s_time_ends_a_block_and_not_before_it_is_recorded(
    store: DatabaseStore, time: MovedTime
) -> None:
    await store.block(drafted(duration=600))
    await store.block(drafted("b-2", KEY_MARK))
    await store.block_recorded("b-1", 1)
    time.moved = 590
    assert await store.expire_blocks() == []
    time.moved = 602
    assert await held(store) == {"b-1": EVE_MARK, "b-2": KEY_MARK}
    (ended,) = await store.expire_blocks()
    assert (ended.id, ended.state, ended.steps[-1].actor) == ("b-1", "expired", None)
    assert await store.expire_blocks() == []
    assert "b-1" in await held(store)
    await store.block_recorded("b-1", 2)
    assert await held(store) == {"b-2": KEY_MARK}


async def test_of_what_is_found_the_latest_comes_first_and_the_rest_after_it(store: DatabaseStore) -> None:
    for number in range(5):
        await store.block(drafted(f"b-{number}", subject_mark(IDP, f"s-{number}")))
    await store.change_block("b-1", blocks.lift(ANN.owner, reason="over"))
    found = await store.find_blocks(BlockSelection())
    assert [block.id for block in found] == ["b-4", "b-3", "b-2", "b-0"]
    first = await store.find_blocks(BlockSelection(limit=2))
    rest = await store.find_blocks(BlockSelection(before=(first[-1].change, first[-1].id)))
    assert first + rest == found
    assert [block.id for block in await store.find_blocks(BlockSelection(states=("lifted", "expired")))] == ["b-1"]


async def test_blocks_and_grants_have_one_order(store: DatabaseStore) -> None:
    changes = [
        (await store.ask(draft("g-1"))).change,
        (await store.block(drafted())).change,
        (await store.ask(draft("g-2", reason="another"))).change,
    ]
    assert changes == sorted(set(changes))


def test_a_mark_of_any_length_and_text_is_kept_as_it_is() -> None:
    mark = subject_mark("https://idp.test", '["eve"] \\ ' * 200)
    block = Block.of(
        Block(id="b-1", change=1, mark=mark, state="active", ends_at=None, steps=(), recorded=0).document()
    )
    assert block.mark == mark


async def test_a_long_mark_has_one_block_too(store: DatabaseStore) -> None:
    mark = subject_mark(IDP, '"\\' * 1000)
    assert (await store.block(drafted("b-1", mark))).mark == mark
    assert (await store.block(drafted("b-2", mark))).id == "b-1"


async def test_tables_without_blocks_are_brought_up_to_date_with_their_grants(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO grant_clock VALUES (1, 7, 'an older one')")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    url = await empty(postgresql)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE grant_schema (version BIGINT NOT NULL)")
    for statement in MIGRATIONS[0]:
        await connection.execute(statement)
    await connection.execute("INSERT INTO grant_clock VALUES (1, 7, 'an older one')")
    await connection.execute("INSERT INTO grant_schema VALUES (1)")
    await connection.close()
    for store in (SqliteStore(path), PostgresStore(url)):
        await store.start()
        assert await store.tables() == VERSION
        assert (await store.block(drafted())).change == 8
        assert (await store.news(0)).store == "an older one"
        await store.close()


async def test_what_has_ended_is_let_go_after_a_while_and_what_is_in_force_never(
    store: DatabaseStore, time: MovedTime, bounds: Bounds
) -> None:
    assert bounds.keep_ended is not None
    await store.block(drafted())
    for id, mark, recorded in (("b-2", KEY_MARK, 2), ("b-3", subject_mark(IDP, "web"), 1)):  # noqa: A001
        await store.block(drafted(id, mark))
        await store.change_block(id, blocks.lift(ANN.owner, reason="over"))
        await store.block_recorded(id, recorded)
    assert await store.prune() == 0
    time.moved = bounds.keep_ended + 5
    assert await store.prune() == 1
    with pytest.raises(refusals.BlockUnknown):
        await store.get_block("b-2")
    assert set(await held(store)) == {"b-1", "b-3"}  # that the third has ended is not recorded
