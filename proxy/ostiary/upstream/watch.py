"""Deadlines without a timer per request: one tick looks at every exchange in flight.

A timer that is set and cancelled for each request, and a task that waits for its client to leave, cost more than the
forwarding itself. Most exchanges are over before the first tick sees them; those that are not get both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ostiary.errors import AccessError, ClientDisconnected, UpstreamTimeout
from ostiary.exchange import Exchange

TICK: Final = 0.05
"""Seconds between two looks: how late a deadline may be noticed, or a client's leaving."""


class Watched:
    """One exchange in flight, run by the task that made this.

    `abort` ends it from outside: the task is cancelled, and `refusal` says afterwards what for. `patience` is how many
    seconds of quiet are allowed now, and `impatient` makes the refusal when they are over. `total` seconds are allowed
    in all, from the request's first byte.
    """

    __slots__ = (
        "_cancelling",
        "_departure",
        "_task",
        "deadline",
        "exchange",
        "impatient",
        "patience",
        "quiet_since",
        "refusal",
        "uploading",
    )

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop, *, total: float) -> None:
        self.exchange = exchange
        self.quiet_since = now = loop.time()
        self.deadline = (now if exchange.began is None else exchange.began) + total
        self.patience = total
        self.impatient: Callable[[], AccessError] = _too_slow
        self.uploading = False
        self.refusal: AccessError | None = None
        self._task: asyncio.Task[Any] | None = asyncio.current_task(loop)
        self._cancelling = 0
        self._departure: asyncio.Task[None] | None = None

    def expect(self, patience: float, impatient: Callable[[], AccessError], now: float) -> None:
        """From now on something is to happen within `patience` seconds."""
        self.patience = patience
        self.impatient = impatient
        self.quiet_since = now

    def abort(self, refusal: AccessError) -> None:
        if self.refusal is None and self._task is not None:
            self.refusal = refusal
            self._cancelling = self._task.cancelling()
            self._task.cancel()

    def settle(self) -> AccessError | None:
        """Called with a cancellation in hand: the refusal that it stands for, or None if it came from elsewhere."""
        if self.refusal is None or self._task is None or self._task.uncancel() > self._cancelling:
            return None
        return self.refusal

    def look(self, now: float) -> None:
        if self.refusal is not None:
            return
        if now >= self.deadline:
            self.abort(UpstreamTimeout("the exchange took longer than it may in all"))
        elif not self.uploading:  # while it is, both directions have deadlines of their own
            if now - self.quiet_since >= self.patience:
                self.abort(self.impatient())
            elif self._departure is None:
                self._departure = asyncio.get_running_loop().create_task(self._await_departure())

    def end(self) -> None:
        self._task = None
        if self._departure is not None:
            self._departure.cancel()

    async def _await_departure(self) -> None:
        await self.exchange.wait_disconnect()
        if not self.exchange.response_complete:
            self.abort(ClientDisconnected())


class Watch:
    """Looks at what it is given every `TICK` seconds, and stops ticking while there is nothing to look at.

    `sweep` is called at each tick too, for whatever else has an age; it returns whether it has more to do.
    """

    def __init__(self, *, sweep: Callable[[float], bool]) -> None:
        self._sweep = sweep
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, watched: Watched, loop: asyncio.AbstractEventLoop) -> None:
        self._watched.add(watched)
        if self._timer is None:
            self._timer = loop.call_later(TICK, self._tick, loop)

    def discard(self, watched: Watched) -> None:
        self._watched.discard(watched)
        watched.end()
        if self._emptied is not None and not self._watched and not self._emptied.done():
            self._emptied.set_result(None)

    async def empty(self) -> None:
        """Return once nothing is in flight any more."""
        if self._watched:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def abort_all(self, refusal: Callable[[], AccessError]) -> None:
        for watched in self._watched:
            watched.abort(refusal())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for watched in self._watched:
            watched.look(now)
        more = self._sweep(now)
        self._timer = loop.call_later(TICK, self._tick, loop) if more or self._watched else None


def _too_slow() -> AccessError:
    return UpstreamTimeout("the exchange took longer than it may in all")
