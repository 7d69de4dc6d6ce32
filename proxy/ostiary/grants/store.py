"""What a store of grants does, whichever it is. `open_store` finds the one that an address means.

A change is atomic, and durable when the call returns. All changes have one order: each takes a number from a counter,
under a lock that is held until it is committed, so that who has seen number n has seen all up to n. What time it is, is
the store's own to say, for all replicas: with PostgreSQL the server's clock, with SQLite that of the one machine.

Every method raises `GrantsUnavailable` if the store cannot be reached, or does not answer within its deadline; whether
a change was made is then not known, and asking with the same idempotency key, or looking, tells. What a transition
refuses (`GrantRefused`) is raised as it is, and nothing was changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from ostiary.grants.blocks import Block, BlockDraft, BlockSelection, BlockTransition
from ostiary.grants.life import Ruling, Transition
from ostiary.grants.records import Actor, Asked, Record, State
from ostiary.marks import Mark
from ostiary.models import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much there may be, None for no bound: of what one person may be granted in a day (UTC, seconds), of requests
    that one identity makes in a day, and for how many seconds a record is kept after its end."""

    time_per_day: int | None = None
    requests_per_day: int | None = None
    keep_ended: int | None = None


NO_BOUNDS: Final = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request that is not in the store yet. `patience` is how long it waits for approval (seconds)."""

    id: str
    asked: Asked
    patience: int
    ruling: Ruling | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records: all that fit what is given. Those changed last come first, at most `limit`, and only those that
    come after `before`, the change and id of the last one that was seen. To list them, a few thousand are looked
    at."""

    states: Sequence[State] = ()
    owner: Owner | None = None
    caller: str | None = None
    service: str | None = None
    endpoint: str | None = None
    approvers: frozenset[str] | None = None
    """Callers, one of whom is an approver."""
    review: bool = False
    """Those with an open review alone."""
    limit: int = 100
    before: tuple[int, str] | None = None

    def fits(self, record: Record) -> bool:
        """Of what is not looked for by the store itself."""
        asked = record.asked
        return (
            (self.endpoint is None or self.endpoint in asked.endpoints)
            and (self.approvers is None or not self.approvers.isdisjoint(asked.terms.approvers))
            and (not self.review or record.review == "open")
        )


class Held(NamedTuple):
    """A record as workers need it. `grant` is JSON text, None where nothing counts (any more), and `state` says why."""

    change: int
    id: str
    issuer: str
    subject: str
    grant: str | None
    state: str


class HeldBlock(NamedTuple):
    """A block as workers need it. `mark` is None where it is not in force any more."""

    id: str
    mark: Mark | None


class News(NamedTuple):
    """What was changed after a given change. `store` tells one store from another that took its place, `now` is its
    time in Unix seconds, `change` the last change that is in `held` or before, and that all `blocks` up to are in."""

    store: str
    now: float
    change: int
    held: Sequence[Held]
    blocks: Sequence[HeldBlock] = ()


class BlockStore(Protocol):
    async def block(self, draft: BlockDraft) -> Block:
        """Keep a block, or what becomes of the active one that the mark has."""

    async def change_block(self, id: str, transition: BlockTransition) -> Block:
        """The block after the transition. Raises `BlockUnknown`."""

    async def expire_blocks(self) -> list[Block]:
        """End what is due. Those that this call ended."""

    async def get_block(self, id: str) -> Block:
        """Raises `BlockUnknown`."""

    async def find_blocks(self, selection: BlockSelection) -> list[Block]: ...

    async def block_recorded(self, id: str, steps: int) -> None:
        """So many of its steps are in the audit."""

    async def unrecorded_blocks(self) -> list[Block]:
        """Those that have steps of which that is not known."""

    async def blocks_in_force(self) -> list[HeldBlock]: ...


class GrantStore(BlockStore, Protocol):
    async def start(self) -> None:
        """Connect, and bring the tables up to this version. Raises `ConfigurationError` if they are of a later one."""

    async def close(self) -> None: ...

    async def tables(self) -> int:
        """The version of the tables that are there, 0 if there are none. Looks without `start`, and makes nothing."""

    async def ask(self, draft: Draft) -> Record:
        """Keep a request, or find the one that was made with the same idempotency key."""

    async def asked(self, owner: Owner, idempotency_key: str) -> Record | None:
        """The request that this owner made with that key."""

    async def would_ask(self, draft: Draft) -> Record:
        """What would be made of a request now. Nothing is kept."""

    async def change(self, id: str, transition: Transition) -> Record:
        """The record after the transition. Raises `GrantUnknown`."""

    def change_all(self, selection: Selection, transition: Transition) -> AsyncGenerator[list[Record], None]:
        """Change all that wait or are active and are selected, and those that are used up before their time, some at a
        time: those of each step are durable when they are yielded. At the end there is none left, also of those that
        were asked for or approved meanwhile. One that is in another state than it takes stays as it is. Broken off and
        begun again, it goes on with what is left. `states`, `limit` and `before` say nothing here."""

    async def use(self, id: str) -> Record:
        """Take one use: of `max_uses`, exactly so many succeed, whoever asks at once."""

    async def expire(self) -> list[Record]:
        """End what is due. Those that this call ended."""

    async def prune(self) -> int:
        """Let go some of the records whose time is over. How many it were."""

    async def get(self, id: str, *, to: Actor | None = None) -> Record:
        """Raises `GrantUnknown`, also if it is neither theirs nor theirs to approve: that is told by nothing from one
        that is not there."""

    async def find(self, selection: Selection) -> list[Record]:
        """For a list: of a few thousand that changed last."""

    async def recorded(self, id: str, steps: int) -> None:
        """So many of its steps are in the audit."""

    async def all_recorded(self, marks: Sequence[tuple[str, int]]) -> None:
        """The same of several at once, by their ids."""

    async def unrecorded(self) -> list[Record]:
        """Those that have steps of which that is not known."""

    async def news(self, after: int) -> News:
        """What changed after that change; with 0, all that counts, or is in force."""


Told: TypeAlias = Callable[[float], float]
"""What becomes of the time that a store tells: itself, but in tests, which move it."""


def as_told(now: float) -> float:
    return now
