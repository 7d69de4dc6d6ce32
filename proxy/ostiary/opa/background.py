"""What goes on beside the requests for as long as it is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import TracebackType
from typing import Final, Self

_log = logging.getLogger("ostiary.background")

_PAUSE: Final = 1.0
"""Seconds before it is begun again."""


class Background:
    """Runs `_run` in a task called `_name` while it is open (`async with`), and ends it by cancelling. What nobody
    foresaw is logged, and it is begun again."""

    _name: str
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_running(), name=self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_running(self) -> None:
        while True:
            try:
                await self._run()
            except Exception:  # noqa: BLE001 - nobody waits for this task: what ends it would be seen by nobody
                _log.exception("%s failed, and is begun again", self._name)
            else:
                return
            await asyncio.sleep(_PAUSE)

    async def _run(self) -> None:
        raise NotImplementedError
