"""Remembering the credentials that are for one request only, until they have expired."""

from __future__ import annotations

import heapq
from threading import Lock
from typing import Protocol

from ostiary.clock import Clock, SystemClock
from ostiary.verify.refusals import VerificationUnavailable


class ReplayStore(Protocol):
    """What has been used. A service that runs in several processes, or on several machines, needs one that they
    share (a Redis `SET key 1 NX EXAT instant`, a table with a primary key): with one for each process, a credential
    works once in each."""

    async def spend(self, jti: str, expires_at: float) -> bool:
        """True for exactly one call with this `jti`, atomically; remembered until `expires_at` (Unix seconds).

        Whatever it raises stops the request. `VerificationUnavailable` does so with a 503.
        """


class MemoryReplayStore:
    """A `ReplayStore` of this process, which threads may share.

    Holds at most `capacity` credentials that have not expired. Forgetting one early would let it be used again, so
    when there is no room a new one is refused with a 503.
    """

    def __init__(self, *, capacity: int = 100_000, clock: Clock | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a replay store holds at least one credential, not {capacity}")
        self._capacity = capacity
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._used: set[str] = set()
        self._ends: list[tuple[float, str]] = []  # a heap: what ends first is first

    def __len__(self) -> int:
        return len(self._used)

    async def spend(self, jti: str, expires_at: float) -> bool:
        return self.first_use(jti, expires_at)

    def first_use(self, jti: str, expires_at: float) -> bool:
        """`spend`, for code that is not asynchronous."""
        now = self._clock.now()
        with self._lock:
            while self._ends and self._ends[0][0] <= now:
                self._used.discard(heapq.heappop(self._ends)[1])
            if jti in self._used:
                return False
            if len(self._used) >= self._capacity:
                raise VerificationUnavailable("there is no room to remember another single-use credential")
            self._used.add(jti)
            heapq.heappush(self._ends, (expires_at, jti))
            return True
