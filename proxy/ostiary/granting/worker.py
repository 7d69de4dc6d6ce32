"""What a worker has of just-in-time access."""

from __future__ import annotations

from typing import Final

from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.config.model import Grants
from ostiary.credential import SigningKey
from ostiary.granting.stores import grant_store
from ostiary.grants import ActiveGrants, Board, GrantService, Keeper, Publisher
from ostiary.grants.api import AccessApi
from ostiary.grants.block_api import BlockApi
from ostiary.grants.blocking import BlockLog, BlockService
from ostiary.grants.blocklist import BoardBlocklist, UnblockedPolicy, blocked_meanwhile
from ostiary.grants.denials import DenialSeal, Invitations
from ostiary.grants.looking import Looking
from ostiary.grants.memory import BlockMemory
from ostiary.grants.own_host import OwnHost
from ostiary.grants.policy import AccessPolicy
from ostiary.interfaces import Blocklist, GrantKeeper, GrantReader, OpenExchanges, Reception, Recourse

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
