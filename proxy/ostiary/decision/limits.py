"""How many decisions may be asked for at a time, by all and by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.errors import TooManyDecisions
from ostiary.interfaces import Authorizer
from ostiary.models import AccessRequest, Decision


@dataclass(slots=True)
class _Bucket:
    """Tokens of one identity, as they were at `at` (monotonic seconds)."""

    tokens: float
    at: float


class LimitedAuthorizer:
    """Puts an authorizer under a cap; stands beneath the cache, so that a hit costs nothing here.

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
        in_flight: int = 128,
        rate: float = 1000.0,
        burst: int = 2000,
        identities: int = 10_000,
    ) -> None:
        if in_flight < 1 or rate <= 0 or burst < 1:
            raise ValueError("the limits on decisions are numbers above 0")
        self._authorizer = authorizer
        self._clock = clock
        self._in_flight = in_flight
        self._share = max(in_flight // 2, 1)
        self._rate = rate
        self._burst = float(burst)
        self._buckets: BoundedMap[tuple[str, str], _Bucket] = BoundedMap(identities)
        self._count = 0
        self._counts: Counter[tuple[str, str]] = Counter()

    async def decide(self, request: AccessRequest) -> Decision:
        if self._count >= self._in_flight:
            raise TooManyDecisions(f"{self._count} decisions are under way")
        asker = (request.identity.issuer, request.identity.subject)
        if self._counts[asker] >= self._share:
            raise TooManyDecisions("this identity waits for more decisions than one may")
        self._spend(asker)
        self._count += 1
        self._counts[asker] += 1
        try:
            return await self._authorizer.decide(request)
        finally:
            self._count -= 1
            self._counts[asker] -= 1
            if not self._counts[asker]:
                del self._counts[asker]

    def _spend(self, key: tuple[str, str]) -> None:
        now = self._clock.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = _Bucket(self._burst, now)
            self._buckets.put(key, bucket)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens < 1:
            raise TooManyDecisions("this identity asks for more decisions than one may")
        bucket.tokens -= 1
