"""Just-in-time access, for a worker and for the supervisor: the store that is configured, and the board of the machine.

The supervisor makes the board and keeps it up to date (`GrantFeed`); workers read it. Whoever changes a grant does so
in the store and publishes it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.access import NoGrants, NoKeeper, NoReception, NoRecourse
from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.config.fields import SQLITE
from ostiary.config.model import Grants
from ostiary.credential import SigningKey
from ostiary.errors import ConfigurationError
from ostiary.grants import ActiveGrants, Board, GrantFeed, GrantService, Keeper, Publisher
from ostiary.grants.api import AccessApi
from ostiary.grants.base import DatabaseStore
from ostiary.grants.denials import DenialSeal, Invitations
from ostiary.grants.own_host import OwnHost
from ostiary.grants.policy import AccessPolicy
from ostiary.grants.publisher import Listening
from ostiary.grants.service import StepLog
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import Bounds
from ostiary.grants.webhooks.deliverer import WebhookFacts
from ostiary.interfaces import GrantKeeper, GrantReader, Reception, Recourse
from ostiary.notifying import webhook_deliverer

DENIALS: Final = b"ostiary denials 1"
"""What their key is derived for. Tokens with other claims would have another number."""


class WorkerGrants:
    """What a worker has of it. Implements `app.Part`."""

    def __init__(
        self,
        config: Config,
        settings: Grants,
        *,
        audit: StepLog,
        policy: AccessPolicy,
        clock: Clock,
        key: SigningKey,
    ) -> None:
        self._board = Board.attach(config.grant_board)
        self._store = grant_store(settings)
        publisher = Publisher(self._store, self._board, clock=clock, deadline=settings.deadline)
        self._active = ActiveGrants(self._board, monotonic=clock.monotonic)
        self.service = GrantService(store=self._store, publisher=publisher, audit=audit, patience=settings.pending_for)
        self.reader: GrantReader = self._active
        self.keeper: GrantKeeper = Keeper(service=self.service, grants=self._active, clock=clock)
        own_host = OwnHost(config.own_host, url=None if settings.public_url is None else str(settings.public_url))
        seal = DenialSeal(key.derive(DENIALS), name=config.credential_issuer)
        self.recourse: Recourse = Invitations(seal=seal, own_host=own_host)
        self.reception: Reception = AccessApi(service=self.service, policy=policy, seal=seal, own_host=own_host)

    async def start(self) -> None:
        self._active.read()  # before requests come: of a hundred thousand grants it takes a second
        await self.service.start()

    async def close(self) -> None:
        await self.service.close()
        await self._store.close()
        self._active.close()
        self._board.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantParts:
    """`open` is None where nothing can be granted."""

    reader: GrantReader
    keeper: GrantKeeper
    reception: Reception
    recourse: Recourse
    open: WorkerGrants | None = None


def worker_grants(config: Config, *, audit: StepLog, policy: AccessPolicy, clock: Clock, key: SigningKey) -> GrantParts:
    """`key` is the one that replicas share: what one of them seals, each of them opens."""
    if config.grants is None:
        return GrantParts(reader=NoGrants(), keeper=NoKeeper(), reception=NoReception(), recourse=NoRecourse())
    found = WorkerGrants(config, config.grants, audit=audit, policy=policy, clock=clock, key=key)
    return GrantParts(
        reader=found.reader, keeper=found.keeper, reception=found.reception, recourse=found.recourse, open=found
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
        publisher = Publisher(self._store, self._board, clock=clock, deadline=settings.deadline)
        listening = self._store if isinstance(self._store, Listening) else None
        self._feed = GrantFeed(publisher, self._store, listening=listening)

    @property
    def error(self) -> str | None:
        """Why no grant counts, None if they do."""
        return self._feed.error

    @property
    def webhooks(self) -> tuple[WebhookFacts, ...]:
        """How it goes with each who is told."""
        return () if self._webhooks is None else self._webhooks.facts

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
