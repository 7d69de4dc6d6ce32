"""Clients that ask all the time and never ask twice: what they do not get, somebody has lost.

Each does what HTTP/1.1 lets it do and no more: it sends on a connection until an answer says that it was the last, and
then opens another. A connection that cannot be opened, or ends before its answer, is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from support.forwarding import Client, connected

PATIENCE = 60.0
"""Seconds for an answer: a proxy that is just starting may keep a client waiting, and not for ever."""

PAUSE = 0.01
"""Seconds that a client takes between two requests: together they ask a thousand times a second, and leave those who
start meanwhile some of the machine."""


@dataclass
class Load:
    """What came of the requests so far. `lasts` were answers that said that they were the last."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lasts: int = 0

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    async def more(self, count: int) -> None:
        """Return once so many more were answered."""
        goal = self.answered + count
        async with asyncio.timeout(PATIENCE):
            while self.answered < goal:  # noqa: ASYNC110 - the counter is no event
                await asyncio.sleep(0.01)


@asynccontextmanager
async def under_load(
    port: int,
    request: Callable[[], bytes],
    *,
    kept: int = 8,
    short: int = 4,
    pause: float = PAUSE,
    until_last: bool = False,
) -> AsyncIterator[Load]:
    """Clients on 127.0.0.1:`port`: `kept` keep their connections, `short` open one for each request.

    With `until_last` a client is done when it is told that an answer was the last.
    """
    load, stopping = Load(), asyncio.Event()

    async def keeps() -> None:
        while not stopping.is_set():
            async with connected(port) as client:
                while not stopping.is_set():
                    if not await ask(client, load, request()):
                        break
                    await asyncio.sleep(pause)
            if until_last:
                return

    async def opens() -> None:
        while not stopping.is_set():
            async with connected(port) as client:
                await ask(client, load, request())
            await asyncio.sleep(pause)

    async def counted(work: Callable[[], Awaitable[None]]) -> None:
        while not stopping.is_set():
            try:
                await work()
            except (OSError, EOFError, TimeoutError) as error:
                load.failures.append(repr(error))
            else:
                return

    tasks = [asyncio.create_task(counted(keeps)) for _ in range(kept)]
    tasks += [asyncio.create_task(counted(opens)) for _ in range(short)]
    try:
        yield load
    finally:
        stopping.set()
        _, late = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in late:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        load.failures += [f"{len(late)} clients wait for ever"] * bool(late)


async def ask(client: Client, load: Load, request: bytes) -> bool:
    """Send one request; whether another may follow on the connection."""
    async with asyncio.timeout(PATIENCE):
        await client.send(request)
        answer = await client.response()
    load.statuses[answer.status] += 1
    last = "close" in answer.values("connection")
    load.lasts += last
    return not last
