"""What a request that is let through by a grant costs it, and how long it may go on.

A grant that is good for so many uses gives one of them, once the request is about to be let through. And an exchange
that stands on a grant ends with it: a download, a stream of events, an upload that is under way when the grant is
revoked or dropped, when its time is up, or when the store is not heard of any more, is cut. One that took a use goes on
after the last use was taken, until the grant would have ended.

A response that comes in the last minutes of a grant says when it ends, so that a program can ask for more in time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from ostiary.clock import Clock
from ostiary.errors import GrantExpired
from ostiary.exchange import GRANT_EXPIRES
from ostiary.grants.active import ActiveGrants
from ostiary.grants.refusals import GrantRefused
from ostiary.grants.service import GrantService
from ostiary.interfaces import Underway
from ostiary.models import Grant

_LOOK: Final = 0.02
"""Seconds between two looks at the board, while there is an exchange that stands on a grant."""
_SOON: Final = 300
"""Seconds before its end from which on responses tell of it."""


@dataclass(slots=True, eq=False)
class _Held:
    """An exchange under way. `ends` is the second in which its grant ends, as far as was known last."""

    grant: Grant
    underway: Underway
    ends: int

    @property
    def over(self) -> bool:
        """Whether it has ended, or stands on something else by now."""
        return self.underway.over or self.underway.decision.grant != self.grant.id

    def cut(self, why: str) -> None:
        if not self.over:
            self.underway.cut(GrantExpired(["grant-expired"], f"{self.grant.id}: {why}"))


class Keeper:
    """Implements `GrantKeeper`. Exchanges that are over are let go of at the next look."""

    def __init__(self, *, service: GrantService, grants: ActiveGrants, clock: Clock) -> None:
        self._service = service
        self._grants = grants
        self._clock = clock
        self._held: defaultdict[str, set[_Held]] = defaultdict(set)
        self._timer: asyncio.TimerHandle | None = None
        grants.ended = self._ended

    async def take(self, underway: Underway) -> None:
        if underway.decision.grant is None:
            return
        grant = _named(underway)
        # It may have ended while the policy was asked, when nothing was held to be cut. From here to there nothing is
        # awaited.
        self._grants.look()
        ends = self._grants.end(grant)
        if self._grants.void or ends is None:
            raise GrantExpired(["grant-expired"], f"{grant.id}: it does not count any more")
        self._hold(_Held(grant, underway, grant.expires_at))
        if grant.counted:
            await self._use(grant)
        if ends - self._clock.now() <= _SOON:
            underway.exchange.own.append((GRANT_EXPIRES, formatdate(ends, usegmt=True).encode("ascii")))

    async def _use(self, grant: Grant) -> None:
        try:
            await self._service.use(grant.id)
        except GrantRefused as refusal:
            raise GrantExpired(["grant-expired"], f"{grant.id}: {refusal}") from refusal

    def _hold(self, one: _Held) -> None:
        self._held[one.grant.id].add(one)
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        self._let_go()
        if not self._held:
            return
        self._look_later()
        self._grants.look()
        now = self._clock.now()
        now = max(now, now + self._grants.ahead)
        for one in self._all():
            one.ends = self._grants.end(one.grant) or one.ends
            if self._grants.void:
                one.cut("the store is not heard of")
            elif now >= one.ends:
                one.cut("it ended while the exchange was under way")

    def _let_go(self) -> None:
        for id, several in tuple(self._held.items()):  # noqa: A001 - as a grant names it
            several -= {one for one in several if one.over}
            if not several:
                del self._held[id]

    def _ended(self, id: str | None) -> None:
        """The board says so. Where all was read anew, what is not there any more has ended."""
        if id is not None:
            for one in self._held.get(id, ()):
                one.cut("it was taken away while the exchange was under way")
        elif self._held:
            asyncio.get_running_loop().call_soon(self._compare)

    def _compare(self) -> None:
        for one in self._all():
            if self._grants.end(one.grant) is None:
                one.cut("it does not count any more")

    def _all(self) -> list[_Held]:
        return [one for several in self._held.values() for one in several]


def _named(underway: Underway) -> Grant:
    """The grant that allows this. Raises `GrantExpired` if it is none of those that were sent."""
    for grant in underway.request.grants:
        if grant.id == underway.decision.grant:
            return grant
    raise GrantExpired(["grant-expired"], "the policy named a grant that was not sent")
