"""Whose turn it is: one identity has half of a service's connections at most, and a line of its own for what is over.

Whoever sends or reads slowly, for as long as an exchange may last, leaves the other half to others, and nobody of them
stands behind its waiting requests.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ostiary.errors import TooManyRequests
from ostiary.models import Owner
from ostiary.shares import Places, half
from ostiary.upstream.settings import UpstreamSettings


class Turns:
    """The exchanges with one service, by who they are of. Who entered, or waited to, leaves."""

    __slots__ = ("_lines", "_longest", "_places", "_timeout")

    def __init__(self, settings: UpstreamSettings) -> None:
        self._places: Places[Owner] = Places(half(settings.max_connections))
        self._lines: dict[Owner, deque[asyncio.Future[None]]] = {}
        self._longest = settings.max_waiting // 2
        self._timeout = settings.wait_timeout

    def enter(self, owner: Owner) -> bool:
        """Begin an exchange, unless this identity has its share of them."""
        return owner not in self._lines and self._places.enter(owner)

    async def wait(self, owner: Owner) -> None:
        """Begin it when another one of this identity has ended.

        Raises `TooManyRequests` (429) when too many of them wait, or this one for too long.
        """
        line = self._lines.get(owner, deque())
        if len(line) >= self._longest:
            raise TooManyRequests("this identity has as many requests to the service under way as one may")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines[owner] = line
        line.append(turn)
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._forget(owner, turn)
            else:
                self.leave(owner)  # it came too late for this one
            if isinstance(error, TimeoutError):
                raise TooManyRequests("none of this identity's requests to the service ended in time") from None
            raise

    def leave(self, owner: Owner) -> None:
        """The exchange has ended: its place is the next one's of this identity."""
        while (line := self._lines.get(owner)) is not None:
            turn = line[0]
            self._forget(owner, turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._places.leave(owner)

    def _forget(self, owner: Owner, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(owner)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[owner]
