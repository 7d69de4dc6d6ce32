"""What goes on beside the requests for as long as it is open."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Background:
    """Runs `_run` in a task called `_name` while it is open (`async with`), and ends it by cancelling."""

    _name: str
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        raise NotImplementedError
