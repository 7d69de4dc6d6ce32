"""Looking for what is new, due or not recorded, again and again, whatever came of the look before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ostiary.errors import AuditUnavailable, GrantsUnavailable

_log = logging.getLogger("ostiary.grants")

_PAUSE: Final = 1.0
"""Seconds to wait longer after what nobody foresaw: it may be so at every look, and each is a traceback in the log."""


class Looking:
    """Calls `look` from `start` to `close`. That the store or the audit is away is no news here."""

    def __init__(self, look: Callable[[], Awaitable[None]], *, name: str) -> None:
        self._look = look
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
                await self._look()
            except (GrantsUnavailable, AuditUnavailable):
                continue
            except Exception:  # noqa: BLE001 - nobody waits for this task: what ends it would be seen by nobody
                _log.exception("%s failed, and is tried again", self._name)
                await asyncio.sleep(_PAUSE)
