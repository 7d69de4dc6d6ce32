"""Everything that can be done with blocks, in the order in which it becomes true:

    stored (durable) → in the file that outlives the board → on the board (all workers) → in the audit → acknowledged

A block counts once it is on the board, and never waits for the audit: if it cannot be recorded at the moment, it is
recorded later. To lift one is to give, so that waits: the block stays on the board until its end is in the audit, which
goes for one that ends by time as well. What a process that dies leaves undone, any other one finds (`tidy`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal, Protocol

from ostiary.errors import AuditUnavailable, GrantsUnavailable
from ostiary.grants import blocks
from ostiary.grants.blocks import Block, BlockDraft, BlockSelection, shown_mark
from ostiary.grants.looking import Looking
from ostiary.grants.publisher import Publisher
from ostiary.grants.service import StepLog
from ostiary.grants.store import BlockStore
from ostiary.marks import Mark
from ostiary.models import Json, Owner

_log = logging.getLogger("ostiary.grants")

_TIDY: Final = 1.0
"""Seconds between two looks for blocks that are due, and for what is not recorded."""


class BlockLog(StepLog, Protocol):
    """The audit, for steps of grants and of blocks."""

    async def step(self, document: Mapping[str, Json], *, kind: Literal["grant", "block"] = "grant") -> None:
        """Done once it is on disk. Raises `AuditUnavailable`."""


class BlockService:
    def __init__(self, *, store: BlockStore, publisher: Publisher, audit: BlockLog) -> None:
        self._store = store
        self._publisher = publisher
        self._audit = audit
        self._looking = Looking(self.tidy, name="blocks-tidy")
        self._busy: set[str] = set()
        self._marking: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._looking.start(every=_TIDY)

    async def close(self) -> None:
        await self._looking.close()
        await asyncio.gather(*self._marking)

    async def block(self, mark: Mark, actor: Owner, *, reason: str, duration: int | None = None) -> Block:
        """The block that the mark has now. Raises `GrantRefused`, `GrantsUnavailable`."""
        draft = BlockDraft(id=f"b-{secrets.token_hex(16)}", mark=mark, actor=actor, reason=reason, duration=duration)
        block = await self._store.block(draft)
        await self._publisher.publish()
        await self._record_if_possible(block)
        return block

    async def lift(self, id: str, actor: Owner, *, reason: str) -> Block:
        """The block, which is in force no more. Raises `GrantRefused`, `GrantsUnavailable`, `AuditUnavailable`."""
        await asyncio.gather(*self._marking)  # so that what is recorded is known to be
        return await self._record(await self._store.change_block(id, blocks.lift(actor, reason=reason)))

    async def get(self, id: str) -> Block:
        return await self._store.get_block(id)

    async def find(self, selection: BlockSelection) -> list[Block]:
        return await self._store.find_blocks(selection)

    async def tidy(self) -> None:
        """End what is due, and record what is not recorded. Raises `GrantsUnavailable`, `AuditUnavailable`."""
        await self._store.expire_blocks()
        for block in await self._store.unrecorded_blocks():
            if block.id not in self._busy:
                await self._record(block)

    async def _record(self, block: Block) -> Block:
        self._busy.add(block.id)
        try:
            await self._write(block)
            if block.recorded < len(block.steps):
                await self._store.block_recorded(block.id, len(block.steps))
        finally:
            self._busy.discard(block.id)
        await self._publisher.publish()
        return replace(block, recorded=len(block.steps))

    async def _record_if_possible(self, block: Block) -> None:
        """It counts already. That the audit has it is written down when nobody waits for it any more."""
        self._busy.add(block.id)
        try:
            await self._write(block)
        except AuditUnavailable as error:
            self._busy.discard(block.id)
            _log.error("a step of %s is recorded later: %s", block.id, error)
        except BaseException:
            self._busy.discard(block.id)
            raise
        else:
            marking = asyncio.create_task(self._mark_if_possible(block), name="blocks-mark")
            self._marking.add(marking)
            marking.add_done_callback(self._marking.discard)

    async def _mark_if_possible(self, block: Block) -> None:
        try:
            await self._store.block_recorded(block.id, len(block.steps))
        except GrantsUnavailable as error:
            _log.error("a step of %s is recorded once more: %s", block.id, error)
        finally:
            self._busy.discard(block.id)

    async def _write(self, block: Block) -> None:
        """The steps that are new into the audit. Raises `AuditUnavailable`."""
        for number in range(block.recorded, len(block.steps)):
            await self._audit.step(block_document(block, number), kind="block")


def block_document(block: Block, number: int) -> dict[str, Json]:
    """What the audit is told of a step."""
    step = block.steps[number]
    return {
        "block": block.id,
        "step": number,
        "action": step.kind,
        "at": step.time,
        "actor": None if step.actor is None else {"issuer": step.actor[0], "subject": step.actor[1]},
        "reason": step.reason,
        "by": block.mark[0],
        "blocked": dict(shown_mark(block.mark)),
        "ends_at": step.ends_at,
    }
