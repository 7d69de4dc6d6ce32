"""How many invalid tokens one address may send (SECURITY section 10).

Looking at a token costs a signature check, and every wrong one is a guess. So failures are counted for each peer; one
that has had its share gets `TooManyFailures` (429) and no answer about its token, until some of it has come back.

A good token costs nothing of it, and one that was proved before is found in the cache above this. But whoever shares an
address with somebody who floods it (a NAT, a load balancer) shares the refusal of what is not in that cache.
"""

from __future__ import annotations

from ostiary.addresses import owner
from ostiary.clock import Clock
from ostiary.errors import TooManyFailures
from ostiary.shares import Buckets


class FailureLimit:
    """`rate` failures a second for each peer, `burst` at once; the `peers` that failed last are remembered.

    A peer is an IPv4 address, or a /64 of IPv6.
    """

    def __init__(self, *, clock: Clock, rate: float = 100.0, burst: int = 1000, peers: int = 10_000) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("the limits on failures are numbers above 0")
        self._clock = clock
        self._buckets: Buckets[str] = Buckets(rate=rate, burst=float(burst), capacity=peers)

    def check(self, address: str) -> None:
        """Raise `TooManyFailures` if this peer has nothing left."""
        if not len(self._buckets):
            return
        bucket = self._buckets.known(owner(address))
        if bucket is not None and bucket.left(self._clock.monotonic()) < 1:
            raise TooManyFailures("invalid tokens from one address")

    def count(self, address: str) -> None:
        """This peer sent an invalid token."""
        now = self._clock.monotonic()
        self._buckets.of(owner(address), now).charge(now)
