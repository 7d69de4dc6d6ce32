"""Just-in-time access, for a worker and for the supervisor: the store that is configured, and the board of the machine.

The supervisor makes the board and keeps it up to date (`GrantFeed`); workers read it. Whoever changes a grant does so
in the store and publishes it by itself.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.access import NoBlocklist, NoGrants, NoKeeper, NoReception, NoRecourse
from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.config.fields import SQLITE
from ostiary.config.model import Grants
from ostiary.credential import SigningKey
from ostiary.errors import ConfigurationError
from ostiary.grants import ActiveGrants, Board, GrantFeed, GrantService, Keeper, Publisher
from ostiary.grants.api import AccessApi
from ostiary.grants.base import DatabaseStore
from ostiary.grants.block_api import BlockApi
from ostiary.grants.blocking import BlockLog, BlockService
from ostiary.grants.blocklist import BoardBlocklist, UnblockedPolicy, blocked_meanwhile
from ostiary.grants.denials import DenialSeal, Invitations
from ostiary.grants.looking import Looking
from ostiary.grants.memory import BlockMemory
from ostiary.grants.own_host import OwnHost
from ostiary.grants.policy import AccessPolicy
from ostiary.grants.publisher import Listening, block_line
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import Bounds
from ostiary.grants.webhooks.deliverer import WebhookFacts
from ostiary.interfaces import Blocklist, GrantKeeper, GrantReader, OpenExchanges, Reception, Recourse
from ostiary.models import Json
from ostiary.notifying import webhook_deliverer

_log = logging.getLogger("ostiary.grants")

_LOOK: Final = 0.05
"""Seconds between two looks at the board of a worker that no request makes look."""
DENIALS: Final = b"ostiary denials 1"
"""What their key is derived for. Tokens with other claims would have another number."""


class WorkerGrants:
    """What a worker has of it. Implements `app.Part`."""

    def __init__(
        self,
        config: Config,
        settings: Grants,
        *,
        audit: BlockLog,
        policy: AccessPolicy,
        clock: Clock,
        key: SigningKey,
    ) -> None:
        self._board = Board.attach(config.grant_board)
        self._store = grant_store(settings)
        memory = BlockMemory(config.block_memory)
        publisher = Publisher(self._store, self._board, clock=clock, deadline=settings.deadline, memory=memory)
        self._active = ActiveGrants(self._board, monotonic=clock.monotonic)
        self.service = GrantService(store=self._store, publisher=publisher, audit=audit, patience=settings.pending_for)
        self.reader: GrantReader = self._active
        self.keeper: GrantKeeper = Keeper(service=self.service, grants=self._active, clock=clock)
        own_host = OwnHost(config.own_host, url=None if settings.public_url is None else str(settings.public_url))
        seal = DenialSeal(key.derive(DENIALS), name=config.credential_issuer)
        self.recourse: Recourse = Invitations(seal=seal, own_host=own_host)
        self._blocks = BlockService(store=self._store, publisher=publisher, audit=audit)
        self.blocklist: Blocklist = BoardBlocklist(self._board, self._active)
        policy = UnblockedPolicy(policy, self.blocklist, clock=clock)
        blocks = BlockApi(service=self._blocks, policy=policy)
        self.reception: Reception = AccessApi(
            service=self.service, policy=policy, seal=seal, own_host=own_host, blocks=blocks
        )
        self._looking = Looking(self._look, name="blocks-look")

    def cut(self, exchanges: OpenExchanges) -> None:
        """From now on what is open is cut there when it is blocked."""
        blocked = self._active.blocked
        blocked.begun = lambda: exchanges.cut(lambda one: blocked.block_of(one) is not None, blocked_meanwhile)

    async def start(self) -> None:
        self._active.read()  # before requests come: of a hundred thousand grants it takes a second
        await self.service.start()
        await self._blocks.start()
        self._looking.start(every=_LOOK)

    async def _look(self) -> None:
        """What is open is cut, whether or not there are requests."""
        self._active.look()

    async def close(self) -> None:
        await self._looking.close()
        await self._blocks.close()
        await self.service.close()
        await self._store.close()
        self._active.close()
        self._board.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantParts:
    """`open` is None where nothing can be granted."""

    blocklist: Blocklist
    reader: GrantReader
    keeper: GrantKeeper
    reception: Reception
    recourse: Recourse
    open: WorkerGrants | None = None

    def cut(self, exchanges: OpenExchanges) -> None:
        if self.open is not None:
            self.open.cut(exchanges)


def worker_grants(
    config: Config, *, audit: BlockLog, policy: AccessPolicy, clock: Clock, key: SigningKey
) -> GrantParts:
    """`key` is the one that replicas share: what one of them seals, each of them opens."""
    if config.grants is None:
        return GrantParts(
            blocklist=NoBlocklist(),
            reader=NoGrants(),
            keeper=NoKeeper(),
            reception=NoReception(),
            recourse=NoRecourse(),
        )
    found = WorkerGrants(config, config.grants, audit=audit, policy=policy, clock=clock, key=key)
    return GrantParts(
        blocklist=found.blocklist,
        reader=found.reader,
        keeper=found.keeper,
        reception=found.reception,
        recourse=found.recourse,
        open=found,
    )


class MachineGrants:
    """What the supervisor has of it: the board, the feed that keeps it, and who is told.

    Raises `ConfigurationError` for what cannot be used of `grants.webhooks`."""

    def __init__(self, config: Config, settings: Grants, *, clock: Clock) -> None:
        # By itself: where that waits for the disk, whether the store is there must be known all the same.
        self._outbox = grant_store(settings)
        self._webhooks = webhook_deliverer(config, self._outbox)
        self._store = grant_store(settings)
        self._board = Board.create(config.grant_board)
        self._clock = clock
        self._memory = BlockMemory(config.block_memory)
        self._heard_at: float | None = None
        self._recall()
        publisher = Publisher(self._store, self._board, clock=clock, deadline=settings.deadline, memory=self._memory)
        listening = self._store if isinstance(self._store, Listening) else None
        self._feed = GrantFeed(publisher, self._store, listening=listening, heard=self._heard)

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


def grant_store(settings: Grants) -> DatabaseStore:
    """Not opened yet. Raises `ConfigurationError` if the extra that it takes is not installed."""
    url = settings.url.get_secret_value()
    bounds = Bounds(
        time_per_day=settings.time_per_day,
        requests_per_day=settings.requests_per_day,
        keep_ended=settings.keep_ended,
    )
    if url.startswith(SQLITE):
        return SqliteStore(Path(url.removeprefix(SQLITE)), bounds=bounds, deadline=settings.deadline)
    try:
        from ostiary.grants.postgresql import PostgresStore
    except ModuleNotFoundError as error:
        raise ConfigurationError(["grants.url: PostgreSQL takes pip install 'ostiary[postgresql]'"]) from error
    return PostgresStore(url, bounds=bounds, deadline=settings.deadline)
