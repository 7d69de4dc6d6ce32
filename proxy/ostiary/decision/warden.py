"""Open exchanges, judged again for as long as they are open.

A request is decided when it arrives. What it opens can go on for an hour: a download, a stream of events, an upload, a
long poll. So whatever was let through and is not over stands on a decision that has to hold, and is cut when it does
not:

*Another bundle counts.* Each open exchange is put to the policy again, as it would be asked if it came now; the bundle
that counts has to allow it.

*A minute is over.* Then too: `hours` begin and end with the minute, and an organisation's rule may look at the time. By
this, too, nothing outlives a policy that has become stale.

*The identity ends*: the token or the certificate is accepted no longer. *The decision ends*, as that for a service does
which is only observed. Both are known beforehand, so nobody is asked. Of a grant's end the `GrantKeeper` knows.

*Somebody else knows better*, by `interfaces.OpenExchanges`.

Questions are batched with all others, and no identity has to have one left for them: who asks for too much would keep
what it has. They are so many at a time that those who wait to be let in are not late. Where no answer comes it is asked
again for `PATIENCE` seconds, after which nobody knows any more whether an exchange may go on, and it may not. A policy
that answers nobody is asked about one exchange at a time, and all that wait for it have waited as long as that one.

A request that is over before the next look costs a set one entry, and no timer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final

from ostiary.clock import Clock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.errors import (
    AccessError,
    IdentityInvalid,
    InternalError,
    PermissionMissing,
    PolicyStale,
    PolicyUnavailable,
    denial,
)
from ostiary.exchange import GRANT_EXPIRES, Exchange
from ostiary.interfaces import Authorizer, RequestBuilder
from ostiary.models import AccessRequest, Decision, Identity

_log = logging.getLogger("ostiary.decision")

PATIENCE: Final = 10.0
"""Seconds for which an exchange goes on that the policy cannot be asked about."""
_LOOK: Final = 0.02
"""Seconds between two looks, while there is an open exchange."""
_PAUSE: Final = 0.25
"""Seconds before one is asked about again."""
_AT_ONCE: Final = 32
"""Questions under way: as many as one call to OPA takes."""


class Admitted:
    """Implements `interfaces.Underway`, and is the context that the exchange is open in.

    `asked`: the policy is being asked about it. `queued`: it is going to be, with a question that is not made yet, and
    waits for that since `due`. `failing`: it is asked in vain since then, None if it is not. Both are of the monotonic
    clock, in seconds.
    """

    __slots__ = (
        "_cancelling",
        "_ends",
        "_refusal",
        "_task",
        "_warden",
        "asked",
        "decision",
        "due",
        "exchange",
        "failing",
        "queued",
        "request",
    )

    def __init__(self, warden: PolicyWarden, exchange: Exchange, request: AccessRequest, decision: Decision) -> None:
        self._warden = warden
        self.exchange = exchange
        self.request = request
        self.decision = decision
        self.asked = self.queued = False
        self.due = 0.0
        self.failing: float | None = None
        self._ends: int | None = None
        self._refusal: AccessError | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    @property
    def over(self) -> bool:
        return self._task is None or self._refusal is not None

    def cut(self, refusal: AccessError) -> None:
        task = self._task
        if task is not None and self._refusal is None:
            self._refusal = refusal
            task.cancel()

    def stand_on(self, request: AccessRequest, decision: Decision) -> None:
        self.request, self.decision = request, decision
        self.failing = self._ends = None

    @property
    def ends(self) -> int:
        """The Unix second in which it ends by itself. Not worked out before it is asked for: most are over by then."""
        if self._ends is None:
            ends, decided = self.request.identity.ends_at, self.decision.expires_at
            self._ends = ends if decided is None else min(ends, decided)
        return self._ends

    def ended(self, second: int) -> AccessError | None:
        """Why it ends in that second, None if the policy has to be asked: a grant may have been extended."""
        if second >= self.request.identity.ends_at:
            return IdentityInvalid("it expired while the exchange was under way")
        if self.decision.grant is not None:
            return None
        reasons = self.decision.reasons or (PermissionMissing.reason,)
        return denial(reasons, "what let it through ended while the exchange was under way")

    def __enter__(self) -> Admitted:
        self._task = task = asyncio.current_task()
        self._cancelling = 0 if task is None else task.cancelling()  # now: it may be cancelled before it is cut
        self._warden.entered(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._warden.left(self)
        if self._refusal is None or task is None:
            return
        own = task.uncancel() <= self._cancelling
        self.exchange.own[:] = [each for each in self.exchange.own if each[0] != GRANT_EXPIRES]
        if own and kind is asyncio.CancelledError:
            raise self._refusal from None


class PolicyWarden:
    """Implements `interfaces.Warden` and `interfaces.OpenExchanges`; one per worker.

    `authorizer` answers the questions that `requests` makes anew, and refuses none: there are as many as exchanges are
    open. `horizon` knows which bundle counts.
    """

    def __init__(
        self, *, authorizer: Authorizer, requests: RequestBuilder, horizon: PolicyHorizon, clock: Clock
    ) -> None:
        self._authorizer = authorizer
        self._requests = requests
        self._horizon = horizon
        self._clock = clock
        self._open: set[Admitted] = set()
        self._due: deque[Admitted] = deque()
        self._asking: set[asyncio.Task[Any] | None] = set()
        self._failures = 0  # since the policy answered last
        self._failure: AccessError = PolicyUnavailable()  # the last of them
        self._silent = math.inf  # since when it answers nobody
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._revision = ""  # that counted when it was looked last
        self._second = 0  # of the last look
        self._late = False  # whether something came in since that stands on another bundle

    def admit(self, exchange: Exchange, request: AccessRequest, decision: Decision) -> Admitted:
        return Admitted(self, exchange, request, decision)

    def cut(self, concerns: Callable[[Identity], bool], refusal: Callable[[], AccessError]) -> int:
        concerned = self._concerned(concerns)
        for one in concerned:
            one.cut(refusal())
        return len(concerned)

    def judge(self, concerns: Callable[[Identity], bool]) -> int:
        concerned = self._concerned(concerns)
        self._ask_about(concerned)
        return len(concerned)

    def _concerned(self, concerns: Callable[[Identity], bool]) -> list[Admitted]:
        return [one for one in self._open if not one.over and concerns(one.request.identity)]

    def entered(self, one: Admitted) -> None:
        self._open.add(one)
        if self._timer is None:
            self._revision, self._second = self._counting(), math.floor(self._clock.now())
            self._look_later()
        if one.decision.revision != self._revision:  # it was asked before that counted
            self._late = True

    def left(self, one: Admitted) -> None:
        self._open.discard(one)

    # When

    def _counting(self) -> str:
        return str(self._horizon.latest)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._open:
            return
        self._look_later()
        revision = self._counting()
        if self._late or revision != self._revision:
            self._revision, self._late = revision, False
            self._ask_about(one for one in self._open if one.decision.revision != revision)
        second = math.floor(self._clock.now())
        if second != self._second:
            self._second = second
            self._time(second)

    def _time(self, second: int) -> None:
        """All that time ends, ends with a second."""
        minute = second - second % 60
        now = self._clock.monotonic()
        due = []
        for one in self._open:
            refusal = one.ended(second) if second >= one.ends else None
            if refusal is not None:
                one.cut(refusal)
            elif self._given_up(one, now):
                one.cut(self._unjudged())
            elif second >= one.ends or one.request.time < minute:
                due.append(one)
        self._ask_about(due)

    def _given_up(self, one: Admitted, now: float) -> bool:
        """Whether no answer came for too long: about this one, or about any while this one waits to be asked about."""
        if one.failing is not None:
            return now - one.failing >= PATIENCE
        return one.queued and now - max(one.due, self._silent) >= PATIENCE

    def _unjudged(self) -> AccessError:
        stale = isinstance(self._failure, PolicyStale)
        why = f"it could not be judged again for {PATIENCE:g} s: {self._failure.detail or self._failure.reason}"
        return PolicyStale(why) if stale else PolicyUnavailable(why)

    # Asking again

    def _ask_about(self, some: Iterable[Admitted]) -> None:
        now = self._clock.monotonic()
        for one in some:
            if one.queued or one.over:
                continue
            one.queued, one.due = True, now
            if not one.asked:
                self._due.append(one)
        self._begin()

    def _begin(self) -> None:
        most = _AT_ONCE if self._failures < _AT_ONCE else 1
        while self._due and len(self._asking) < most and not self._paused:
            asking = asyncio.create_task(self._ask(self._due.popleft()), name="ostiary-judging-again")
            self._asking.add(asking)

    async def _ask(self, one: Admitted) -> None:
        """About this one, and then about others for as long as some wait."""
        try:
            await self._judge(one)
            while self._due and not self._paused:
                await self._judge(self._due.popleft())
        finally:
            self._asking.discard(asyncio.current_task())

    async def _judge(self, one: Admitted) -> None:
        if one.over:
            return
        one.queued, one.asked = False, True
        answered = await self._answered(one)
        one.asked = False
        if not answered:
            one.queued = True
            asyncio.get_running_loop().call_later(_PAUSE, self._put, one)
        elif one.queued:
            self._put(one)

    def _put(self, one: Admitted) -> None:
        self._due.append(one)
        self._begin()

    async def _answered(self, one: Admitted) -> bool:
        """Do as the policy says. False if it says nothing, and the exchange may go on for a while."""
        try:
            request = self._requests.again(one.request, one.decision)
            decision = await self._authorizer.decide(request)
        except AccessError as unavailable:
            self._failed(one, unavailable)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            _log.exception("unforeseen error while exchange %s was judged again", one.exchange.id)
            self._failed(one, InternalError(type(error).__name__))
            return False
        if self._failures:
            self._failures, self._silent = 0, math.inf
            self._begin()
        if decision.allow is not True:
            one.cut(denial(decision.reasons, f"judged again, by the bundle {decision.revision}"))
            return True
        one.stand_on(request, decision)
        if decision.revision != self._counting():  # another one came to count meanwhile
            self._late = True
        return True

    def _failed(self, one: Admitted, failure: AccessError) -> None:
        self._failure = failure
        self._failures += 1
        self._silent = min(self._silent, self._clock.monotonic())
        if one.failing is None:  # it waited for that since then, asked or not
            one.failing = max(one.due, self._silent)
        if self._failures >= _AT_ONCE and not self._paused:
            self._paused = True
            asyncio.get_running_loop().call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self._begin()
