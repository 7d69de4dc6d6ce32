"""A `GrantStore` and `Outbox` over a database: the operations of `statements` and `outbox`, each in one transaction of
whoever inherits this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

from ostiary.grants import block_statements, life, outbox, statements
from ostiary.grants.blocks import Block, BlockDraft, BlockSelection, BlockTransition
from ostiary.grants.life import Transition
from ostiary.grants.outbox import Delivery, Waiting
from ostiary.grants.records import Actor, Record
from ostiary.grants.statements import Operation
from ostiary.grants.store import NO_BOUNDS, Bounds, Draft, HeldBlock, News, Selection, Told, as_told
from ostiary.models import Owner

T = TypeVar("T")


class DatabaseStore(ABC):
    """`deadline` is for each operation, in seconds."""

    def __init__(self, *, bounds: Bounds = NO_BOUNDS, deadline: float = 2.0, told: Told = as_told) -> None:
        self._bounds = bounds
        self._deadline = deadline
        self._told = told

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def _write(self, operation: Operation[T], *, told: bool = True) -> T:
        """Run it in a transaction that is durable when this returns. `told`: replicas are notified."""

    @abstractmethod
    async def _read(self, operation: Operation[T]) -> T: ...

    @abstractmethod
    async def tables(self) -> int: ...

    async def ask(self, draft: Draft) -> Record:
        return await self._write(statements.ask(draft, told=self._told, bounds=self._bounds))

    async def asked(self, owner: Owner, idempotency_key: str) -> Record | None:
        return await self._read(statements.asked(owner, idempotency_key))

    async def would_ask(self, draft: Draft) -> Record:
        return await self._read(statements.would_ask(draft, told=self._told, bounds=self._bounds))

    async def change(self, id: str, transition: Transition) -> Record:
        return await self._write(
            statements.change(id, transition, told=self._told, allowance=self._bounds.time_per_day)
        )

    async def change_all(self, selection: Selection, transition: Transition) -> AsyncGenerator[list[Record], None]:
        after: tuple[int, str] | None = (0, "")
        while after is not None:
            changed, after = await self._write(
                statements.sweep(selection, transition, after, told=self._told, allowance=self._bounds.time_per_day)
            )
            if changed:
                yield changed
        for ids in await self._read(statements.used_up(selection, told=self._told)):
            changed = await self._write(
                statements.sweep_used_up(
                    ids, selection, transition, told=self._told, allowance=self._bounds.time_per_day
                )
            )
            if changed:
                yield changed

    async def use(self, id: str) -> Record:
        record = await self._write(statements.use(id, told=self._told), told=False)
        return await self.change(id, life.use) if record is None else record

    async def expire(self) -> list[Record]:
        due = await self._read(statements.due(told=self._told))
        return await self._write(statements.expire(due, told=self._told)) if due else []

    async def prune(self) -> int:
        keep = self._bounds.keep_ended
        if keep is None:
            return 0
        gone = 0
        if await self._read(statements.over(keep, told=self._told)):
            gone = await self._write(statements.prune(keep, told=self._told), told=False)
        if await self._read(block_statements.over(keep, told=self._told)):
            gone += await self._write(block_statements.prune(keep, told=self._told), told=False)
        return gone

    async def get(self, id: str, *, to: Actor | None = None) -> Record:
        return await self._read(statements.get(id, to=to))

    async def find(self, selection: Selection) -> list[Record]:
        return await self._read(statements.find(selection))

    async def recorded(self, id: str, steps: int) -> None:
        await self.all_recorded([(id, steps)])

    async def all_recorded(self, marks: Sequence[tuple[str, int]]) -> None:
        await self._write(statements.recorded(marks, told=self._told))

    async def unrecorded(self) -> list[Record]:
        return await self._read(statements.unrecorded())

    async def news(self, after: int) -> News:
        return await self._read(block_statements.news(after, told=self._told))

    # What waits to be told. No board is concerned, so nobody is notified.

    async def know(self, webhooks: Sequence[str]) -> None:
        await self._write(outbox.know(webhooks, told=self._told), told=False)

    async def waiting(self, webhook: str) -> Waiting:
        return await self._read(outbox.waiting(webhook, told=self._told))

    async def take(self, webhook: str, holder: str, seconds: float) -> Delivery | None:
        return await self._write(outbox.take(webhook, holder, seconds, told=self._told), told=False)

    async def told(self, delivery: Delivery) -> None:
        await self._write(outbox.remove(delivery), told=False)

    async def postpone(self, delivery: Delivery, seconds: float, *, hold: float) -> None:
        await self._write(outbox.postpone(delivery, seconds, hold=hold, told=self._told), told=False)

    async def release(self, holder: str) -> None:
        await self._write(outbox.release(holder), told=False)

    # What is blocked.

    async def block(self, draft: BlockDraft) -> Block:
        return await self._write(block_statements.block(draft, told=self._told))

    async def change_block(self, id: str, transition: BlockTransition) -> Block:
        return await self._write(block_statements.change(id, transition, told=self._told))

    async def expire_blocks(self) -> list[Block]:
        due = await self._read(block_statements.due(told=self._told))
        return await self._write(block_statements.expire(due, told=self._told)) if due else []

    async def get_block(self, id: str) -> Block:
        return await self._read(block_statements.get(id))

    async def find_blocks(self, selection: BlockSelection) -> list[Block]:
        return await self._read(block_statements.find(selection))

    async def block_recorded(self, id: str, steps: int) -> None:
        await self._write(block_statements.recorded(id, steps, told=self._told))

    async def unrecorded_blocks(self) -> list[Block]:
        return await self._read(block_statements.unrecorded())

    async def blocks_in_force(self) -> list[HeldBlock]:
        return await self._read(block_statements.in_force())
