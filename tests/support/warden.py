"""Exchanges that a warden has let through, without a proxy around them."""

from __future__ import annotations

import asyncio

from ostiary.decision.warden import PolicyWarden
from ostiary.errors import AccessError
from ostiary.models import AccessRequest, Decision
from support.audit import exchange


class Opened:
    """An exchange that goes on until it is cut; `refusal` says why it was."""

    def __init__(self, warden: PolicyWarden, request: AccessRequest, decision: Decision) -> None:
        self.refusal: AccessError | None = None
        self.task = asyncio.create_task(self._run(warden, request, decision))

    async def _run(self, warden: PolicyWarden, request: AccessRequest, decision: Decision) -> None:
        try:
            with warden.admit(exchange(), request, decision):
                await asyncio.Event().wait()
        except AccessError as refusal:
            self.refusal = refusal

    async def cut(self) -> AccessError:
        async with asyncio.timeout(30):
            await self.task
        if self.refusal is None:
            raise AssertionError("it ended by itself")
        return self.refusal

    async def goes_on(self) -> bool:
        """For as long as some looks and answers take."""
        await asyncio.wait([self.task], timeout=0.2)
        return not self.task.done()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
