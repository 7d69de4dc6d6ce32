"""Groups of lines, written by one thread, so that no disk is waited for on the event loop.

Lines that come while a group is being written form the next one: the busier the proxy, the larger the groups and the
fewer the wake-ups. All state belongs to the event loop; the thread is handed one list of lines at a time and
answers with one `call_soon_threadsafe`.

Three things can happen to a committed line: its group is written, and the commit returns; its group fails, or does not
return by the deadline, and the commit raises. From then on commits raise at once, until a group is written again. A
group that failed is tried again, without its committed lines (nobody is waiting for them any more), with a back-off.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ostiary.errors import AuditUnavailable

_log = logging.getLogger("ostiary.audit")

_FIRST_RETRY: Final = 0.05  # seconds, doubled up to the last
_LAST_RETRY: Final = 2.0
_COMMIT_SHARE: Final = 0.75  # of the queue; the rest is for the completions of what was already let through


class Sink(Protocol):
    """Where groups of lines are written. Used by one thread; may block."""

    def open(self) -> None:
        """Make ready. Raises OSError."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Return once all lines are safe; after an OSError none counts as written."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Outage:
    """A time in which nothing could be recorded: since when (loop time, seconds), why, and how many were refused."""

    since: float
    error: str
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Preface:
    """The line that tells of an outage, when it was rendered (loop time, seconds), and how many it counts."""

    line: bytes
    rendered: float
    refused: int


class _Group:
    __slots__ = ("due", "lines", "preface", "size", "waiters")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.waiters: list[tuple[int, asyncio.Future[None]]] = []  # by index of their line
        self.size = 0
        self.due = math.inf  # the loop's time, in seconds, by which its first commit has to be written
        self.preface: _Preface | None = None

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)

    def release(self) -> None:
        """The lines are written."""
        for _, waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    def refuse(self, detail: str, *, forget: bool = True) -> int:
        """Refuse those who wait and forget their lines. How many they were."""
        for _, waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(AuditUnavailable(detail))
        gone = {index for index, _ in self.waiters}
        self.waiters.clear()
        if forget and gone:
            self.lines = [line for index, line in enumerate(self.lines) if index not in gone]
            self.size = sum(map(len, self.lines))
        return len(gone)


