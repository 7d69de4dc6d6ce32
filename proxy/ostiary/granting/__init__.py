"""Just-in-time access, for a worker and for the supervisor: the store that is configured, and the board of the machine.

The supervisor makes the board and keeps it up to date (`machine`); workers read it (`worker`). Whoever changes a grant
does so in the store and publishes it by itself. What both take is imported where grants are configured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostiary.access import NoBlocklist, NoGrants, NoKeeper, NoReception, NoRecourse
from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.credential import SigningKey
from ostiary.interfaces import Blocklist, GrantKeeper, GrantReader, OpenExchanges, Reception, Recourse

if TYPE_CHECKING:  # else it is imported by a worker where there are grants
    from ostiary.granting.worker import WorkerGrants
    from ostiary.grants.blocking import BlockLog
    from ostiary.grants.policy import AccessPolicy


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
    from ostiary.granting.worker import WorkerGrants

    found = WorkerGrants(config, config.grants, audit=audit, policy=policy, clock=clock, key=key)
    return GrantParts(
        blocklist=found.blocklist,
        reader=found.reader,
        keeper=found.keeper,
        reception=found.reception,
        recourse=found.recourse,
        open=found,
    )
