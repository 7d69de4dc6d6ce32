"""The blocks that are in force, as a worker knows them: in its own memory, by mark.

For a request that is one look at the board, to see whether anything is new, and one look-up for each mark of its
identity. It comes after the identity was proved and before anything else, so no cache of identities, decisions or
credentials is a way around it.

*Nothing lets go of a block* but the board's word that it is not in force any more. Where the board cannot be read, the
last known ones stay; where a journal takes the place of another, they stay until all of it was read. And as long as
there is something that was not read, be it the first time, nobody is let through: it may be about anybody.

*Who asks for something slowly* is looked at once more when all of it is there (`UnblockedPolicy`): what an approver or
an operator began to say before they were blocked, or while their token held, is not done after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ostiary.clock import Clock
from ostiary.errors import BlocksUnknown, IdentityBlocked, IdentityInvalid
from ostiary.grants.board import Board
from ostiary.grants.policy import NOTHING, About, AccessPolicy
from ostiary.interfaces import Blocklist
from ostiary.marks import Mark
from ostiary.models import AccessRequest, Identity, Json


class Blocked:
    """What is blocked. `begun` is called when there is more of it."""

    __slots__ = ("_anew", "_marks", "_more", "begun", "by_mark", "known")

    def __init__(self) -> None:
        self.known = False
        self.by_mark: dict[Mark, tuple[str, ...]] = {}
        self._marks: dict[str, Mark] = {}
        self._anew: dict[str, Mark] | None = {}
        self._more = False
        self.begun: Callable[[], object] = _nobody_asks

    def take(self, id: str, mark: Mark | None) -> None:
        """What the board says of a block. None: it is not in force any more."""
        if self._anew is not None:
            _put(self._anew, id, mark)
            return
        before = self._marks.get(id)
        if mark == before:
            return
        _put(self._marks, id, mark)
        if before is not None:
            ids = tuple(one for one in self.by_mark.pop(before) if one != id)
            self.by_mark |= {before: ids} if ids else {}
        if mark is not None:
            self.by_mark[mark] = (*self.by_mark.get(mark, ()), id)
            self._more = True

    def begin_anew(self) -> None:
        """A journal is read from its beginning: what is taken from now on replaces what there is, once it is whole."""
        self._anew = {}

    def settle(self) -> None:
        """All that was published has been taken."""
        if self._anew is not None:
            self._replace(self._anew)
        if self._more:
            self._more = False
            self.begun()

    def _replace(self, marks: dict[str, Mark]) -> None:
        self._marks, self._anew = marks, None
        self.by_mark = {}
        for id, mark in marks.items():  # noqa: A001
            self.by_mark[mark] = (*self.by_mark.get(mark, ()), id)
        self.known, self._more = True, bool(marks)

    def block_of(self, identity: Identity) -> tuple[str, Mark] | None:
        """The id of a block that this identity is under, and the mark; None if there is none."""
        for mark in identity.marks:
            if mark in self.by_mark:
                return self.by_mark[mark][0], mark
        return None


class Reader(Protocol):
    """Who reads the board into `blocked`, as far as `epoch`."""

    blocked: Blocked
    epoch: int

    def read(self) -> bool:
        """False if what is on the board cannot be told."""


class BoardBlocklist:
    """Implements `Blocklist`."""

    __slots__ = ("_blocked", "_board", "_reader")

    def __init__(self, board: Board, reader: Reader) -> None:
        self._board = board
        self._reader = reader
        self._blocked = reader.blocked

    def check(self, identity: Identity) -> None:
        current = self._board.epoch == self._reader.epoch or self._reader.read()
        if self._blocked.by_mark:
            found = self._blocked.block_of(identity)
            if found is not None:
                raise IdentityBlocked(f"{found[0]}: by its {found[1][0]}")
        if not (current and self._blocked.known):
            raise BlocksUnknown("the board cannot be read" if self._blocked.known else "the board was never read")


class UnblockedPolicy:
    """An `AccessPolicy` that has no answer for who was blocked since their request came, or whose identity has ended.
    It is asked when all is there that they have to say, and nothing is done without its answer."""

    def __init__(self, policy: AccessPolicy, blocklist: Blocklist, *, clock: Clock) -> None:
        self._policy = policy
        self._blocklist = blocklist
        self._clock = clock

    async def about(self, request: AccessRequest, asked: Mapping[str, Json] = NOTHING) -> About:
        """Raises what the policy does, `IdentityBlocked` and `IdentityInvalid`."""
        about = await self._policy.about(request, asked)
        if self._clock.now() >= request.identity.ends_at:
            raise IdentityInvalid("it expired while the request was under way")
        self._blocklist.check(request.identity)
        return about


def blocked_meanwhile() -> IdentityBlocked:
    return IdentityBlocked("it was blocked while the exchange was under way")


def _put(marks: dict[str, Mark], id: str, mark: Mark | None) -> None:
    if mark is None:
        marks.pop(id, None)
    else:
        marks[id] = mark


def _nobody_asks() -> None: ...
