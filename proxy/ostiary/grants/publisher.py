"""From the store to the board: whoever changed something publishes it before saying so, and somebody looks regularly.

`publish` may be called by any process at any time; it reads what was changed since the board's last change, and adds
it. `GrantFeed` calls it for a machine (the supervisor): whenever PostgreSQL says that something was changed elsewhere,
and every half second besides. That repairs a lost notification, and shows to workers that the store is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, Protocol, runtime_checkable

import orjson

from ostiary.clock import Clock
from ostiary.errors import ConfigurationError, GrantsUnavailable
from ostiary.grants.board import Board
from ostiary.grants.memory import BlockMemory
from ostiary.grants.store import GrantStore, Held, HeldBlock, News

_log = logging.getLogger("ostiary.grants")

INTERVAL: Final = 0.5
"""Seconds between two looks at the store."""
_TURN: Final = 0.0005
"""Seconds after which it is tried again to write, while another process does."""


class Publisher:
    """`clock` is the one that workers have, `deadline` how long another process may take to publish, in seconds.
    `memory` is given the blocks, for a machine that begins anew while the store cannot be reached."""

    def __init__(
        self,
        store: GrantStore,
        board: Board,
        *,
        clock: Clock,
        deadline: float = 2.0,
        memory: BlockMemory | None = None,
    ) -> None:
        self._store = store
        self._board = board
        self._memory = memory
        self._clock = clock
        self._deadline = deadline

    async def publish(self, *, tidy: bool = False) -> None:
        """All changes that were committed before this was called are on the board. Raises `GrantsUnavailable`.

        `tidy`: begin a new journal if most of it does not count any more.
        """
        until = time.monotonic() + self._deadline
        while not await self._published(tidy):
            if time.monotonic() > until:
                raise GrantsUnavailable("another process holds the board")
            await asyncio.sleep(_TURN)

    async def _published(self, tidy: bool) -> bool:
        board = self._board
        with board.lock() as mine:
            if not mine:
                return False
            asked, after = time.monotonic(), board.change
            news = await self._store.news(after)
            afresh = not after or news.store != board.store or news.change < after
            if afresh and after:
                news = await self._store.news(0)
            # Before they are on the board, so that what workers know outlives them.
            if afresh or news.blocks or board.unkept:
                await self._keep_blocks(news)
            try:
                if afresh:
                    lines = [_line(held) for held in news.held if held.grant is not None]
                    lines += map(block_line, news.blocks)
                    board.replace(lines, store=news.store, change=news.change)
                elif news.held or news.blocks or news.change != after:
                    lines = [*map(_line, news.held), *map(block_line, news.blocks)]
                    board.add(lines, change=news.change)
                if tidy and board.wasteful:
                    board.shorten()
            except OSError as error:
                raise GrantsUnavailable(f"the board cannot be written: {error.strerror}") from error
            except ValueError as error:
                board.doubt()
                raise GrantsUnavailable("the board is not what was written: it is begun anew") from error
            # The answer was given in between: of what it says of the time, the half is not known.
            elapsed = time.monotonic() - asked
            board.hear(asked, ahead=news.now - (self._clock.now() - elapsed / 2))
            return True

    async def _keep_blocks(self, news: News) -> None:
        """A disk that does not take them keeps nobody from blocking: it is tried again with the next look."""
        blocks = await self._store.blocks_in_force()
        kept = True
        if self._memory is not None:
            try:
                await asyncio.to_thread(self._memory.keep, blocks, store=news.store)
            except OSError as error:
                kept = False
                if not self._board.unkept:
                    _log.error("the blocks would not outlive a restart without the store: %s", error)
        self._board.count_blocks(len(blocks), kept=kept)


@runtime_checkable
class Listening(Protocol):
    """A store that tells of changes (`PostgresStore`)."""

    def listening(self, heard: Callable[[], None]) -> AbstractAsyncContextManager[asyncio.Event]: ...


class GrantFeed:
    """Keeps the board of a machine. `heard` is called whenever the store was heard of. `pause` is in seconds: before it
    is listened again after what nobody foresaw. It is looked all the while."""

    def __init__(
        self,
        publisher: Publisher,
        store: GrantStore,
        *,
        listening: Listening | None = None,
        heard: Callable[[], None] = lambda: None,
        pause: float = 10.0,
    ) -> None:
        self._publisher = publisher
        self._store = store
        self._pause = pause
        self._opened = False
        self._listening = listening
        self._heard = heard
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.error: str | None = None
        """Why the store cannot be used now, None if it can."""

    async def start(self) -> None:
        """Open the store. The board is complete when this returns, or the store cannot be reached: then it is tried on.
        Raises `ConfigurationError`."""
        await self._look()
        self._tasks.append(asyncio.create_task(self._keep_looking(), name="grants-poll"))
        if self._listening is not None:
            self._tasks.append(asyncio.create_task(self._keep_listening(self._listening), name="grants-listen"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _keep_looking(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._look()
            except ConfigurationError as error:  # of a store that could not be reached until now
                self._failed(error, str(error))

    async def _look(self) -> None:
        try:
            if not self._opened:
                await self._store.start()
                self._opened = True
            await self._publisher.publish(tidy=True)
            self._heard()
        except ConfigurationError:
            raise
        except GrantsUnavailable as error:
            self._failed(error, error.detail)
        except Exception as error:  # noqa: BLE001 - blocks that are made elsewhere have to be heard of, whatever happens
            self._failed(error, f"unforeseen {type(error).__name__}")
        else:
            if self.error is not None:
                _log.warning("grants count again")
            self.error = None

    def _failed(self, error: Exception, told: str) -> None:
        if self.error != told:
            _log.error("no grant counts: %s: %s", type(error).__name__, error)
        self.error = told

    async def _keep_listening(self, store: Listening) -> None:
        while True:
            try:
                async with store.listening(self._wake.set) as gone:
                    self._wake.set()  # for what was changed while nobody listened
                    await gone.wait()
            except GrantsUnavailable as error:
                _log.debug("not listening: %s", error)
            except Exception:  # noqa: BLE001 - it would be listened no more, and nobody would know
                _log.exception("it is not listened to changes, which are heard of by looking")
                await asyncio.sleep(self._pause)
            await asyncio.sleep(INTERVAL)


def block_line(held: HeldBlock) -> bytes:
    """The line of a block, which has no owner. One that is not in force any more has no document."""
    document = None if held.mark is None else {"mark": held.mark}
    return orjson.dumps([held.id, None, None, document, "block"], option=orjson.OPT_APPEND_NEWLINE)


def _line(held: Held) -> bytes:
    grant = None if held.grant is None else orjson.loads(held.grant)
    return orjson.dumps([held.id, held.issuer, held.subject, grant, held.state], option=orjson.OPT_APPEND_NEWLINE)
