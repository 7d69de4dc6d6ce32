"""The load: connections to every worker that ask again and again, and remember when they were let through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.messages import get
from benchmarks.revoke.connection import PATIENCE, Answer, Connection, connected
from benchmarks.revoke.proxies import Proxy

PACE: Final = 0.002
"""Seconds between an answer and the next request of a connection."""
_STEADY: Final = 4
"""One connection in so many asks for what stands, as somebody to whom nothing is granted."""
ALLOWED: Final = 200
REFUSED: Final = 403


class Load:
    """`seen` is what was answered to requests for what is granted, in order; `wrong` what nothing explains."""

    def __init__(self, asked: bytes, steady: bytes) -> None:
        self._asked = asked
        self._steady = steady
        self._watches: list[_Watch] = []
        self._answered = asyncio.Event()
        self.seen: list[Answer] = []
        self.answers = 0
        self.wrong: list[str] = []

    @contextlib.asynccontextmanager
    async def on(self, proxy: Proxy, *, connections: int) -> AsyncIterator[None]:
        """So many connections, the same number to each worker, ask for as long as this is open."""
        made = [
            await connected(
                proxy.port,
                proxy.workers[number % len(proxy.workers)],
                workers=proxy.workers,
                asking=self._steady,
            )
            for number in range(connections)
        ]
        share = connections // _STEADY
        self._watches = [_Watch(one) for one in made[share:]]
        tasks = [asyncio.create_task(self._ask(watch)) for watch in self._watches]
        tasks += [asyncio.create_task(self._ask_steadily(_Watch(one))) for one in made[:share]]
        try:
            yield
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for one in made:
                one.close()
            for task in ended:
                task.result()  # it has failed

    async def _ask(self, watch: _Watch) -> None:
        while True:
            answer = await watch.connection.ask(self._asked)
            if answer.status not in (ALLOWED, REFUSED):
                self.wrong.append(f"{answer.status}: {answer.body.decode(errors='replace')}")
            self.answers += 1
            watch.last = answer
            self.seen.append(answer)
            self._answered.set()
            await watch.pause()

    async def _ask_steadily(self, watch: _Watch) -> None:
        while True:
            answer = await watch.connection.ask(self._steady)
            if answer.status != ALLOWED:
                self.wrong.append(f"{answer.status} for what is always allowed")
            self.answers += 1
            await watch.pause()

    async def until(self, moment: float, status: int) -> float:
        """Each connection asks at once, and has had this answer to what it sent after the moment. When the last had."""
        for watch in self._watches:
            watch.hurry()
        async with asyncio.timeout(PATIENCE):
            while True:
                last = [one for watch in self._watches if (one := watch.last) is not None and one.sent > moment]
                if len(last) == len(self._watches) and all(one.status == status for one in last):
                    return max(one.received for one in last)
                self._answered.clear()
                await self._answered.wait()


class _Watch:
    """A connection. `last` is the answer of its last request for what is granted."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.last: Answer | None = None
        self._idle: asyncio.Future[None] | None = None

    async def pause(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle = loop.create_future()
        timer = loop.call_later(PACE, self.hurry)
        try:
            await self._idle
        finally:
            timer.cancel()

    def hurry(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


def load_of(proxy: Proxy, *, asked: str = "/invoices/42") -> Load:
    """`web` asks for what is granted, `reporting` for what stands."""
    return Load(get(asked, proxy.issuer.token("web")), get("/orders/42", proxy.issuer.token("reporting")))