class GroupWriter:
    """`deadline` and `linger` are in seconds, `capacity` in bytes of lines not yet written.

    `linger` is how long a line that nobody waits for may wait for company. `outage_line` renders what is written first
    when writing works again.
    """

    def __init__(
        self,
        *,
        sink: Sink,
        deadline: float,
        capacity: int,
        linger: float,
        outage_line: Callable[[Outage, float], bytes],
    ) -> None:
        self._sink = sink
        self._deadline = deadline
        self._capacity = capacity
        self._linger = linger
        self._outage_line = outage_line
        self._pending = _Group()
        self._in_flight: _Group | None = None
        self._outage: Outage | None = None
        self._failing = False  # the last group failed: wait for the retry; otherwise an outage is a group that is late
        self._retry_in = _FIRST_RETRY
        self._retry: asyncio.TimerHandle | None = None
        self._dispatching = False
        self._lingering = False
        self._watch: asyncio.TimerHandle | None = None  # for the deadline of commits
        self._closing = True
        self._settled: asyncio.Event = asyncio.Event()
        self._work: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop
        self._thread_done: asyncio.Future[None]
        self.lines_written = 0
        self.bytes_written = 0

    @property
    def outage(self) -> Outage | None:
        return self._outage

    @property
    def backlog(self) -> int:
        """Bytes of lines not yet written."""
        return self._pending.size + (self._in_flight.size if self._in_flight is not None else 0)

    async def start(self) -> None:
        """Open the sink and start the thread. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._thread_done = self._loop.create_future()
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a disk that never answers must not keep the process from ending.
        threading.Thread(target=self._run, args=(opened,), name="ostiary-audit", daemon=True).start()
        await opened
        self._closing = False

    def commit(self, line: bytes) -> asyncio.Future[None]:
        """Done once the line is written. Raises `AuditUnavailable`, by the deadline at the latest."""
        if self._closing:
            raise AuditUnavailable("the audit is closed")
        if self._outage is not None:
            self._outage.refused += 1
            raise AuditUnavailable(self._outage.error)
        if self.backlog + len(line) > self._capacity * _COMMIT_SHARE:
            raise AuditUnavailable("the audit's queue is full")
        group = self._pending
        if not group.waiters:
            group.due = self._loop.time() + self._deadline
            # One timer, which looks what is due when it fires: setting and cancelling one for each group costs 1.5 µs.
            if self._watch is None:
                self._watch = self._loop.call_at(group.due, self._look)
        waiter = self._loop.create_future()
        group.waiters.append((len(group.lines), waiter))
        group.add(line)
        if not self._dispatching and self._in_flight is None:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)
        return waiter

    def offer(self, line: bytes, *, share: float) -> bool:
        """Write the line soon, if the backlog is below that share of the capacity."""
        if self._closing or self.backlog + len(line) > self._capacity * share:
            return False
        self._pending.add(line)
        if not self._lingering and not self._dispatching:
            self._lingering = True
            self._loop.call_later(self._linger, self._lingered)
        return True

    async def close(self) -> int:
        """Write what there is, by the deadline, and end. How many lines could not be written."""
        if self._closing:
            return 0
        self._closing = True
        self._cancel_retry()
        self._failing = False  # tried again at once, and until the deadline
        self._dispatch()
        try:
            async with asyncio.timeout(self._deadline):
                while self._in_flight is not None or self._pending.lines:
                    self._settled.clear()
                    await self._settled.wait()
                self._work.put(None)
                await self._thread_done
        except TimeoutError:
            self._cancel_retry()
            self._work.put(None)
        unwritten = len(self._pending.lines) + (len(self._in_flight.lines) if self._in_flight is not None else 0)
        self._pending.refuse("the audit is closed")
        if self._watch is not None:
            self._watch.cancel()
        return unwritten

    # On the event loop.

    def _lingered(self) -> None:
        self._lingering = False
        if self._pending.lines and not self._closing:
            self._dispatch()

    def _dispatch(self) -> None:
        self._dispatching = False
        if self._in_flight is not None or self._failing:
            return
        group = self._pending
        if self._outage is not None:
            now = self._loop.time()
            group.preface = _Preface(self._outage_line(self._outage, now), now, self._outage.refused)
        elif not group.lines:
            return
        self._pending = _Group()
        self._in_flight = group
        self._work.put(group.lines if group.preface is None else [group.preface.line, *group.lines])

    def _written(self, error: Exception | None) -> None:
        group, self._in_flight = self._in_flight, None
        self._settled.set()
        if group is None:
            return
        if error is not None:
            self._failed(group, error)
            return
        group.release()
        self.lines_written += len(group.lines)
        self.bytes_written += group.size
        if group.preface is not None and self._outage is not None:
            self._end_outage(self._outage, group.preface)
        if self._outage is not None or self._pending.lines:
            self._dispatch()

    def _failed(self, group: _Group, error: Exception) -> None:
        name = errno.errorcode.get(error.errno or 0, "EIO") if isinstance(error, OSError) else type(error).__name__
        outage = self._begin_outage(f"the audit cannot be written: {name}")
        outage.refused += group.refuse(outage.error) + self._pending.refuse(outage.error)
        for line in self._pending.lines:
            group.add(line)
        group.preface = None
        self._pending = group
        self._failing = True
        self._retry = self._loop.call_later(self._retry_in, self._try_again)
        self._retry_in = min(self._retry_in * 2, _LAST_RETRY)

    def _end_outage(self, outage: Outage, told: _Preface) -> None:
        self._outage = None
        self._retry_in = _FIRST_RETRY
        _log.warning("the audit is being written again")
        if outage.refused > told.refused:
            # Refused while the line that ends the outage was being written: it does not count them, so another does.
            rest = Outage(since=told.rendered, error=outage.error, refused=outage.refused - told.refused)
            self._pending.add(self._outage_line(rest, self._loop.time()))

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _try_again(self) -> None:
        self._retry = None
        self._failing = False
        self._dispatch()

    def _look(self) -> None:
        """The timer has fired: for commits that are late, or for those that it was set for and that are written."""
        self._watch = None
        due = min((group.due for group in (self._in_flight, self._pending) if group and group.waiters), default=None)
        if due is None:
            return
        if due <= self._loop.time():
            self._late()
        else:
            self._watch = self._loop.call_at(due, self._look)

    def _late(self) -> None:
        """A commit is not written by its deadline. Whoever waits is refused; what is being written may yet arrive."""
        outage = self._begin_outage(f"the audit was not written within {self._deadline:g} s", lasting=self._deadline)
        if self._in_flight is not None:
            outage.refused += self._in_flight.refuse(outage.error, forget=False)  # the thread has them all the same
        outage.refused += self._pending.refuse(outage.error)

    def _begin_outage(self, error: str, *, lasting: float = 0.0) -> Outage:
        if self._outage is None:
            self._outage = Outage(since=self._loop.time() - lasting, error=error)
            _log.error("%s: requests are refused until it can", error)
        else:
            self._outage.error = error
        return self._outage

    # In the thread.

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            self._sink.open()
        except OSError as error:
            self._tell(_settle, opened, error)
            return
        self._tell(_settle, opened, None)
        while (lines := self._work.get()) is not None:
            self._tell(self._written, self._append(lines))
        self._sink.close()
        self._tell(_settle, self._thread_done, None)

    def _append(self, lines: list[bytes]) -> Exception | None:
        try:
            self._sink.append(lines)
        except Exception as error:  # noqa: BLE001 - a thread that died would refuse requests for ever
            return error
        return None

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.debug("the event loop has ended before the audit's thread")


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return  # nobody waits any more
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
