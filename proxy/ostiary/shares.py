"""What one may have of what all use: so much a second, and so much at a time.

Nothing here waits: who has had its share is told so at once, and whoever asks makes a refusal or a count of it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from ostiary.bounded import BoundedMap

K = TypeVar("K", bound=Hashable)


class Bucket:
    """A token bucket: `rate` come in a second, `burst` find room, and at first it is full. `now` is monotonic, in
    seconds."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if self.left(now) < 1:
            return False
        self._left -= 1
        return True

    def charge(self, now: float) -> None:
        """Take one whether there is one or not: what is owed has to come in first."""
        self.left(now)
        self._left -= 1

    def left(self, now: float) -> float:
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left


class Buckets(Generic[K]):
    """A `Bucket` for each key, of which the `capacity` used last are kept; one that is forgotten is full again."""

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, *, rate: float, burst: float, capacity: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: BoundedMap[K, Bucket] = BoundedMap(capacity)

    def __len__(self) -> int:
        return len(self._buckets)

    def known(self, key: K) -> Bucket | None:
        """The bucket of a key from which something was taken."""
        return self._buckets.get(key)

    def of(self, key: K, now: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = Bucket(rate=self._rate, burst=self._burst, now=now)
            self._buckets.put(key, bucket)
        return bucket


class Places(Generic[K]):
    """At most `share` places at a time for each key. Only keys that have one are remembered."""

    __slots__ = ("_share", "_taken")

    def __init__(self, share: int) -> None:
        self._share = share
        self._taken: dict[K, int] = {}

    def enter(self, key: K) -> bool:
        """Take a place, if the key has one left. Who entered leaves."""
        taken = self._taken.get(key, 0)
        if taken >= self._share:
            return False
        self._taken[key] = taken + 1
        return True

    def leave(self, key: K) -> None:
        taken = self._taken[key]
        if taken > 1:
            self._taken[key] = taken - 1
        else:
            del self._taken[key]


def half(places: int) -> int:
    """What one may have of these, so that the others have as much: at least one."""
    return max(places // 2, 1)
