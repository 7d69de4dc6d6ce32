"""An instant by which something has to happen, moved often and met seldom."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls `late()` once the instant last `set` has passed. Times are the loop's, in seconds.

    Moving a timer costs more than a request may spend on it, so one timer is left where it is and looks, when it
    fires, whether the instant has been moved away. Only an earlier instant than the timer's moves the timer.
    """

    __slots__ = ("_at", "_late", "_loop", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def set(self, seconds: float) -> None:
        """`late()` is due in so many seconds from now, whatever was set before."""
        at = self._at = self._loop.time() + seconds
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._fire)

    def clear(self) -> None:
        """Nothing is due."""
        self._at = math.inf

    def stop(self) -> None:
        """Nothing is due, nor ever will be: let go of the timer."""
        self._at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        at = self._at
        if at == math.inf:
            return
        if self._loop.time() < at:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._fire)
            return
        self._at = math.inf
        self._late()
