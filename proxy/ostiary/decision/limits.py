"""How many decisions may be asked for at a time, by all and by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ostiary.clock import Clock
from ostiary.errors import TooManyDecisions
from ostiary.interfaces import Authorizer
from ostiary.models import AccessRequest, Decision, Owner
from ostiary.shares import Buckets, Places, half


class LimitedAuthorizer:
    """Puts an authorizer under a cap; stands beneath the cache, so that a hit costs nothing here. What the proxy asks
    by itself does not come here.

    At most `in_flight` decisions are under way, half of them for one identity, which gets at most `rate` a second with
    `burst` at once: else who asks for many at once leaves no place to others, for as long as its burst lasts.
    What is over is refused at once with `TooManyDecisions` (429), never queued and never let through.
    The buckets of the `identities` seen last are kept.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        clock: Clock,
        in_flight: int,
        rate: float,
        burst: int,
        identities: int = 10_000,
    ) -> None:
        if in_flight < 1 or rate <= 0 or burst < 1:
            raise ValueError("the limits on decisions are numbers above 0")
        self._authorizer = authorizer
        self._clock = clock
        self._in_flight = in_flight
        self._buckets: Buckets[Owner] = Buckets(rate=rate, burst=float(burst), capacity=identities)
        self._count = 0
        self._places: Places[Owner] = Places(half(in_flight))

    @property
    def in_flight(self) -> int:
        """Decisions that are under way."""
        return self._count

    @contextmanager
    def admitted(self, asker: Owner) -> Iterator[None]:
        """A place for one question of this identity, whatever is asked. Raises `TooManyDecisions`."""
        if self._count >= self._in_flight:
            raise TooManyDecisions(f"{self._count} decisions are under way")
        if not self._places.enter(asker):
            raise TooManyDecisions("this identity waits for more decisions than one may")
        self._count += 1
        try:
            now = self._clock.monotonic()
            if not self._buckets.of(asker, now).take(now):
                raise TooManyDecisions("this identity asks for more decisions than one may")
            yield
        finally:
            self._count -= 1
            self._places.leave(asker)

    async def decide(self, request: AccessRequest) -> Decision:
        with self.admitted(request.identity.owner):
            return await self._authorizer.decide(request)
