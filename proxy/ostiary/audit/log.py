"""The audit in files: what the pipeline and the listener are given.

A forwarded request waits for its `decision` line; nothing else waits. Lines that nobody waits for are bounded: what
does not fit is counted, and the counts are written as a `lost` line. Strangers together have a quota of lines, and each
identity has one for what it is refused. A flood of either thus costs a quota and then one line per `report_interval`,
neither the disk nor the proxy's service to others. What was let through is recorded whatever there is of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal

from ostiary.audit.forwarded import Parts
from ostiary.audit.lines import SCHEMA, Timestamps, render
from ostiary.audit.losses import Losses
from ostiary.audit.record import Completed, ExchangeRecord, parser_refusal
from ostiary.audit.writer import GroupWriter, Outage, Sink
from ostiary.clock import Clock
from ostiary.errors import AccessError, AuditUnavailable
from ostiary.exchange import Exchange
from ostiary.interfaces import Record
from ostiary.models import Json, Owner
from ostiary.shares import Bucket, Buckets

_log = logging.getLogger("ostiary.audit")

_LINGER: Final = 0.01  # seconds that a completion may wait to share a write

# Shares of the queue that is left to each kind of line: the less one can do without it, the more it may fill.
_COMPLETIONS: Final = 1.0
_REFUSALS: Final = 0.5
_STRANGERS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHealth:
    """`error` is None while lines are written. `backlog` is in bytes; `lost` counts lines since the start."""

    writable: bool
    error: str | None
    backlog: int
    lines: int
    bytes: int
    lost: int


class FileAuditLog:
    """An `AuditLog` over a sink, which is `AuditFiles` outside tests.

    `worker` names this process in the lines that are about it. `deadline` is how long a request waits for its line
    (seconds), `queue_bytes` how much may wait to be written. `strangers_per_second` and `strangers_burst` bound the
    lines about requests without an identity, `refusals_per_second` and `refusals_burst` those about what one identity
    is refused, for each of the `identities` that were refused last. `report_interval` (seconds) is how often those left
    out are reported. `completed` is told of every exchange that has ended.
    """

    def __init__(
        self,
        *,
        sink: Sink,
        worker: str,
        clock: Clock,
        deadline: float = 1.0,
        queue_bytes: int = 8 << 20,
        strangers_per_second: float = 20.0,
        strangers_burst: int = 2000,
        refusals_per_second: float = 100.0,
        refusals_burst: int = 10_000,
        identities: int = 10_000,
        report_interval: float = 10.0,
        completed: Completed | None = None,
    ) -> None:
        if deadline <= 0 or queue_bytes < 1 or report_interval <= 0:
            raise ValueError("deadline, queue_bytes and report_interval are above zero")
        if min(strangers_per_second, strangers_burst, refusals_per_second, refusals_burst) < 0:
            raise ValueError("a quota is not negative")
        self._clock = clock
        self.monotonic = clock.monotonic
        self._worker = worker
        self._completed = completed
        self._report_interval = report_interval
        self._stamps = Timestamps()
        self._parts = Parts()
        self._strangers = Bucket(rate=strangers_per_second, burst=strangers_burst, now=clock.monotonic())
        self._identified: Buckets[Owner] = Buckets(rate=refusals_per_second, burst=refusals_burst, capacity=identities)
        self._losses = Losses()
        self._report: asyncio.TimerHandle | None = None
        self._closed = False
        self._writer = GroupWriter(
            sink=sink,
            deadline=deadline,
            capacity=queue_bytes,
            linger=_LINGER,
            outage_line=self._outage_line,
        )

    async def start(self) -> None:
        """Open the first file. Raises `AuditUnavailable` if that is not possible."""
        try:
            await self._writer.start()
        except OSError as error:
            raise AuditUnavailable(f"the audit cannot be opened: {error}") from error

    async def close(self) -> None:
        """Write what is queued, by the deadline. To be called when no request is left."""
        self._closed = True
        if self._report is not None:
            self._report.cancel()
            self._report_losses()
        if unwritten := await self._writer.close():
            _log.error("%d audit lines could not be written at the end", unwritten)

    def record(self, exchange: Exchange) -> AbstractContextManager[Record]:
        return ExchangeRecord(exchange, self, self._parts, self._completed)

    async def step(self, document: Mapping[str, Json], *, kind: Literal["grant", "block"] = "grant") -> None:
        """A step in the life of a grant, or of a block. Done once it is on disk; raises `AuditUnavailable`."""
        try:
            line = render({"schema": SCHEMA, "kind": kind, "time": self.now(), **document})
        except ValueError as error:
            raise AuditUnavailable(str(error)) from error
        await self._writer.commit(line)

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
        """Record what the listener refused before there was an exchange, as far as it was understood."""
        if not self.admits(refusal.reason, None):
            return
        document = parser_refusal(
            refusal, decision_id=decision_id, now=self.now(), peer=peer, method=method, target=target, host=host
        )
        self.post(render(document), refusal.reason, stranger=True)

    def health(self) -> AuditHealth:
        outage = self._writer.outage
        return AuditHealth(
            writable=outage is None,
            error=None if outage is None else outage.error,
            backlog=self._writer.backlog,
            lines=self._writer.lines_written,
            bytes=self._writer.bytes_written,
            lost=self._losses.total,
        )

    # The ledger of its records.

    def now(self) -> str:
        return self._stamps.format(self._clock.now())

    def admits(self, entry: str, owner: Owner | None) -> bool:
        now = self._clock.monotonic()
        quota = self._strangers if owner is None else self._identified.of(owner, now)
        if quota.take(now):
            return True
        self._lose(self._losses.by(owner), entry)
        return False

    def commit(self, line: bytes) -> Awaitable[None]:
        return self._writer.commit(line)

    def post(self, line: bytes, entry: str, *, stranger: bool = False) -> None:
        share = _COMPLETIONS if entry == "completion" else _STRANGERS if stranger else _REFUSALS
        if not self._writer.offer(line, share=share):
            self._lose(self._losses.no_room, entry)

    def _lose(self, entries: Counter[str], entry: str) -> None:
        self._losses.count(entries, entry, self.now())
        if self._report is None and not self._closed:
            self._report = asyncio.get_running_loop().call_later(self._report_interval, self._report_losses)

    def _report_losses(self) -> None:
        self._report = None
        line = render(
            {"schema": SCHEMA, "kind": "lost", "time": self.now(), "worker": self._worker, **self._losses.document()}
        )
        if self._writer.offer(line, share=_COMPLETIONS):
            self._losses.reset()
        elif not self._closed:
            self._report = asyncio.get_running_loop().call_later(self._report_interval, self._report_losses)

    def _outage_line(self, outage: Outage, now: float) -> bytes:
        until = self._clock.now()
        return render(
            {
                "schema": SCHEMA,
                "kind": "outage",
                "time": self._stamps.format(until),
                "worker": self._worker,
                "since": Timestamps().format(until - (now - outage.since)),
                "error": outage.error,
                "refused": outage.refused,
            }
        )
