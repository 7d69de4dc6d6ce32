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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from ostiary.clock import Clock
from ostiary.errors import GrantExpired
from ostiary.exchange import GRANT_EXPIRES, Exchange
from ostiary.grants.active import ActiveGrants
from ostiary.grants.refusals import GrantRefused
from ostiary.grants.service import GrantService
from ostiary.models import AccessRequest, Decision, Grant

_LOOK: Final = 0.02
"""Seconds between two looks at the board, while there is an exchange that stands on a grant."""
_SOON: Final = 300
"""Seconds before its end from which on responses tell of it."""


@dataclass(slots=True, eq=False)
class _Open:
    """An exchange under way. `ends` is the second in which its grant ends, as far as was known last."""

    grant: Grant
    scope: asyncio.Timeout
    ends: int
    why: str | None = None


class Keeper:
    """Implements `GrantKeeper`."""

    def __init__(self, *, service: GrantService, grants: ActiveGrants, clock: Clock) -> None:
        self._service = service
        self._grants = grants
        self._clock = clock
        self._open: defaultdict[str, set[_Open]] = defaultdict(set)
        self._timer: asyncio.TimerHandle | None = None
        grants.ended = self._ended

    async def take(self, request: AccessRequest, decision: Decision) -> None:
        grant = _named(request, decision)
        if not grant.counted:
            return
        try:
            await self._service.use(grant.id)
        except GrantRefused as refusal:
            raise GrantExpired(["grant-expired"], f"{grant.id}: {refusal}") from refusal

    @asynccontextmanager
    async def under(self, exchange: Exchange, request: AccessRequest, decision: Decision) -> AsyncIterator[None]:
        grant = _named(request, decision)
        # It may have ended while the policy was asked, when nothing was registered to be told. From here to there
        # nothing is awaited that takes time.
        self._grants.look()
        if self._grants.void or self._grants.end(grant) is None:
            raise GrantExpired(["grant-expired"], f"{grant.id}: it does not count any more")
        self._tell(exchange, grant)
        async with self._registered(grant) as one:
            try:
                async with one.scope:
                    yield
            except TimeoutError as error:
                if one.why is None:
                    raise  # somebody else's
                exchange.own[:] = [each for each in exchange.own if each[0] != GRANT_EXPIRES]
                raise GrantExpired(["grant-expired"], f"{grant.id}: {one.why}") from error

    def _tell(self, exchange: Exchange, grant: Grant) -> None:
        """Whether it ends soon, as far as is known now: it may have been extended since the policy was asked."""
        ends = self._grants.end(grant)
        if ends is not None and ends - self._clock.now() <= _SOON:
            exchange.own.append((GRANT_EXPIRES, formatdate(ends, usegmt=True).encode("ascii")))

    @asynccontextmanager
    async def _registered(self, grant: Grant) -> AsyncIterator[_Open]:
        one = _Open(grant, asyncio.timeout(None), grant.expires_at)
        self._open[grant.id].add(one)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)
        try:
            yield one
        finally:
            others = self._open[grant.id]
            others.discard(one)
            if not others:
                del self._open[grant.id]

    def _look(self) -> None:
        self._timer = None
        if not self._open:
            return
        self._grants.look()
        now = self._clock.now()
        now = max(now, now + self._grants.ahead)
        for one in self._all():
            one.ends = self._grants.end(one.grant) or one.ends
            if self._grants.void:
                _cut(one, "the store is not heard of")
            elif now >= one.ends:
                _cut(one, "it ended while the exchange was under way")
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _ended(self, id: str | None) -> None:
        """The board says so. Where all was read anew, what is not there any more has ended."""
        if id is not None:
            for one in tuple(self._open.get(id, ())):
                _cut(one, "it was taken away while the exchange was under way")
        elif self._open:
            asyncio.get_running_loop().call_soon(self._compare)

    def _compare(self) -> None:
        for one in self._all():
            if self._grants.end(one.grant) is None:
                _cut(one, "it does not count any more")

    def _all(self) -> list[_Open]:
        return [one for several in self._open.values() for one in several]


def _cut(one: _Open, why: str) -> None:
    if one.why is None:
        one.why = why
        one.scope.reschedule(asyncio.get_running_loop().time())


def _named(request: AccessRequest, decision: Decision) -> Grant:
    """The grant that allows this. Raises `GrantExpired` if it is none of those that were sent."""
    for grant in request.grants:
        if grant.id == decision.grant:
            return grant
    raise GrantExpired(["grant-expired"], "the policy named a grant that was not sent")
