"""How many lines strangers may cause, and what is counted in place of the lines that were left out."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Quota:
    """A token bucket: `rate` lines a second, `burst` at once. `now` is monotonic, in seconds."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, *, rate: float, burst: int) -> None:
        if rate < 0 or burst < 0:
            raise ValueError("a quota is not negative")
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._since: float | None = None

    def take(self, now: float) -> bool:
        if self._since is not None:
            self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Losses:
    """Lines that were not written, counted by what they would have said. The names are those of the reasons and kinds.

    `over_quota` are strangers beyond their quota, `no_room` are lines that found the queue full.
    """

    __slots__ = ("no_room", "over_quota", "since", "total")

    def __init__(self) -> None:
        self.over_quota: Counter[str] = Counter()
        self.no_room: Counter[str] = Counter()
        self.since: str | None = None
        self.total = 0

    def count(self, entries: Counter[str], entry: str, now: str) -> None:
        entries[entry] += 1
        self.total += 1
        if self.since is None:
            self.since = now

    def document(self) -> dict[str, Any]:
        return {"since": self.since, "over_quota": dict(self.over_quota), "no_room": dict(self.no_room)}

    def reset(self) -> None:
        self.over_quota.clear()
        self.no_room.clear()
        self.since = None
