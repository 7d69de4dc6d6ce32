"""Time, in one place. Policy sees whole seconds that never go backwards within a process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds. Never less than a value given before."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary instant, for durations and deadlines."""


class SystemClock:
    """The machine's clock, except that it is never set back: that would revive tokens and grants, or let them live on.

    Unix time runs ahead of the monotonic clock by an offset, which a step changes. The greatest offset seen counts, so
    a step forward is followed, and after a step back time goes on as if there had been none.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self.monotonic = monotonic
        self._offset = -math.inf

    def now(self) -> float:
        monotonic = self.monotonic()
        offset = self._wall() - monotonic
        if offset > self._offset:  # five times a request: `max` would cost half as much again
            self._offset = offset
        return monotonic + self._offset


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


def written_instant(seconds: int) -> str:
    """Whole Unix seconds as people write them: `2026-12-24T00:00:00Z`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
