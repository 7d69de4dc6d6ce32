"""The audit in memory, for tests: the same records and the same lines, as documents."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import orjson

from ostiary.audit.forwarded import Parts
from ostiary.audit.lines import Timestamps, render
from ostiary.audit.record import ExchangeRecord, parser_refusal
from ostiary.clock import Clock, SystemClock
from ostiary.errors import AccessError, AuditUnavailable
from ostiary.exchange import Exchange
from ostiary.interfaces import Record
from ostiary.models import Owner


class MemoryAuditLog:
    """An `AuditLog` that keeps what it is given in `documents`. While `available` is False nothing can be committed."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._stamps = Timestamps()
        self._parts = Parts()
        self.available = True
        self.documents: list[dict[str, Any]] = []

    def record(self, exchange: Exchange) -> AbstractContextManager[Record]:
        return ExchangeRecord(exchange, self, self._parts)

    def refused(
        self,
        refusal: AccessError,
        *,
        decision_id: str,
        peer: str | None,
        method: str | None = None,
        target: bytes | None = None,
        host: bytes | None = None,
    ) -> None:
        document = parser_refusal(
            refusal, decision_id=decision_id, now=self.now(), peer=peer, method=method, target=target, host=host
        )
        self.post(render(document), refusal.reason)

    # The ledger of its records.

    def now(self) -> str:
        return self._stamps.format(self._clock.now())

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def admits(self, entry: str, owner: Owner | None) -> bool:
        return True

    async def commit(self, line: bytes) -> None:
        if not self.available:
            raise AuditUnavailable("made unavailable")
        self.post(line, "decision")

    def post(self, line: bytes, entry: str, *, stranger: bool = False) -> None:
        self.documents.append(orjson.loads(line))
