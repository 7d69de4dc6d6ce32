"""Looking for what is due and for what is not recorded, again and again, whatever came of the look before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ostiary.errors import AuditUnavailable, GrantsUnavailable

_log = logging.getLogger("ostiary.grants")


class Tidying:
    """Calls `tidy` from `start` to `close`. That the store or the audit is away is no news here."""

    def __init__(self, tidy: Callable[[], Awaitable[None]], *, name: str) -> None:
        self._tidy = tidy
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self, *, every: float) -> None:
        """`every` is in seconds; the first look is after so many."""
        self._task = asyncio.create_task(self._run(every), name=self._name)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await self._tidy()
            except (GrantsUnavailable, AuditUnavailable):
                continue
            except Exception:  # noqa: BLE001 - nobody waits for this task: what ends it would be seen by nobody
                _log.exception("what is due, or not recorded, is looked for again")
