"""Time, in one place. Policy sees whole seconds that never go backwards within a process."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds. Never less than a value given before."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary instant, for durations and deadlines."""


class SystemClock:
    """The machine's clock, held when it is set back: a clock that steps back must revive no grant and no token."""

    def __init__(self) -> None:
        self._latest = 0.0

    def now(self) -> float:
        current = time.time()
        if current < self._latest:
            return self._latest
        self._latest = current
        return current

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock for tests: stands still until it is moved. Setting it back is held, as with the real one."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += max(seconds, 0.0)
        self._monotonic += max(seconds, 0.0)
