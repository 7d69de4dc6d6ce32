"""What both stores do with blocks, as `statements` does with grants: by the same changes, in the same order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ostiary.grants import blocks, statements
from ostiary.grants.blocks import Block, BlockDraft, BlockSelection, BlockTransition
from ostiary.grants.life import Moment
from ostiary.grants.refusals import BlockUnknown
from ostiary.grants.statements import Operation, Rows, as_json, tell, tick
from ostiary.grants.store import HeldBlock, News, Told
from ostiary.marks import Mark

_INSERT: Final = """
    INSERT INTO block_records (change, mark, state, due, over_at, unrecorded, held, document, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE: Final = """
    UPDATE block_records SET change = ?, mark = ?, state = ?, due = ?, over_at = ?, unrecorded = ?, held = ?,
    document = ? WHERE id = ?
"""
_BATCH: Final = 1000


def block(draft: BlockDraft, *, told: Told) -> Operation[Block]:
    moment = yield from tick(told)
    rows = yield (
        "SELECT document FROM block_records WHERE mark = ? AND state = 'active' {lock}",
        (_digest(draft.mark),),
    )
    if not rows:
        made = blocks.begin(draft, moment)
        yield _INSERT, _values(made)
        return made
    before = _block(rows[0])
    return (yield from _changed(before, blocks.again(draft, before, moment)))


def change(id: str, transition: BlockTransition, *, told: Told) -> Operation[Block]:
    moment = yield from tick(told)
    before = yield from get(id, lock=True)
    return (yield from _changed(before, transition(before, moment)))


def due(*, told: Told) -> Operation[list[str]]:
    rows = yield "SELECT {now}", ()
    found = yield "SELECT id FROM block_records WHERE due <= ? LIMIT ?", (int(told(rows[0][0])), _BATCH)
    return [row[0] for row in found]


def expire(ids: Sequence[str], *, told: Told) -> Operation[list[Block]]:
    moment: Moment = yield from tick(told)
    ended = []
    for each in ids:
        before = yield from get(each, lock=True)
        after = yield from _changed(before, blocks.expire(before, moment))
        if after.state != before.state:
            ended.append(after)
    return ended


def recorded(id: str, steps: int, *, told: Told) -> Operation[None]:
    moment = yield from tick(told)
    before = yield from get(id, lock=True)
    if steps > before.recorded:
        after = replace(before, recorded=min(steps, len(before.steps)))
        if after.in_force != before.in_force:  # otherwise it is nothing that anybody has to see
            after = replace(after, change=moment.change)
        yield from _changed(before, after)
        yield from tell([(id, number) for number in range(before.recorded, after.recorded)], moment)


def get(id: str, *, lock: bool = False) -> Operation[Block]:
    rows = yield f"SELECT document FROM block_records WHERE id = ?{' {lock}' if lock else ''}", (id,)
    if not rows:
        raise BlockUnknown
    return _block(rows[0])


def find(selection: BlockSelection) -> Operation[list[Block]]:
    change, id = selection.before or (2**62, "")  # noqa: A001
    states = selection.states
    text = (
        f"SELECT document FROM block_records WHERE state IN ({', '.join('?' * len(states))})"
        " AND (change < ? OR (change = ? AND id > ?)) ORDER BY change DESC, id LIMIT ?"
    )
    rows = yield text, (*states, change, change, id, selection.limit)
    return [_block(row) for row in rows]


def unrecorded() -> Operation[list[Block]]:
    rows = yield "SELECT document FROM block_records WHERE unrecorded > 0 ORDER BY change LIMIT ?", (_BATCH,)
    return [_block(row) for row in rows]


def over(keep: int, *, told: Told) -> Operation[bool]:
    """Whether there is anything to prune."""
    rows = yield "SELECT {now}", ()
    return bool((yield "SELECT 1 FROM block_records WHERE over_at <= ? LIMIT 1", (int(told(rows[0][0])) - keep,)))


def prune(keep: int, *, told: Told) -> Operation[int]:
    """Let go what has been over for so many seconds: its end is in the audit, and on the board."""
    rows = yield "SELECT {now}", ()
    gone = yield "DELETE FROM block_records WHERE over_at <= ? RETURNING id", (int(told(rows[0][0])) - keep,)
    if gone:
        yield "DELETE FROM grant_deliveries WHERE grant_id = ?", [(row[0],) for row in gone]
    return len(gone)


def in_force() -> Operation[list[HeldBlock]]:
    rows = yield "SELECT id, held FROM block_records WHERE held IS NOT NULL ORDER BY id", ()
    return [_held(row) for row in rows]


def news(after: int, *, told: Told) -> Operation[News]:
    """What `statements.news` says, with the blocks.

    Those are not bounded by the last change that it says: a block that changes in between would be missing. What comes
    once more with the next news does no harm.
    """
    found = yield from statements.news(after, told=told)
    if not 0 < after <= found.change:
        return found._replace(blocks=(yield from in_force()))
    rows: Rows = yield "SELECT id, held FROM block_records WHERE change > ? ORDER BY change", (after,)
    return found._replace(blocks=[_held(row) for row in rows])


def _changed(before: Block, after: Block) -> Operation[Block]:
    if after != before:
        yield _UPDATE, _values(after)
    return after


def _values(block: Block) -> tuple[Any, ...]:
    return (
        block.change,
        _digest(block.mark),
        block.state,
        block.ends_at if block.state == "active" else None,
        None if block.in_force else int(block.steps[-1].time),
        len(block.steps) - block.recorded,
        as_json(block.mark) if block.in_force else None,
        as_json(block.document()),
        block.id,
    )


def _digest(mark: Mark) -> str:
    """An index takes no text of any length."""
    return hashlib.sha256(as_json(mark).encode("ascii")).hexdigest()


def _block(row: Sequence[Any]) -> Block:
    return Block.of(json.loads(row[0]))


def _held(row: Sequence[Any]) -> HeldBlock:
    mark: Mark | None = None if row[1] is None else tuple(json.loads(row[1]))
    return HeldBlock(row[0], mark)
