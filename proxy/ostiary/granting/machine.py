"""What the supervisor has of just-in-time access."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.config.model import Grants
from ostiary.granting.stores import grant_store
from ostiary.grants import Board, GrantFeed, Publisher
from ostiary.grants.memory import BlockMemory
from ostiary.grants.publisher import Listening, block_line
from ostiary.models import Json

if TYPE_CHECKING:  # else it is imported by a supervisor where somebody is to be told
    from ostiary.grants.webhooks.deliverer import Deliverer, WebhookFacts

_log = logging.getLogger("ostiary.grants")


class MachineGrants:
    """What the supervisor has of it: the board, the feed that keeps it, and who is told.

    Raises `ConfigurationError` for what cannot be used of `grants.webhooks`."""

    def __init__(self, config: Config, settings: Grants, *, clock: Clock) -> None:
        # By itself: where that waits for the disk, whether the store is there must be known all the same.
        self._outbox = grant_store(settings)
        self._webhooks = self._deliverer(config, settings)
        self._store = grant_store(settings)
        self._board = Board.create(config.grant_board)
        self._clock = clock
        self._memory = BlockMemory(config.block_memory)
        self._heard_at: float | None = None
        self._recall()
        publisher = Publisher(self._store, self._board, clock=clock, deadline=settings.deadline, memory=self._memory)
        listening = self._store if isinstance(self._store, Listening) else None
        self._feed = GrantFeed(publisher, self._store, listening=listening, heard=self._heard)

    def _deliverer(self, config: Config, settings: Grants) -> Deliverer | None:
        if not settings.webhooks:
            return None
        from ostiary.notifying import webhook_deliverer

        return webhook_deliverer(config, self._outbox)

    @property
    def error(self) -> str | None:
        """Why no grant counts, None if they do."""
        return self._feed.error

    @property
    def webhooks(self) -> tuple[WebhookFacts, ...]:
        """How it goes with each who is told."""
        return () if self._webhooks is None else self._webhooks.facts

    @property
    def blocks(self) -> dict[str, Json]:
        """How many are in force, None where that was never known; how many seconds ago it was known last; and whether
        the file that outlives this process has them."""
        heard = self._board.heard
        age: float | None = None
        if heard:
            age = self._clock.monotonic() - heard
        elif self._heard_at is not None:
            age = self._clock.now() - self._heard_at
        return {
            "in_force": self._board.blocks,
            "age": None if age is None else round(max(age, 0.0), 1),
            "kept": not self._board.unkept,
        }

    def _recall(self) -> None:
        """What was known last is in force until the store says otherwise."""
        try:
            remembered = self._memory.recall()
        except (OSError, ValueError) as error:
            _log.error("what was blocked is not known until the store is heard of: %s: %s", self._memory.path, error)
            return
        if remembered is not None:
            self._heard_at = remembered.heard_at
            self._board.replace(list(map(block_line, remembered.blocks)), store="", change=0)
            self._board.count_blocks(len(remembered.blocks), kept=True)

    def _heard(self) -> None:
        with suppress(OSError):
            self._memory.heard()

    async def start(self) -> None:
        """Raises `ConfigurationError`. A store that cannot be reached is tried again, as long as it takes."""
        await self._feed.start()
        if self._webhooks is not None:
            await self._webhooks.start()

    async def close(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.close()
        await self._feed.close()
        await self._outbox.close()
        await self._store.close()
        self._board.close()
